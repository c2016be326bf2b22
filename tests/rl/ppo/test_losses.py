"""Terms of the loss against their definitions, step by step, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import normalizer
from rl.ppo import losses

policy_loss = jax.jit(losses.policy_loss, static_argnums=2)
value_loss = jax.jit(losses.value_loss, static_argnums=3)
standardize = jax.jit(losses.standardize)
explained_variance = jax.jit(losses.explained_variance)
RNG = np.random.default_rng(11)


def _numbers(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def test_policy_loss():
  log_ratio, advantage = 0.4 * _numbers(50), _numbers(50)
  got = policy_loss(jnp.asarray(log_ratio), jnp.asarray(advantage), 0.2)
  want = []
  for r, a in zip(np.exp(np.float64(log_ratio)), advantage, strict=True):
    if a > 0:
      want.append(-a * min(r, 1.2))
    else:
      want.append(-a * max(r, 0.8))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_policy_loss_has_no_gradient_where_it_went_far_enough():
  ratios = np.log([1.3, 1.3, 0.7, 0.7, 1.1])
  advantage = jnp.array([1.0, -1.0, 1.0, -1.0, 1.0])
  total = lambda x: policy_loss(x, advantage, 0.2).sum()
  got = jax.jit(jax.grad(total))(jnp.float32(ratios))
  np.testing.assert_allclose(got, [0, 1.3, -0.7, 0, -1.1], rtol=1e-5)


def test_value_loss():
  value, old, target = _numbers(3, 40)
  arrays = [jnp.asarray(x) for x in (value, old, target)]
  near = np.clip(np.float64(value), old - 0.3, old + 0.3)
  want = np.maximum((value - target) ** 2, (near - target) ** 2)
  np.testing.assert_allclose(value_loss(*arrays, 0.3), want, rtol=1e-4)
  free = value_loss(*arrays, None)
  np.testing.assert_allclose(free, (value - target) ** 2, rtol=1e-5)
  assert np.abs(free - want).max() > 0.1


def test_kl_and_outside():
  log_ratio = jnp.log(jnp.array([1.0, 1.19, 1.21, 0.81, 0.79]))
  np.testing.assert_array_equal(losses.outside(log_ratio, 0.2), [0, 0, 1, 0, 1])
  p, q = np.array([0.2, 0.5, 0.3]), np.array([0.25, 0.35, 0.4])
  estimate = p @ np.asarray(losses.kl(jnp.asarray(np.log(q / p))))
  np.testing.assert_allclose(estimate, p @ np.log(p / q), rtol=1e-4)


def test_masked():
  x, weight = _numbers(6, 7), np.float32(RNG.random((6, 7)) < 0.6)
  kept = np.float64(x[weight > 0])
  some = jnp.asarray(x), jnp.asarray(weight)
  np.testing.assert_allclose(
    jax.jit(losses.mean)(*some), kept.mean(), rtol=1e-5
  )
  got = np.asarray(standardize(*some))[weight > 0]
  want = (kept - kept.mean()) / kept.std()
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  none = jnp.zeros((6, 7))
  assert jax.jit(losses.mean)(some[0], none) == 0
  twice = np.stack([x, 2 * x], axis=-1)
  seen = jax.jit(normalizer.weighted)(twice, some[1])
  np.testing.assert_allclose(seen.count, len(kept))
  np.testing.assert_allclose(
    seen.mean, [kept.mean(), 2 * kept.mean()], rtol=1e-4
  )
  np.testing.assert_allclose(
    np.asarray(seen.m2) / len(kept), [kept.var(), 4 * kept.var()], rtol=1e-4
  )


def test_explained_variance():
  target, weight = _numbers(300), np.ones(300, np.float32)
  value = 0.5 * target + 3
  arrays = [jnp.asarray(x) for x in (value, target, weight)]
  np.testing.assert_allclose(explained_variance(*arrays), 0.75, rtol=1e-4)
  flat = explained_variance(arrays[0], jnp.ones(300), arrays[2])
  assert flat == 0
  weight[:100] = 0
  value[:100] = 1e6
  got = explained_variance(jnp.asarray(value), arrays[1], jnp.asarray(weight))
  np.testing.assert_allclose(got, 0.75, rtol=1e-4)


@pytest.mark.parametrize('value', [0.1, -1234.567, 1e-6, 0.0])
@pytest.mark.parametrize('counted', [1, 7, 31])
def test_equal_advantages_are_standardized_to_zero(value, counted):
  """Up to rounding, and whatever the steps that do not count hold."""
  weight = (np.arange(31) < counted).astype(np.float32)
  x = np.where(weight > 0, np.float32(value), 7.0).astype(np.float32)
  x[::2] = np.nextafter(x[::2], np.float32(np.inf))
  got = standardize(jnp.asarray(x), jnp.asarray(weight))
  np.testing.assert_array_equal(got, 0)


def test_small_differences_are_standardized():
  x = 1.0 + 1e-4 * _numbers(40)
  got = standardize(jnp.asarray(x), jnp.ones(40))
  np.testing.assert_allclose(got.std(), 1, rtol=1e-2)
