"""Ray's workers: the bits of one process, and what the death of one costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rl import normalizer
from rl.es import estimators, ray_evaluator, strategy, vector_evaluator
from rl.es import population as population_lib
from tests import trees
from tests.rl.es import es_cases, ray_cases

ray = pytest.importorskip('ray')
PAIRS = 8
KEYS = jax.random.split(jax.random.key(2), PAIRS)
LOCAL = ray_cases.runner()
NORMAL = normalizer.Statistics(*map(jnp.asarray, ray_cases.normal()))


population = functools.partial(es_cases.perturbed, LOCAL.policy)


@pytest.mark.slow
@pytest.mark.usefixtures('cluster')
def test_training_is_that_of_one_process():
  """Parameters and statistics after two generations, to the last bit."""
  config = strategy.ESConfig(num_pairs=PAIRS, sigma=0.3)
  algorithm = strategy.Strategy(config, optax.adam(0.05))
  workers = ray_evaluator.RayEvaluator(
    ray_cases.slow_at_the_start, num_workers=2, directions_per_task=4
  )
  assert workers.observation_shape == LOCAL.observation_shape
  ask, tell = jax.jit(algorithm.ask), jax.jit(algorithm.tell)
  states = []
  for who in (LOCAL, workers):
    state = algorithm.init(
      LOCAL.policy.init(jax.random.key(0)), jax.random.key(5), (2,)
    )
    for _ in range(2):
      request = ask(state)
      found = who.evaluate(request.population, request.keys, state.normalizer)
      state, metrics = tell(state, request, found)
    states.append(
      jax.device_get((state.theta, state.opt_state, state.normalizer, metrics))
    )
  trees.check_same(*states)
  assert np.abs(states[0][0] - LOCAL.policy.init(jax.random.key(0))).max() > 0
  pop = population('orthogonal')
  trees.check_same(
    workers.evaluate(pop, KEYS, NORMAL), LOCAL.evaluate(pop, KEYS, NORMAL)
  )
  with pytest.raises(ValueError, match='parameters'):
    workers.evaluate(population_lib.Repeated(jnp.zeros(3)), KEYS, None)
  workers.close()


@pytest.mark.slow
@pytest.mark.usefixtures('cluster')
@pytest.mark.parametrize('how', ['die', 'hang'])
def test_a_lost_worker_costs_its_pairs(how, tmp_path):
  mark = tmp_path / 'mark'
  make = functools.partial(ray_cases.fragile, mark=str(mark), at=4, how=how)
  timeout = 25.0 if how == 'hang' else None
  workers = ray_evaluator.RayEvaluator(
    make, num_workers=2, directions_per_task=2, timeout=timeout
  )
  pop = population()
  whole = LOCAL.evaluate(pop, KEYS, NORMAL)
  # All workers are up and have compiled before one is lost.
  trees.check_same(workers.evaluate(pop, KEYS, NORMAL), whole)
  mark.touch()
  found = workers.evaluate(pop, KEYS, NORMAL)
  kept = ~np.isin(np.arange(PAIRS), [4, 5])
  np.testing.assert_array_equal(found.valid, np.tile(kept, 2))
  both = np.tile(kept, 2)
  np.testing.assert_array_equal(found.returns[both], whole.returns[both])
  np.testing.assert_array_equal(found.lengths, np.where(both, whole.lengths, 0))
  only_the_kept_count(found, whole, kept)
  # The worker was replaced.
  assert not mark.exists()
  trees.check_same(workers.evaluate(pop, KEYS, NORMAL), whole)
  workers.close()


def test_rows_that_did_not_come_back_are_left_out():
  """As of the death of a worker, which is slow."""
  pop, kept = population(), np.arange(PAIRS) < 5
  rollouts = LOCAL.rollouts(pop, KEYS, NORMAL)
  lost = jax.tree.map(
    lambda x: np.where(kept.reshape(-1, *[1] * (x.ndim - 3)), x, 77), rollouts
  )
  whole = vector_evaluator.summarized(rollouts)
  found = vector_evaluator.summarized(lost, kept)
  both = np.tile(kept, 2)
  np.testing.assert_array_equal(found.valid, both)
  np.testing.assert_array_equal(found.returns[both], whole.returns[both])
  np.testing.assert_array_equal(found.lengths, np.where(both, whole.lengths, 0))
  only_the_kept_count(found, whole, kept)


def only_the_kept_count(found, whole, kept):
  """Statistics and estimate are those of a generation without the others."""
  # 2 episodes of 7 observations for each member that is left.
  assert float(found.statistics.count) == 2 * kept.sum() * 2 * 7
  estimate = estimators.Antithetic(shaping=lambda x, valid: x)
  weights = estimate.weights(found.returns, found.valid, sigma=0.5)
  plus, minus = jnp.split(whole.returns, 2)
  expected = np.where(kept, plus - minus, 0) / (2 * 0.5 * kept.sum())
  np.testing.assert_allclose(weights, expected, rtol=1e-5)
  # Zero for what was lost, over all pairs, would shrink it.
  wrong = np.where(kept, plus - minus, 0) / (2 * 0.5 * PAIRS)
  assert np.abs(weights - wrong).max() > 0.1 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.usefixtures('cluster')
def test_bugs_are_errors_and_not_losses(tmp_path):
  mark = tmp_path / 'mark'
  mark.touch()
  make = functools.partial(ray_cases.fragile, mark=str(mark), at=0, how='fail')
  workers = ray_evaluator.RayEvaluator(make, num_workers=1)
  with pytest.raises(KeyError, match='a bug'):
    workers.evaluate(population(), KEYS, NORMAL)
  workers.close()
  workers = ray_evaluator.RayEvaluator(ray_cases.broken, num_workers=1)
  with pytest.raises(RuntimeError, match='workers were lost'):
    workers.evaluate(population(), KEYS, NORMAL)
  workers.close()


def test_tasks_are_seeds():
  """Bytes of a task do not grow with the parameters."""
  tasks = ray_evaluator.RayEvaluator(ray_cases.runner)._tasks(KEYS)
  assert len(ray.cloudpickle.dumps(tasks)) < 2000
  sizes = []
  for size in (10, 100_000):
    pop = population().replace(theta=jnp.zeros(size))
    sent = ray_evaluator._packed(pop)
    sizes.append(len(ray.cloudpickle.dumps(sent)) - 4 * size)
  # Theta once, and nothing else that grows with it.
  assert abs(sizes[0] - sizes[1]) < 100
  back = ray_evaluator._unpacked(sent)
  trees.check_same(jax.random.key_data(back.key), jax.random.key_data(pop.key))


@pytest.mark.parametrize(
  'options', [{'num_workers': 0}, {'directions_per_task': 0}, {'timeout': 0.0}]
)
def test_rejects(options):
  with pytest.raises(ValueError, match='positive'):
    ray_evaluator.RayEvaluator(ray_cases.runner, **options)
