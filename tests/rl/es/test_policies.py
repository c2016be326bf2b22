"""Policies: parameter counts, layout, action maps, agreement with Flax."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rl.envs import spaces
from rl.es import policies
from tests import refusals

OBS = spaces.Box((3,), -1.0, 1.0)
BOX = spaces.Box((2,), (-1.0, 0.0), (3.0, 5.0))
X = jnp.array([0.3, -0.8, 0.5])


class Net(nn.Module):
  """The twin of MLP(hidden=(4,))."""

  @nn.compact
  def __call__(self, x):
    hidden = nn.tanh(nn.Dense(4)(x))
    return nn.Dense(2)(hidden)


def test_mlp_against_numpy():
  mlp = policies.MLP(OBS, BOX, hidden=(4,))
  theta = mlp.init(jax.random.key(0))
  theta += 0.1 * jax.random.normal(jax.random.key(1), theta.shape)
  assert mlp.size == theta.shape[0] == 3 * 4 + 4 + 4 * 2 + 2
  flat, x = np.asarray(theta, np.float64), np.asarray(X, np.float64)
  hidden = np.tanh(x @ flat[:12].reshape(3, 4) + flat[12:16])
  unit = np.tanh(hidden @ flat[16:24].reshape(4, 2) + flat[24:])
  expected = [-1 + 4 * (unit[0] + 1) / 2, 5 * (unit[1] + 1) / 2]
  memory, action = mlp.act(mlp.unravel(theta), mlp.initial_memory(), X)
  assert memory == ()
  np.testing.assert_allclose(action, expected, rtol=1e-5)


def test_linear_without_biases():
  """Swimmer's linear policy: 8 states, 2 actions, 16 parameters."""
  space = spaces.Box((8,), -1.0, 1.0)
  linear = policies.MLP(space, BOX, hidden=(), bias=False)
  assert linear.size == linear.init(jax.random.key(0)).shape[0] == 16


def test_flax_twin_agrees():
  mlp = policies.MLP(OBS, BOX, hidden=(4,))
  flax = policies.FlaxPolicy(Net(), OBS, BOX)
  assert flax.size == mlp.size
  theta = flax.init(jax.random.key(0))
  params = jax.jit(flax.unravel)(theta)
  layers = params['params']
  parts = [
    layers[name][leaf].reshape(-1)
    for name in ('Dense_0', 'Dense_1')
    for leaf in ('kernel', 'bias')
  ]
  ours = mlp.unravel(jnp.concatenate(parts))
  np.testing.assert_allclose(
    flax.act(params, (), X)[1], mlp.act(ours, (), X)[1], rtol=1e-5
  )


def test_actions_stay_in_their_space():
  for outputs in (jnp.array([1e9, -1e9]), jnp.array([0.2, 0.1])):
    assert BOX.contains(policies.to_action(BOX, outputs))
  discrete = spaces.Discrete(3)
  action = policies.to_action(discrete, jnp.array([0.0, 5.0, 2.0]))
  assert int(action) == 1
  assert discrete.contains(action)


test_rejects = refusals.all_with(
  r'got|must',
  lambda: policies.MLP(OBS, spaces.Box((1,), -np.inf, np.inf)),
  lambda: policies.MLP(OBS, spaces.Box((1,), 0, 3, 'int32')),
  lambda: policies.MLP(spaces.pixels(8), BOX),
  lambda: policies.MLP(OBS, BOX, hidden=(0,)),
)
