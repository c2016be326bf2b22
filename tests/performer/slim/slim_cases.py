"""A stack that a user could have written, and its quadratic float64 twin.

Two layers of attention and an MLP between an embedding and an output map; the
twin is written from the formulas and imports nothing of the package.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from performer import attention, slim
from tests import seeds

VOCAB, WIDTH, HEADS, LAYERS = 7, 8, 2, 2
EPSILON = 1e-3


def favor(kernel='elu1', **options):
  if kernel.startswith('softmax'):
    return attention.Favor(kernel=kernel, features=16, **options)
  return attention.Favor(
    kernel=kernel,
    projection=False,
    features=None,
    kernel_epsilon=EPSILON,
    **options,
  )


def params(seed=0):
  rng = seeds.rng(seed)

  def draw(*shape, scale=1.0):
    scale = scale * shape[-2] ** -0.5
    return jnp.asarray(np.float32(scale * rng.standard_normal(shape)))

  layers = {name: draw(LAYERS, WIDTH, WIDTH) for name in ('q', 'k', 'v', 'mlp')}
  return {
    'embed': draw(VOCAB, WIDTH, scale=3.0),
    'layers': layers,
    'out': draw(WIDTH, VOCAB),
  }


def projections(mechanism):
  if not mechanism.projection:
    return None
  draw = functools.partial(
    mechanism.draw,
    seeds.key(4),
    step=0,
    num_heads=HEADS,
    head_dim=WIDTH // HEADS,
  )
  return jax.vmap(lambda i: draw(layer=i))(jnp.arange(LAYERS))


def inputs(seed=1, *, batch=2, length=21):
  rng = seeds.rng(seed)
  tokens = rng.integers(0, VOCAB, (batch, length + 1))
  # Padding in the middle too: it is not only for tails.
  return {
    'tokens': jnp.asarray(tokens[:, :-1], jnp.int32),
    'targets': jnp.asarray(tokens[:, 1:], jnp.int32),
    'weights': jnp.asarray(rng.random((batch, length)), jnp.float32),
    'mask': jnp.asarray(rng.random((batch, length)) < 0.9),
  }


def codes(positions):
  angles = positions[:, None] / 3.0 ** jnp.arange(WIDTH // 2)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def nll(logits, targets):
  logits = logits - logits.max(-1, keepdims=True)
  logits = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
  return -jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def chunk_loss(mechanism, params, state, chunk):
  batch = chunk.inputs
  x = params['embed'][batch['tokens']]
  x = x + codes(chunk.positions).astype(x.dtype)
  mask = batch['mask'] & chunk.valid

  def layer(x, inputs):
    p, state, w = inputs
    q, k, v = (
      (x @ p[name]).reshape(*x.shape[:2], HEADS, -1) for name in ('q', 'k', 'v')
    )
    y, state = mechanism.extend(
      q, k, v, projection=w, key_mask=mask, state=state
    )
    x = x + y.reshape(x.shape)
    return x + jnp.tanh(x @ p['mlp']), state

  x, state = jax.lax.scan(layer, x, (params['layers'], state, chunk.constants))
  losses = nll(x @ params['out'], batch['targets'])
  if 'weights' in batch:
    losses = losses * batch['weights']
  losses = jnp.where(chunk.valid, losses, 0)
  return losses.sum(), state, {'nll': losses.sum()}


def problem(mechanism, dtype=jnp.float32, loss=chunk_loss):
  def empty(batch):
    one = mechanism.empty_state(
      batch=batch, num_heads=HEADS, head_dim=WIDTH // HEADS, dtype=dtype
    )
    return jax.tree.map(lambda x: jnp.stack([x] * LAYERS), one)

  return slim.Problem(loss, mechanism, empty)


def _feature(kernel, x, w):
  if kernel == 'softmax_pos':
    x = x * x.shape[-1] ** -0.25
    norm = (x**2).sum(-1, keepdims=True) / 2
    return jnp.exp(jnp.einsum('blhd,md->blhm', x, w) - norm)
  functions = {
    'elu1': lambda u: jnp.where(u > 0, u + 1, jnp.exp(jnp.minimum(u, 0))),
    'square': lambda u: u * u,
    'relu': lambda u: jnp.maximum(u, 0),
  }
  return functions[kernel](x) + EPSILON


def dense_loss(params, batch, w, kernel):
  """The same loss, each layer by its whole attention matrix."""
  length = batch['tokens'].shape[1]
  x = params['embed'][batch['tokens']] + codes(jnp.arange(length))
  seen = jnp.tri(length, dtype=bool) & batch['mask'][:, None, None]
  for i in range(LAYERS):
    p = {name: matrix[i] for name, matrix in params['layers'].items()}
    q, k, v = (
      (x @ p[name]).reshape(*x.shape[:2], HEADS, -1) for name in ('q', 'k', 'v')
    )
    phi = [_feature(kernel, y, None if w is None else w[i]) for y in (q, k)]
    scores = jnp.where(seen, jnp.einsum('blhm,bjhm->bhlj', *phi), 0)
    total = scores.sum(-1, keepdims=True)
    scores = scores / jnp.where(total > 0, total, 1)
    y = jnp.einsum('bhlj,bjhd->blhd', scores, v)
    x = x + y.reshape(x.shape)
    x = x + jnp.tanh(x @ p['mlp'])
  losses = nll(x @ params['out'], batch['targets'])
  return (losses * batch['weights']).sum()


def double(tree):
  """Floating leaves as float64, under x64."""
  return jax.tree.map(
    lambda x: (
      jnp.asarray(np.asarray(x), jnp.float64)
      if jnp.issubdtype(x.dtype, jnp.floating)
      else x
    ),
    tree,
  )


def apart(one, two):
  """Relative distance of two trees, over all leaves."""
  pairs = [
    (np.asarray(x, np.float64), np.asarray(y, np.float64))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
  ]
  difference = sum(((x - y) ** 2).sum() for x, y in pairs) ** 0.5
  return difference / sum((y**2).sum() for _, y in pairs) ** 0.5
