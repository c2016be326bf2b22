"""Studies that several tests read, and how a model reads with caches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hpo import spaces, studies
from hpo.optformer import relative

# The study of Table 1 of arXiv:2205.13320, as far as it is printed.
PAPER = studies.Study.of(
  studies.Problem(
    spaces.Space(
      (
        spaces.Float('opt_kw.lr', 1e-6, 1e-2, 'LOG'),
        spaces.Categorical('opt_type', ('SGD', 'Adam')),
      )
    ),
    name='convnet on cifar10',
    metric='accuracy',
    algorithm='random_search',
  ),
  [
    studies.Trial({'opt_kw.lr': 0.0021237573, 'opt_type': 'SGD'}, 0.69482429),
    studies.Trial({'opt_kw.lr': 0.00038292234, 'opt_type': 'Adam'}, 0.71642583),
  ],
)

MIXED = spaces.Space(
  (
    spaces.Float('x', -2.0, 3.0),
    spaces.Float('lr', 1e-4, 1e2, 'LOG'),
    spaces.Float('keep', 0.5, 0.99, 'REVERSE_LOG'),
    spaces.Int('n', -7, 992),
    spaces.Int('wide', 0, 5000),
    spaces.Discrete('d', (-0.5, 0.1, 1.2)),
    spaces.Categorical('c', ('a', 'b', 'é"')),
    spaces.Float('fixed', 2.0, 2.0),
  )
)


def study(rng, space=MIXED, count=12, **problem):
  """Uniform points and normal values."""
  return studies.Study(
    studies.Problem(space, algorithm='designer_random_search', **problem),
    space.sample(rng, count),
    rng.normal(size=count),
    np.zeros(count, np.int8),
  )


def drawn(model, *inputs, **options):
  """Random variables. `model.init` takes two seconds to compile."""
  rng = np.random.default_rng(0)
  init = functools.partial(model.init, jax.random.key(0))
  shapes = nn.unbox(jax.eval_shape(init, *inputs, **options))
  draw = lambda path, x: (
    jnp.ones(x.shape)
    if path[-1].key == 'scale'
    else jnp.float32(rng.normal(size=x.shape) / 4)
  )
  return jax.tree.map_with_path(draw, shapes)


def cached_logits(model, variables, metadata, ids, legal, lengths, *, steps):
  """Logits of bins after a history, three tokens more, and `steps` in branches.

  Args:
    model: reads.
    variables: its parameters.
    metadata: text, [b, s].
    ids: of trials, [b, l].
    legal: numbers of legal tokens, [b, d].
    lengths: of the histories, [b].
    steps: tokens that two branches of each study read, the same ones.

  Returns:
    [b, 1 + steps, q], from the position `lengths` + 2 on.
  """
  longest, rows = max(lengths), np.arange(len(ids))[:, None]
  after = lambda count: ids[rows, lengths[:, None] + np.arange(count)]
  capacity = ids.shape[1]
  branching = model.clone(attention=relative.Branches(model.attention))

  @jax.jit
  def read(variables, metadata, ids, legal, lengths, extension):
    run = functools.partial(branching.apply, variables)
    prefix = model.apply(
      variables,
      metadata,
      ids,
      lengths,
      capacity=capacity,
      legal=legal,
      method='start',
    )
    three = jnp.full(len(ids), 3)
    prefix = model.apply(variables, prefix, extension, three, method='extend')
    branch = run(prefix, 2, steps, method='fork')
    return prefix, branch, run(prefix.last, prefix, method='bin_logits')

  @jax.jit
  def step(variables, prefix, branch, token):
    run = functools.partial(branching.apply, variables)
    both = jnp.stack([token, token], axis=1)
    x, branch = run(prefix, branch, both, method='branch')
    return branch, run(x, prefix, branch, method='bin_logits')[:, 1]

  prefix, branch, logits = read(
    variables, metadata, ids[:, :longest], legal, lengths, after(3)
  )
  found = [logits]
  for token in after(3 + steps).T[3:]:
    branch, logits = step(variables, prefix, branch, token)
    found.append(logits)
  return np.stack(found, axis=1)
