"""CMA-ES in the training loop."""

import functools

import jax
import numpy as np
import pytest

from rl.es import backends, cma, cma_training, policies
from runtime import loop
from runtime.devices import mesh as mesh_lib
from tests import experiments
from tests.rl.es import es_cases, ray_cases

pytest.importorskip('cmaes')


def _trainer():
  return cma_training.CMATrainer(
    ray_cases.Walk(5),
    functools.partial(policies.MLP, hidden=()),
    population_size=6,
    sigma=0.3,
    normalize=True,
    evaluator=backends.Lanes(),
    eval_episodes=3,
  )


def test_the_loop_changes_nothing_and_neither_does_resuming(tmp_path):
  # More than one device, of which it takes one.
  run = lambda name, steps: experiments.run(
    _trainer(), tmp_path / name, steps, devices=2
  )
  whole = run('whole', 5)
  run('parts', 2)
  parts = run('parts', 5)
  one = experiments.of(_trainer(), devices=jax.devices()[:2])
  assert one.batch_size == 6
  for name in ('theta', 'normalizer', 'generation'):
    a, b = getattr(whole, name), getattr(parts, name)
    jax.tree.map(np.testing.assert_array_equal, a, b)
  # Against the search by itself.
  trainer = _trainer()
  evaluator = trainer.evaluator(
    env=trainer.env, policy=trainer.fitted_policy, mesh=None, clip=None
  )
  policy_key, key = jax.random.split(jax.random.key(3))
  theta = trainer.fitted_policy.init(policy_key)
  search = cma.CMAES(0.3, population_size=6, normalize=True, seed=3)
  state = search.init(theta, key, (2,))
  for _ in range(5):
    state, _ = search.step(state, evaluator)
  np.testing.assert_allclose(whole.theta, state.theta, rtol=1e-5)
  np.testing.assert_allclose(
    whole.normalizer.mean, state.normalizer.mean, rtol=1e-5
  )
  assert np.abs(whole.theta - theta).max() > 0.01


def test_too_many_parameters_are_refused():
  wide = functools.partial(policies.MLP, hidden=(100,))
  trainer = cma_training.CMATrainer(
    ray_cases.Walk(5), wide, evaluator=backends.Lanes()
  )
  with pytest.raises(ValueError, match=r'2 to 200 parameters, got 401'):
    experiments.of(trainer, devices=jax.devices()[:1])


def test_rollouts_in_jax_take_one_device_of_many():
  trainer = cma_training.CMATrainer(
    es_cases.Drift(),
    functools.partial(policies.MLP, hidden=()),
    population_size=4,
    eval_episodes=0,
  )
  mesh = mesh_lib.MeshConfig().make(jax.devices()[:2])
  with trainer.experiment(seed=0, mesh=mesh) as experiment:
    driven = loop.drive(experiment, 1)
  assert np.isfinite(driven.rows[-1]['train/episode_return'])
