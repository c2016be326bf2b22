"""Members with architectures on Ray: the bits of one process."""

import functools

import jax
import numpy as np
import optax
import pytest

from nas.es_enas import controllers
from nas.es_enas import search as search_lib
from rl.es import ray_evaluator, strategy
from tests.nas.es_enas import workers

pytestmark = pytest.mark.usefixtures('cluster')


def _trained(evaluator, *, paired=True, normalize=True, generations=3):
  local = workers.runner()
  config = strategy.ESConfig(6, 0.3, normalize=normalize)
  es = strategy.Strategy(config, optax.adam(0.05))
  controller = controllers.Evolution(local.policy.space)
  search = search_lib.ESENAS(es, controller, paired=paired)
  key = jax.random.key(0)
  state = search.init(local.policy.init(key), key, local.observation_shape)
  for _ in range(generations):
    state, _ = search.step(state, evaluator)
  return state


def _assert_same(one, two):
  """Theta and the controller, bit for bit."""
  leaves = lambda state: jax.tree.leaves((state.theta, state.controller))
  for a, b in zip(leaves(one), leaves(two), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize('paired', [True, False])
def test_any_number_of_workers_gives_the_bits_of_one_process(paired):
  alone = _trained(workers.runner(), paired=paired)
  for count in (1, 2):
    remote = ray_evaluator.RayEvaluator(
      workers.runner, num_workers=count, directions_per_task=2
    )
    found = _trained(remote, paired=paired)
    remote.close()
    _assert_same(found, alone)


class _Marking:
  """Lets a remote evaluator lose a worker in its second generation."""

  pure = False

  def __init__(self, remote, mark):
    self._remote = remote
    self._mark = mark
    self._generation = 0
    self.observation_shape = remote.observation_shape

  def evaluate(self, members, keys, normalizer):
    self._generation += 1
    if self._generation == 2:
      self._mark.touch()
    return self._remote.evaluate(members, keys, normalizer)

  def close(self):
    self._remote.close()


class _Losing:
  """In one process; the second generation loses two of its rows."""

  pure = False

  def __init__(self):
    self._local = workers.runner()
    self._generation = 0
    self.observation_shape = self._local.observation_shape

  def evaluate(self, members, keys, normalizer):
    found = self._local.evaluate(members, keys, normalizer)
    self._generation += 1
    if self._generation != 2:
      return found
    kept = ~np.isin(np.arange(len(keys)), [2, 3])
    return found.replace(valid=found.valid & np.tile(kept, members.sides))

  def close(self):
    self._local.close()


@pytest.mark.slow
def test_a_killed_worker_costs_its_rows_and_nothing_else(tmp_path):
  """Theta and the controller go on as if those rows had been lost here."""
  mark = tmp_path / 'mark'
  remote = ray_evaluator.RayEvaluator(
    functools.partial(workers.fragile, str(mark)),
    num_workers=2,
    directions_per_task=2,
  )
  found = _trained(_Marking(remote, mark), normalize=False, generations=5)
  remote.close()
  expected = _trained(_Losing(), normalize=False, generations=5)
  assert not mark.exists()
  _assert_same(found, expected)
  whole = _trained(workers.runner(), normalize=False, generations=5)
  assert np.abs(whole.theta - expected.theta).max() > 0
