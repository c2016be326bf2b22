"""Actions beyond their box and actions that are no numbers, for evaluators."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import lanes, protocol, spaces
from rl.es import jax_evaluator, population, vector_evaluator


class Walk:
  """Adds the action; ends beyond 5; a reward of 1 a step."""

  observation_space = spaces.Box((1,), -10.0, 10.0)
  action_space = spaces.Box((1,), -1.0, 1.0)
  max_steps = 50

  def reset(self, key):
    del key
    return jnp.zeros(1), jnp.zeros(1)

  def step(self, state, action, key):
    del key
    state = state + action
    ended = jnp.abs(state[0]) > 5
    return state, protocol.Step(state, jnp.float32(1), ended, {})


class Constant:
  """Its parameter is the action."""

  observation_space, action_space = Walk.observation_space, Walk.action_space
  size = 1

  def init(self, key):
    del key
    return jnp.zeros(1)

  def unravel(self, theta):
    return theta

  def initial_memory(self):
    return ()

  def act(self, params, memory, observation):
    del observation
    return memory, params


def evaluate(make, thetas):
  keys = jax.random.split(jax.random.key(0), len(thetas))
  listed = population.Listed(jnp.array(thetas)[:, None])
  return make().evaluate(listed, keys, None)


def in_one_program(**options):
  return jax_evaluator.JaxEvaluator(Walk(), Constant(), **options)


def in_lanes(**options):
  env = lanes.Lanes(Walk(), 4)
  return vector_evaluator.VectorEvaluator(env, Constant(), **options)


@pytest.mark.parametrize('make', [in_one_program, in_lanes])
def test_beyond_the_box_is_clipped_and_nan_is_lost(make):
  found = evaluate(make, [0.0, 0.2, 3.0, jnp.nan, jnp.inf])
  # Clipped to 1, the third leaves after six steps.
  np.testing.assert_array_equal(found.returns[:3], [50, 26, 6])
  assert np.isnan(found.returns[3:]).all()
  assert found.valid.tolist() == [True] * 3 + [False] * 2


@pytest.mark.parametrize('limit', [20, 300])
def test_a_limit_only_cuts(limit):
  one, many = (
    evaluate(lambda m=make: m(max_steps=limit), [0.0, 0.1])
    for make in (in_one_program, in_lanes)
  )
  np.testing.assert_array_equal(one.returns, many.returns)
  assert one.lengths.max() == min(limit, 50)


def test_lanes_are_refused_where_one_environment_is_needed():
  class Lanes(Walk):
    num_lanes = 2

  with pytest.raises(ValueError, match=r'backends\.Lanes'):
    jax_evaluator.JaxEvaluator(Lanes(), Constant())


def test_orthogonal_directions_on_two_devices_end():
  """LAPACK's batched QR waited for ever there."""
  code = """
import jax, optax
from rl.envs import pendulum
from rl.es import directions, jax_evaluator, policies, strategy
from runtime import mesh
env = pendulum.Pendulum()
policy = policies.MLP(env.observation_space, env.action_space)
evaluator = jax_evaluator.JaxEvaluator(
  env, policy, max_steps=2, mesh=mesh.MeshConfig(data=-1).make()
)
config = strategy.ESConfig(
  num_pairs=128, directions=directions.Directions('orthogonal')
)
es = strategy.Strategy(config, optax.sgd(0.01))
state = es.init(
  policy.init(jax.random.key(0)), jax.random.key(1), evaluator.observation_shape
)
jax.block_until_ready(jax.jit(lambda s: es.step(s, evaluator))(state))
print(jax.device_count())
"""
  environment = {k: v for k, v in os.environ.items() if k != 'PJRT_NPROC'}
  environment['XLA_FLAGS'] = '--xla_force_host_platform_device_count=2'
  environment['JAX_PLATFORMS'] = 'cpu'
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.stdout.strip() == '2', done.stderr
