"""Estimates of single entries, against the features written out."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from tests import marks, seeds
from tests.performer.attention import attention_cases as cases

D = 8


def vectors(seed=0, scale=0.7):
  rng = seeds.rng(seed)
  draw = lambda n: jnp.asarray(scale * rng.standard_normal((n, D)), jnp.float32)
  return draw(3), draw(4)


def twin(kernel, q, k, w, epsilon=1e-3):
  """phi(x) . phi(y), float64."""
  q, k, w = (np.asarray(x, np.float64) for x in (q, k, w))
  if kernel == 'relu':
    phi_q, phi_k = (np.maximum(x @ w.T, 0) + epsilon for x in (q, k))
    return phi_q @ phi_k.T
  x, y = q * D**-0.25, k * D**-0.25
  square = lambda z: (z**2).sum(-1, keepdims=True) / 2

  def phi(z):
    if kernel == 'softmax_pos':
      return np.exp(z @ w.T - square(z))
    waves = [np.cos(z @ w.T), np.sin(z @ w.T)]
    return np.exp(square(z)) * np.concatenate(waves, axis=-1)

  return phi(x) @ phi(y).T / len(w)


@pytest.mark.parametrize('kernel', ['softmax_pos', 'softmax_trig', 'relu'])
def test_values_are_products_of_features(kernel):
  favor = cases.favor(kernel, ortho='iid')
  w = cases.projection(favor, heads=1, d=D)
  q, k = vectors()
  found = attention.kernel_estimate(favor, q, k, projection=w)
  expected = twin(kernel, q, k, w)  # Terms of trig cancel each other.
  np.testing.assert_allclose(found.values, expected, rtol=2e-5, atol=2e-6)
  assert (found.relative_mse is None) == (kernel == 'relu')


@pytest.mark.parametrize(
  'stabilizer', ['online', *marks.slow('none', 'reference')]
)
def test_the_error_is_that_of_independent_draws(stabilizer):
  favor = attention.Favor(
    kernel='softmax_pos', features=32, ortho='iid', stabilizer=stabilizer
  )
  q, k = vectors(1, scale=0.25)
  draw = lambda key: favor.draw(key, layer=0, step=0, num_heads=1, head_dim=D)
  estimate = lambda w: attention.kernel_estimate(favor, q, k, projection=w)
  keys = jax.random.split(seeds.key(3), 4000)
  found = jax.jit(lambda keys: jax.lax.map(lambda x: estimate(draw(x)), keys))(
    keys
  )
  exact = np.exp(np.asarray(q) @ np.asarray(k).T / D**0.5)
  relative = found.values / exact - 1
  # Unbiased, and of the variance promised.
  assert np.abs(relative.mean(0) / relative.std(0) * 4000**0.5).max() < 4
  ratio = (relative**2).mean(0) / found.relative_mse[0]
  np.testing.assert_allclose(ratio, 1, atol=0.25)


def test_oprf_is_made_for_the_pairs_at_hand():
  q, k = vectors(2)
  favor = cases.favor('softmax_oprf')
  w = cases.projection(favor, heads=1, d=D)
  x, y = (np.asarray(a, np.float64) * D**-0.25 for a in (q, k))
  square = float(((x[:, None] + y) ** 2).sum(-1).mean())
  told = cases.favor('softmax_oprf', oprf_mean_square=square)
  for one, two in zip(
    attention.kernel_estimate(favor, q, k, projection=w),
    attention.kernel_estimate(told, q, k, projection=w),
    strict=True,
  ):
    np.testing.assert_allclose(one, two, rtol=1e-4)


def test_rows_are_vectors():
  q, k = vectors()
  favor = cases.favor('softmax_pos')
  with pytest.raises(ValueError, match=r'q must be \[n, d\].*got \(1, 3, 8\)'):
    inspect.unwrap(attention.kernel_estimate)(
      favor, q[None], k, projection=None
    )
