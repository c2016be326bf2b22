"""The squashed Gaussian against quadrature, differences and a histogram."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import distributions
from rl.envs import spaces
from rl.sac import distribution

log_det, log_prob = (
  jax.jit(distribution.log_det),
  jax.jit(distribution.log_prob),
)
sample = jax.jit(distribution.sample)


def test_log_det_is_right_everywhere():
  with jax.enable_x64(True):
    u, step = np.linspace(-6, 6, 41), 1e-6
    slope = (np.tanh(u + step) - np.tanh(u - step)) / (2 * step)
    found = log_det(u)
    np.testing.assert_allclose(found, np.log(slope), atol=1e-4)
  far = np.float32([-40, -15, 15, 40])
  found = log_det(far)
  # 1 - tanh^2 u -> 4 exp(-2 |u|).
  np.testing.assert_allclose(found, np.log(4) - 2 * np.abs(far), rtol=1e-6)
  # The formula as written fails where tanh rounds to one.
  with np.errstate(divide='ignore'):
    naive = np.log(1 - np.tanh(far[[0, 3]]) ** 2)
  assert not np.isfinite(naive).any()


@pytest.mark.parametrize(('mean', 'log_std'), [(0.3, -0.5), (-1.5, 0.4)])
def test_the_density_integrates_to_one(mean, log_std):
  with jax.enable_x64(True):
    action = np.linspace(-1, 1, 400_001)[1:-1]
    u = np.arctanh(action)[:, None]
    full = lambda x: np.full_like(u, x)
    density = log_prob(u, full(mean), full(log_std))
    total = np.trapezoid(np.exp(density), action)
    assert total == pytest.approx(1, abs=1e-3)
    # Without the change of variables it does not.
    normal = np.asarray(density) + np.asarray(log_det(u))[:, 0]
    assert abs(np.trapezoid(np.exp(normal), action) - 1) > 0.1


def test_draws_have_their_log_density():
  key = jax.random.key(0)
  mean = np.tile(np.float32([0.3, -0.4]), (50_000, 1))
  log_std = np.tile(np.float32([-0.5, 0.1]), (50_000, 1))
  draw = jax.device_get(sample(key, mean, log_std))
  assert draw.action.shape == mean.shape
  again = log_prob(np.arctanh(draw.action), mean, log_std)
  inner = np.abs(draw.action).max(1) < 0.99
  np.testing.assert_allclose(
    draw.log_prob[inner], np.asarray(again)[inner], atol=1e-3
  )
  # The mean of 1 / p over a region is its area.
  middle = (np.abs(draw.action) < 0.5).all(1)
  area = np.mean(middle / np.exp(np.asarray(draw.log_prob)))
  assert area == pytest.approx(1.0, abs=0.05)


def test_boxes_and_back():
  box = spaces.Box((2, 1), ((-2.0,), (0.0,)), ((2.0,), (10.0,)))
  unit = jnp.array([[-1.0, 1.0], [0.0, -0.5]])
  action = distributions.to_box(box, unit)
  np.testing.assert_allclose(action, [[[-2], [10]], [[0], [2.5]]], atol=1e-6)
  np.testing.assert_allclose(distribution.to_unit(box, action), unit, atol=1e-6)
  flat = spaces.Box((1,), 3.0, 3.0)
  assert distribution.to_unit(flat, jnp.array([[3.0]])) == 0
