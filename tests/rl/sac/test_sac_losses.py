"""SAC's losses by hand and by finite differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.sac import distribution, sac
from tests.rl import agent_cases

pytestmark = pytest.mark.usefixtures('float64')


def drawn(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def check_gradient(function, x):
  grad = np.asarray(jax.jit(jax.grad(function))(jnp.asarray(x)))
  agent_cases.check_slopes(jax.jit(function), grad, x, atol=1e-6)


def test_target_by_hand():
  values, log_prob, reward = drawn(2, 5), drawn(5, seed=1), drawn(5, seed=2)
  discount = np.array([0.9, 0.0, 0.9, 0.0, 0.9])
  goal = lambda v: sac.soft_target(
    v,
    jnp.asarray(log_prob),
    temperature=jnp.asarray(0.3),
    reward=jnp.asarray(reward),
    discount=jnp.asarray(discount),
  )
  expected = reward + discount * (values.min(0) - 0.3 * log_prob)
  np.testing.assert_allclose(goal(jnp.asarray(values)), expected, atol=1e-12)
  assert not jax.grad(lambda v: goal(v).sum())(jnp.asarray(values)).any()


def test_critic_gradient():
  goal = drawn(5, seed=1)
  loss = lambda v: sac.critic_loss(v, jnp.asarray(goal))
  values = drawn(2, 5)
  expected = 0.5 * ((values - goal) ** 2).mean(1).sum()
  np.testing.assert_allclose(loss(jnp.asarray(values)), expected, atol=1e-12)
  check_gradient(loss, values)


def test_policy_gradient_flows_through_the_draw():
  """Critics -(a - 0.5)^2 and -(a - 0.4)^2 of a reparametrised action."""
  key = jax.random.key(0)

  def loss(params):
    mean, log_std = jnp.split(params, 2, axis=-1)
    draw = distribution.sample(key, mean, log_std)
    aims = jnp.array([0.5, 0.4])[:, None, None]
    values = -jnp.sum((draw.action - aims) ** 2, axis=-1)
    return sac.policy_loss(values, draw.log_prob, jnp.asarray(0.2))

  check_gradient(loss, drawn(4, 2) / 2)


def test_temperature_rises_when_entropy_is_low():
  grad = jax.grad(sac.temperature_loss)
  log_prob = jnp.array([1.0, 3.0])
  # Entropy -2 below the target of -1: descent must raise log alpha.
  assert float(grad(jnp.asarray(0.0), log_prob, -1.0)) == pytest.approx(-1)
  assert float(grad(jnp.asarray(0.0), log_prob, -3.0)) == pytest.approx(1)
  gradient = jax.grad(sac.temperature_loss, argnums=1)
  assert not gradient(jnp.asarray(0.5), log_prob, -1.0).any()
