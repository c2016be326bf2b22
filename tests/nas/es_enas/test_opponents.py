"""Searches of the whole space: numbers as decisions, and what they find."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from nas.es_enas import hybrid, opponents
from nas.es_enas import space as space_lib
from nas.es_enas.controllers import base, evolution, neat, uniform
from rl.es import bbob
from tests import marks, seeds

PROBLEM = jax.jit(
  lambda key: hybrid.draw(key, bbob.FUNCTIONS['Sphere'], 3, 2, 4)
)(seeds.key(0))
SPACE = opponents.mixed(PROBLEM)
REALS = SPACE.groups[0]


def test_numbers_as_decisions():
  values = jnp.float32([-5, -4.999999, -1.25, 0, 3.3, 5, 7, -9])
  part = REALS.decisions(values)
  assert part.dtype == jnp.int32
  np.testing.assert_allclose(
    REALS.values(part), np.clip(values, -5, 5), atol=1e-6
  )
  ends = REALS.values(jnp.array([0, REALS.options - 1]))
  np.testing.assert_allclose(ends, [-5, 5], atol=1e-6)
  every = jnp.arange(0, REALS.options, 4097)
  np.testing.assert_allclose(
    REALS.decisions(REALS.values(every)), every, atol=1
  )
  theta, chosen = opponents.split(
    SPACE, jnp.append(part[:3], jnp.array([1, 2]))
  )
  np.testing.assert_allclose(theta, values[:3], atol=1e-6)
  assert chosen.tolist() == [1, 2]


@pytest.mark.parametrize('step', [None, 0.5])
def test_mutations(step):
  """One coordinate changes: a number uniformly, or by a normal step."""
  space = opponents.mixed(PROBLEM, step)
  count = 4000
  parent = space.joined(
    {
      'theta': REALS.decisions(jnp.float32([0.0, 1.0, 4.8])),
      'categories': jnp.array([1, 2]),
    }
  )
  children = jax.jit(jax.vmap(space.mutate, (0, None)))(
    jax.random.split(seeds.key(1), count), parent
  )
  changed = np.asarray(children != parent)
  # A tiny step may round to the same decision.
  assert (changed.sum(1) <= 1).all()
  assert changed.any(1).mean() > 0.999 - 0.12 * (step is not None)
  np.testing.assert_allclose(changed.mean(0)[[0, 1, 3, 4]], 0.2, atol=0.03)
  theta, _ = opponents.split(space, children)
  moved = np.asarray(theta)[changed[:, 0], 0]
  expected = stats.uniform(-5, 10) if step is None else stats.norm(0, step)
  assert stats.kstest(moved, expected.cdf).pvalue > 1e-4
  other = stats.norm(0, 0.3) if step else stats.uniform(-5, 9)
  assert stats.kstest(moved, other.cdf).pvalue < 1e-4
  # Near the bound the step is clipped to it.
  assert np.abs(theta).max() <= 5 + 1e-5


def controllers(problem):
  return {
    'random': uniform.Random(opponents.mixed(problem)),
    'evolution': evolution.Evolution(opponents.mixed(problem)),
    'steps': evolution.Evolution(opponents.mixed(problem, 0.5), population=20),
    'neat': neat.Neat(opponents.mixed(problem)),
    'gradient': opponents.Gaussian.of(problem, optimizer=optax.adam(0.2)),
  }


def least():
  """The smallest value: the numbers at the optimum, the best of 16 categories."""
  every = np.array(list(itertools.product(range(4), repeat=2)), np.int32)
  evaluate = jax.jit(jax.vmap(PROBLEM.evaluate, (None, 0)))
  return float(np.asarray(evaluate(PROBLEM.shift, every)).min())


@functools.cache
def chance():
  """Values of uniform points, [8, 1500]."""

  @jax.jit
  @jax.vmap
  def run(key):
    return PROBLEM.evaluate(*PROBLEM.start(key))

  values = run(jax.random.split(seeds.key(3), 12_000))
  return np.asarray(values).reshape(8, -1)


@pytest.mark.parametrize(
  'name', ['random', 'evolution', *marks.slow('steps', 'neat', 'gradient')]
)
def test_searches(name):
  """Learning finds more than chance; a key gives one run; starts are alike."""
  controller = controllers(PROBLEM)[name]
  assert isinstance(controller, base.Controller)
  run = jax.jit(
    jax.vmap(
      lambda key: opponents.search(
        PROBLEM, controller, key, evaluations=1500, batch=30
      )
    )
  )
  keys = jax.random.split(seeds.key(2), 8)
  found = np.asarray(run(keys))
  assert found.shape == (8, 50)
  assert (np.diff(found) <= 0).all()
  np.testing.assert_array_equal(found, run(keys))
  assert len(np.unique(found[:, 0])) == 8
  # The least of 30 uniform points, and of 1500: what chance finds.
  if name != 'gradient':  # Its first points lie around its mean.
    first = chance().reshape(-1, 30).min(1)
    assert stats.ks_2samp(found[:, 0], first).pvalue > 1e-3
  end = np.median(found[:, -1]) - least()
  by_chance = np.median(chance().min(1)) - least()
  if name == 'random':
    assert end > by_chance / 4
  else:
    # NEAT keeps many small species here, and learns more slowly.
    share = 0.8 if name == 'neat' else 0.5
    assert end < share * by_chance, (end, by_chance)


def test_gradient_policy():
  """Log-densities and entropies are those of the two parts."""
  controller = opponents.Gaussian.of(PROBLEM, deviation=0.5)

  @jax.jit
  def run(key):
    """Parameters, a sample, its score and parts, and the parts of the mode."""
    params_key, key = jax.random.split(key)
    params = controller.initial(params_key)
    params['logits'] = jax.tree.map(
      lambda x: x + jnp.arange(4.0), params['logits']
    )
    member = controller.sample(params, key)
    parts = lambda member: opponents.split(controller.space, member)
    scores = controller.score(params, member)
    return params, parts(member), scores, parts(controller.mode(params))

  params, (theta, chosen), (log_prob, entropy), best = jax.device_get(
    run(seeds.key(4))
  )
  assert np.abs(params['mean']).max() <= 5
  odds = np.exp(np.arange(4)) / np.exp(np.arange(4)).sum()
  normal = stats.norm(np.float64(params['mean']), 0.5)
  expected = normal.logpdf(np.float64(theta)).sum()
  expected += np.log(odds[chosen]).sum()
  assert log_prob == pytest.approx(expected, rel=1e-4)
  expected = normal.entropy().sum() - 2 * np.sum(odds * np.log(odds))
  assert entropy == pytest.approx(expected, rel=1e-5)
  np.testing.assert_allclose(best[0], params['mean'], atol=2e-6)
  assert best[1].tolist() == [3, 3]


def test_problems_without_numbers_keep_their_space():
  problem = hybrid.hamming(seeds.key(6), 2, 4)
  assert opponents.mixed(problem) == problem.space


@pytest.mark.slow
def test_categories_alone():
  """The pure-categorical control: evolution finds the hidden optimum."""
  problem = hybrid.hamming(seeds.key(6), 10, 4)
  controller = evolution.Evolution(problem.space)
  found = jax.jit(
    lambda key: opponents.search(
      problem, controller, key, evaluations=1500, batch=30
    )
  )(seeds.key(7))
  assert found[0] > found[-1] == 0


def test_distances_of_numbers():
  """Diversity counts 256 bins, distance every difference."""
  sample = jax.jit(jax.vmap(SPACE.sample))
  members = np.asarray(sample(jax.random.split(seeds.key(8), 50)))
  diversity = jax.jit(SPACE.diversity)
  expected = (3 * 255 / 256 + 2 * 3 / 4) / 5
  assert diversity(members) == pytest.approx(expected, abs=0.05)
  assert diversity(np.tile(members[:1], (50, 1))) == 0
  apart = jax.jit(SPACE.distance)
  assert apart(members[0], members[0]) == 0
  assert apart(members[0], members[0] + [0, 1, 0, 0, 0]) == 1


def test_rejects():
  for call in (
    lambda: opponents.Reals('theta', 2, step=0.0),
    lambda: opponents.Reals('theta', 0),
    lambda: opponents.Reals('theta', 1, bound=-1.0),
    lambda: opponents.Gaussian.of(PROBLEM, deviation=0.0),
    lambda: opponents.search(
      PROBLEM, uniform.Random(SPACE), seeds.key(0), evaluations=10, batch=3
    ),
  ):
    with pytest.raises(ValueError, match='got'):
      call()
  assert isinstance(SPACE, space_lib.Space)
