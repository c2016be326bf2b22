"""Limits of episodes, and what evaluators refuse."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.es import directions, jax_evaluator
from tests import seeds
from tests.rl.es import es_cases


@pytest.mark.parametrize('limit', [20, 300])
def test_a_limit_only_cuts(limit):
  one, many = (
    es_cases.evaluate(
      make(es_cases.Walk(), es_cases.Constant(), max_steps=limit), [0.0, 0.1]
    )
    for make in (es_cases.in_one_program, es_cases.in_lanes)
  )
  np.testing.assert_array_equal(one.returns, many.returns)
  assert one.lengths.max() == min(limit, 50)


def test_lanes_are_refused_where_one_environment_is_needed():
  class Lanes(es_cases.Walk):
    num_lanes = 2

  with pytest.raises(ValueError, match=r'backends\.Lanes'):
    jax_evaluator.JaxEvaluator(Lanes(), es_cases.Constant())


def test_orthogonal_directions_do_not_call_lapack():
  """Its batched QR may wait for ever; the slow test below shows where."""
  spec = directions.Directions('orthogonal')
  rows = lambda key: directions.rows(spec, key, 0, count=4, size=8)
  text = lambda f, x: jax.jit(f).lower(x).as_text()
  assert 'lapack' not in text(rows, seeds.key(0))
  assert 'lapack' in text(jnp.linalg.qr, jnp.eye(8))


@pytest.mark.slow
def test_orthogonal_directions_on_two_devices_end():
  """LAPACK's batched QR waited for ever there."""
  code = """
import jax, optax
from rl.envs import pendulum
from rl.es import directions, jax_evaluator, policies, strategy
from runtime.devices import mesh
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
  environment['XLA_FLAGS'] += ' --xla_force_host_platform_device_count=2'
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
