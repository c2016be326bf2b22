"""The Gaussian process of GP-UCB, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util
from scipy import special, stats

from hpo.optformer.behaviours import gaussian_process as gp
from hpo.optformer.behaviours import gp_ucb
from tests import seeds, trees

KNOWN = np.arange(12) < 9
LENGTHS, SCALE, NOISE = np.array([0.4, 0.9, 1.5]), 1.3, 0.2
HYPER = gp.Hyper(
  jnp.log(jnp.float32(LENGTHS)),
  jnp.log(jnp.float32(SCALE)),
  jnp.log(jnp.float32(NOISE)),
)


@pytest.fixture(scope='module')
def case():
  rng = seeds.rng(0)
  points = rng.uniform(size=(12, 3))
  values = np.where(KNOWN, rng.normal(size=12), 0)
  others = rng.uniform(size=(5, 3))
  return points, values, others


def kernel(x, y):
  """Matern 5/2 by its Bessel function, not by its polynomial."""
  r = np.sqrt((((x[:, None] - y) / LENGTHS) ** 2).sum(-1))
  z = np.sqrt(5) * np.maximum(r, 1e-12)
  bessel = z**2.5 * special.kv(2.5, z) * 2**-1.5 / special.gamma(2.5)
  return SCALE**2 * bessel


def data_of(points, values):
  gaps = (points[:, None] - points) ** 2
  return gp.Data(jnp.float32(gaps), jnp.float32(values), jnp.asarray(KNOWN))


def test_predictions_and_likelihood(case):
  points, values, others = case
  found = jax.jit(gp.factor)(HYPER, data_of(points, values))
  gaps = jnp.float32((others[:, None] - points) ** 2)
  predict = jax.jit(gp.predict)
  mean, deviation = predict(found, HYPER, gaps, jnp.asarray(KNOWN))
  seen, y = points[KNOWN], values[KNOWN]
  covariance = kernel(seen, seen) + (NOISE**2 + 1e-4) * np.eye(len(seen))
  cross = kernel(others, seen)
  inverse = np.linalg.inv(covariance)
  np.testing.assert_allclose(mean, cross @ inverse @ y, atol=1e-4)
  variance = SCALE**2 - np.einsum('ij,jk,ik->i', cross, inverse, cross)
  np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-3)
  fit = y @ np.asarray(found.weights)[KNOWN] + found.log_det
  expected = -2 * stats.multivariate_normal(cov=covariance).logpdf(y)
  expected -= len(y) * np.log(2 * np.pi)
  np.testing.assert_allclose(fit, expected, rtol=1e-4)


def test_gradient_is_that_of_the_loss(case):
  """By central differences, which float32 allows for large steps only."""
  points, values, _ = case
  data = data_of(points, values)
  found = jax.jit(gp.gradient)(HYPER, data)
  flat, restored = flatten_util.ravel_pytree(HYPER)
  loss = jax.jit(lambda x: gp.loss(restored(x), data))
  slopes = [
    (loss(flat + step) - loss(flat - step)) / 0.04
    for step in 0.02 * np.eye(flat.size, dtype=np.float32)
  ]
  expected = restored(jnp.stack(slopes))
  trees.check_close(found, expected, rtol=5e-3, atol=5e-3)


def test_warping():
  rng = seeds.rng(1)
  gains = np.where(KNOWN, -np.exp(3 * rng.normal(size=12)), -np.inf)
  warped = jax.jit(gp_ucb.warped)
  z = np.asarray(warped(np.float32(gains), KNOWN))
  np.testing.assert_array_equal(z[~KNOWN], 0)
  order = np.argsort(gains[KNOWN])
  assert (np.diff(z[KNOWN][order]) > 0).all()
  assert z[KNOWN].mean() == pytest.approx(0, abs=1e-5)
  assert z[KNOWN].std() == pytest.approx(1, abs=1e-5)
  # The upper half keeps its shape.
  upper = order[4:]
  slope = np.diff(z[KNOWN][upper]) / np.diff(gains[KNOWN][upper])
  np.testing.assert_allclose(slope, slope[0], rtol=1e-3)
  for unit in (1e-30, 1e30):  # Whose squares no float32 holds.
    scaled = warped(np.float32(gains * unit), KNOWN)
    np.testing.assert_allclose(scaled, z, atol=1e-5)
  flat = np.asarray(warped(np.zeros(12, np.float32), KNOWN))
  np.testing.assert_array_equal(flat, flat[0] * KNOWN)
  one = warped(np.float32(gains), np.arange(12) < 1)
  np.testing.assert_array_equal(one, 0)
