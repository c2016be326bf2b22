"""Distributions of actions against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from rl import distributions

KEY = jax.random.key(7)
DRAWS = 20_000


def _categorical():
  return distributions.Categorical(2 * jax.random.normal(KEY, (3, 4)))


def _gaussian():
  mean = jax.random.normal(KEY, (3, 2))
  return distributions.DiagonalGaussian(mean, jnp.array([0.3, -0.7]))


def test_categorical():
  given = _categorical()
  logits = np.float64(given.logits)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

  @jax.jit
  def found(given, keys):
    log_prob = jax.vmap(lambda a: given.log_prob(jnp.full(3, a)))(jnp.arange(4))
    draws = jax.vmap(given.sample)(keys)
    return log_prob, given.entropy(), given.mode(), draws

  log_prob, entropy, mode, draws = jax.device_get(
    found(given, jax.random.split(KEY, DRAWS))
  )
  np.testing.assert_allclose(log_prob, np.log(p).T, rtol=1e-5)
  np.testing.assert_allclose(entropy, stats.entropy(p.T), rtol=1e-5)
  np.testing.assert_array_equal(mode, p.argmax(-1))
  assert draws.dtype == np.int32
  share = (draws[..., None] == np.arange(4)).mean(0)
  error = np.sqrt(p * (1 - p) / DRAWS)
  assert (np.abs(share - p) < 4 * error).all(), (share, p)


def test_impossible_choices():
  given = distributions.Categorical(jnp.array([[0.0, -jnp.inf, 0.0]]))
  np.testing.assert_allclose(given.entropy(), np.log(2), rtol=1e-6)
  np.testing.assert_allclose(given.log_prob(jnp.array([2])), -np.log(2))


def test_gaussian():
  given = _gaussian()
  std = np.exp(np.float64(given.log_std))
  point = np.asarray(jax.random.normal(jax.random.key(8), (3, 2)))
  want = stats.norm.logpdf(point, given.mean, std).sum(-1)
  got = given.log_prob(jnp.asarray(point))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  want = stats.norm.entropy(scale=std).sum()
  np.testing.assert_allclose(given.entropy(), np.full(3, want), rtol=1e-5)
  np.testing.assert_array_equal(given.mode(), given.mean)
  draws = np.asarray(jax.vmap(given.sample)(jax.random.split(KEY, DRAWS)))
  z = (draws.mean(0) - given.mean) / std * np.sqrt(DRAWS)
  assert np.abs(z).max() < 4, z
  # The standard error of a deviation is about 1 / sqrt(2 N) of it.
  z = (draws.std(0) / std - 1) * np.sqrt(2 * DRAWS)
  assert np.abs(z).max() < 4, z


def test_gradients_are_those_of_finite_differences():
  logits = jnp.array([0.3, -1.0, 2.0])
  total = lambda x: (
    distributions.Categorical(x).entropy()
    + 3 * distributions.Categorical(x).log_prob(jnp.int32(1))
  )
  got = jax.grad(total)(logits)
  exact = np.float64(logits)

  def reference(x):
    p = np.exp(x) / np.exp(x).sum()
    return stats.entropy(p) + 3 * np.log(p[1])

  for i, unit in enumerate(np.eye(3)):
    step = 1e-5 * unit
    want = (reference(exact + step) - reference(exact - step)) / 2e-5
    np.testing.assert_allclose(got[i], want, rtol=1e-4)


def test_divergences():
  first, second = _categorical(), distributions.Categorical(jnp.zeros((3, 4)))
  p = np.asarray(jax.nn.softmax(np.float64(first.logits)))
  want = [stats.entropy(row, np.full(4, 0.25)) for row in p]
  np.testing.assert_allclose(first.kl(second), want, rtol=1e-5)
  excluded = distributions.Categorical(jnp.array([[0.0, -jnp.inf, 0.0]]))
  even = distributions.Categorical(jnp.zeros((1, 3)))
  np.testing.assert_allclose(excluded.kl(even), [np.log(1.5)], rtol=1e-6)
  assert np.isinf(even.kl(excluded)).all()
  wide = distributions.DiagonalGaussian(jnp.ones((3, 2)), jnp.array([0.1, 0.2]))
  # Of one-dimensional parts, by quadrature.
  x, given = np.linspace(-12, 12, 20_001), _gaussian()
  want = np.zeros(3)
  for mean, log_std, other, log_other in zip(
    np.asarray(given.mean).T,
    given.log_std,
    wide.mean.T,
    wide.log_std,
    strict=True,
  ):
    log_p = stats.norm.logpdf(x[:, None], mean, np.exp(log_std))
    log_q = stats.norm.logpdf(x[:, None], other, np.exp(log_other))
    want += np.trapezoid(np.exp(log_p) * (log_p - log_q), x, axis=0)
  np.testing.assert_allclose(given.kl(wide), want, rtol=1e-4)
  np.testing.assert_allclose(given.kl(given), np.zeros(3), atol=1e-6)
