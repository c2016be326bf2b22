"""Members with architectures on Ray: the bits of one process."""

import os
import pathlib

import jax
import numpy as np
import optax
import pytest

from nas.es_enas import controllers
from nas.es_enas import search as search_lib
from rl.es import ray_evaluator, strategy
from tests.nas.es_enas import workers

ray = pytest.importorskip('ray')

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope='module', autouse=True)
def cluster():
  # Otherwise Ray writes a token into the home folder.
  os.environ.setdefault('RAY_AUTH_MODE', 'disabled')
  os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
  os.environ['PYTHONPATH'] = str(ROOT)
  ray.init(
    address='local', num_cpus=2, include_dashboard=False, log_to_driver=False
  )
  yield
  ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize('paired', [True, False])
def test_any_number_of_workers_gives_the_bits_of_one_process(paired):
  local = workers.runner()
  es = strategy.Strategy(strategy.ESConfig(6, 0.3), optax.adam(0.05))
  controller = controllers.Evolution(local.policy.space)
  search = search_lib.ESENAS(es, controller, paired=paired)

  def trained(evaluator):
    key = jax.random.key(0)
    state = search.init(local.policy.init(key), key, local.observation_shape)
    for _ in range(3):
      state, _ = search.step(state, evaluator)
    return state

  alone = trained(local)
  expected = jax.tree.leaves((alone.theta, alone.controller))
  for count in (1, 2):
    remote = ray_evaluator.RayEvaluator(
      workers.runner, num_workers=count, directions_per_task=2
    )
    state = trained(remote)
    remote.close()
    found = jax.tree.leaves((state.theta, state.controller))
    for one, two in zip(expected, found, strict=True):
      np.testing.assert_array_equal(one, two)
