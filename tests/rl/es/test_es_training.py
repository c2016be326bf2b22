"""Evolution strategies in the training loop, with either kind of evaluator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rl.envs import pendulum
from rl.es import backends, policies, strategy, training
from tests import experiments, marks
from tests.rl.es import ray_cases

POLICY = functools.partial(policies.MLP, hidden=(4,))


def _trainer(host=False, **settings):
  task = pendulum.Pendulum(max_steps=6)
  if host:
    task, settings['evaluator'] = ray_cases.Walk(5), backends.Lanes()
  config = strategy.ESConfig(num_pairs=6, center_evaluations=2)
  return training.ESTrainer(
    task, POLICY, config, optax.adam(0.1), eval_episodes=3, **settings
  )


@pytest.fixture(scope='module')
def on_host(tmp_path_factory):
  """The state after five generations in a simulator."""
  return experiments.run(
    _trainer(host=True), tmp_path_factory.mktemp('host'), 5
  )


def _start(trainer):
  """The first parameters of a run, and its key."""
  policy_key, key = jax.random.split(jax.random.key(3))
  return trainer.fitted_policy.init(policy_key), key


@pytest.mark.parametrize('host', [*marks.slow(False), True])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, host, request):
  if host:
    whole = request.getfixturevalue('on_host')
  else:
    whole = experiments.run(_trainer(host), tmp_path / 'whole', 5)
  experiments.run(_trainer(host), tmp_path / 'parts', 2)
  parts = experiments.run(_trainer(host), tmp_path / 'parts', 5)
  for name in ('theta', 'opt_state', 'normalizer', 'generation'):
    a, b = getattr(whole, name), getattr(parts, name)
    jax.tree.map(np.testing.assert_array_equal, a, b)
  first, _ = _start(_trainer(host))
  assert np.abs(whole.theta - first).max() > 0.1


def test_the_loop_changes_no_generation(on_host):
  trainer = _trainer(host=True)
  evaluator = backends.Lanes()(
    env=ray_cases.Walk(5), policy=trainer.fitted_policy, mesh=None, clip=None
  )
  algorithm = strategy.Strategy(trainer.config, trainer.optimizer)
  state = algorithm.init(*_start(trainer), evaluator.observation_shape)
  for _ in range(5):
    state, _ = algorithm.step(state, evaluator)
  np.testing.assert_allclose(on_host.theta, state.theta, rtol=1e-5, atol=1e-6)


def test_players_normalise_as_rollouts_do(on_host):
  trainer, state = _trainer(host=True, clip=0.5), on_host
  evaluator = backends.Lanes()(
    env=trainer.env, policy=trainer.fitted_policy, mesh=None, clip=0.5
  )
  player = trainer.player(state, evaluator)
  seen = jnp.array([[-2.0, 9.0], [0.1, 0.3]])
  first = jnp.ones(2, bool)
  _, action = player.act(player.initial_memory(2), seen, first, None)
  stats = state.normalizer
  std = np.sqrt(np.asarray(stats.m2) / np.asarray(stats.count))
  scaled = np.clip((seen - np.asarray(stats.mean)) / std, -0.5, 0.5)
  params = trainer.fitted_policy.unravel(state.theta)
  act = functools.partial(trainer.fitted_policy.act, params, ())
  _, expected = jax.jit(jax.vmap(act))(scaled)
  np.testing.assert_allclose(action, expected, rtol=1e-4)
