"""Targets, the loss and its gradient, and the heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.rainbow import c51, networks
from tests.rl import agent_cases

pytestmark = pytest.mark.usefixtures('float64')

B, A, Z = 4, 3, 5
target, mean = jax.jit(c51.target), jax.jit(c51.mean)
cross_entropy = jax.jit(c51.cross_entropy)
weighted_mean = jax.jit(c51.weighted_mean)
dueling = jax.jit(networks.dueling)


def drawn(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize('double_q', [True, False])
def test_the_online_network_chooses_and_the_target_judges(double_q):
  online, judge = drawn(B, A, Z), drawn(B, A, Z, seed=1)
  atoms = np.linspace(-1.0, 1.0, Z)
  chosen = [
    int((softmax(row) @ atoms).argmax())
    for row in (online if double_q else judge)
  ]
  others = [
    int((softmax(row) @ atoms).argmax())
    for row in (judge if double_q else online)
  ]
  assert chosen != others
  reward, discount = drawn(B, seed=2) / 10, np.full(B, 0.5)
  chooses = online if double_q else judge
  found = target(chooses, judge, reward, discount, atoms)
  returns = np.asarray(found.probability) @ atoms

  def expected(actions):
    value = [softmax(judge[i, a]) @ atoms for i, a in enumerate(actions)]
    return reward + discount * np.array(value)

  np.testing.assert_allclose(returns, expected(chosen), atol=1e-12)
  assert np.abs(returns - expected(others)).max() > 1e-3


def test_no_gradient_flows_into_the_target():
  atoms = jnp.linspace(-1.0, 1.0, Z)
  value = lambda x: c51.target(
    x, x, jnp.zeros(B), jnp.ones(B), atoms
  ).probability[0, 0]
  assert not np.any(jax.jit(jax.grad(value))(drawn(B, A, Z)))


def objective(logits, action, goal, weights):
  return weighted_mean(cross_entropy(logits, action, goal), weights)


def test_gradient_by_finite_differences():
  logits, goal = drawn(B, A, Z), softmax(drawn(B, Z, seed=1))
  action, weights = jnp.array([0, 2, 1, 2]), jnp.array([0.5, 2.0, 1.0, 0.1])
  goal = jnp.asarray(goal)
  run = jax.jit(lambda x: objective(x, action, goal, weights))
  grad = np.asarray(jax.grad(run)(jnp.asarray(logits)))
  agent_cases.check_slopes(run, grad, logits, atol=1e-8)


def test_cross_entropy_and_weights_by_hand():
  logits, goal = drawn(B, A, Z), softmax(drawn(B, Z, seed=1))
  action, weights = np.array([0, 2, 1, 2]), np.array([0.5, 2.0, 1.0, 0.1])
  taken = np.log(softmax(logits[np.arange(B), action]))
  each = -(goal * taken).sum(-1)
  found = cross_entropy(logits, action, goal)
  np.testing.assert_allclose(found, each, atol=1e-12)
  # Least at the target's own distribution: its entropy, more than zero.
  assert (each > -(goal * np.log(goal)).sum(-1)).all()
  total = weighted_mean(each, weights)
  np.testing.assert_allclose(total, (each * weights / 2).mean(), atol=1e-12)


def test_dueling_streams():
  value, advantage = drawn(B, 1, Z), drawn(B, A, Z, seed=1)
  logits = np.asarray(dueling(value, advantage))
  np.testing.assert_allclose(logits.mean(1), value[:, 0], atol=1e-12)
  shifted = dueling(value, advantage + 7)
  np.testing.assert_allclose(logits, shifted, atol=1e-12)
  by_hand = value[1, 0, 2] + advantage[1, 0, 2] - advantage[1, :, 2].mean()
  np.testing.assert_allclose(logits[1, 0, 2], by_hand, atol=1e-12)


def test_values_by_hand():
  logits, atoms = drawn(B, A, Z), np.linspace(-1.0, 1.0, Z)
  found = mean(logits, atoms)
  np.testing.assert_allclose(found, softmax(logits) @ atoms, atol=1e-12)
