"""Noise: distributions against NumPy's, and the values that stay as they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rl.es import bbob
from tests import seeds

COUNT, DIMENSION = 20_000, 4


@functools.partial(jax.jit, static_argnums=(0, 3))
def noisy(noise, key, values, dimension):
  keys = jax.random.split(key, values.shape[0])
  return jax.vmap(noise, (0, 0, None))(keys, values, dimension)


def oracle(name, value, rng):
  """Draws of the definition, in float64."""
  severe = 0.1 if name.startswith('SEVERE') else 0.01
  uniform, other = rng.uniform(size=(2, COUNT))
  if name.endswith('ADDITIVE_GAUSSIAN'):
    deviation = {'L': 0.01, 'M': 0.1, 'S': 1.0}[name[0]]
    return value + rng.normal(0, deviation, COUNT)
  if name.endswith('GAUSSIAN'):
    return value * rng.lognormal(0, severe, COUNT)
  if name.endswith('UNIFORM'):
    raised = (1e9 / value) ** (severe * (0.49 + 1 / DIMENSION) * other)
    return value * uniform**severe * np.maximum(1, raised)
  if name.endswith('CAUCHY'):
    often = 0.25 if severe == 0.1 else 0.05
    seldom = (uniform < often) * rng.standard_cauchy(COUNT)
    return value + severe * np.maximum(0, 1000 + seldom)
  return np.full(COUNT, value)


@pytest.mark.parametrize('name', bbob.NOISES)
def test_distributions(name):
  """The two samples' empirical distributions agree (Kolmogorov and Smirnov)."""
  value = 50.0
  drawn = np.asarray(
    noisy(bbob.NOISES[name], seeds.key(0), jnp.full(COUNT, value), DIMENSION),
    np.float64,
  )
  expected = oracle(name, value, seeds.rng(1))
  # Float32 has steps, which must not split ties that NumPy's float64 has.
  found = stats.ks_2samp(drawn, np.float32(expected).astype(np.float64))
  assert found.pvalue > 1e-4, (name, found)
  assert np.isfinite(drawn).all()
  if name != 'NO_NOISE':
    # A strength that is half as large would be seen.
    weaker = np.float32(value + 0.5 * (expected - value)).astype(np.float64)
    assert stats.ks_2samp(drawn, weaker).pvalue < 1e-4


def test_small_values_stay():
  values = np.float32([-3.0, 0.0, 9e-9, 2e-8])
  # As many as above: the programs are the same.
  many = np.resize(values, COUNT)
  for name, noise in bbob.NOISES.items():
    found = noisy(noise, seeds.key(2), many, DIMENSION)[:4]
    assert np.isfinite(found).all()
    if 'ADDITIVE' in name:
      assert (np.asarray(found) != values).all()
    else:
      np.testing.assert_array_equal(found[:3], values[:3])
  none = bbob.NOISES['NO_NOISE']
  raised = noisy(none, seeds.key(2), many, DIMENSION)[3]
  assert raised == pytest.approx(2e-8 + 1.01e-8, rel=1e-6)


def test_a_key_gives_one_value():
  noise = jax.jit(bbob.NOISES['SEVERE_SELDOM_CAUCHY'], static_argnums=2)
  one = noise(seeds.key(3), jnp.float32(5.0), 2)
  assert one == noise(seeds.key(3), jnp.float32(5.0), 2)
  gradient = jax.jit(
    jax.grad(lambda v: bbob.NOISES['SEVERE_UNIFORM'](seeds.key(4), v, 2))
  )
  assert np.isfinite([gradient(v) for v in (-1.0, 0.0, 3.0)]).all()
