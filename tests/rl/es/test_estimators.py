"""Estimators: closed forms, bias with power checks, lost pairs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.es import directions, estimators, shaping
from tests import marks

SIGMA = 0.5
X = jnp.array([0.7, -0.2, 0.4, 1.1])
A = jnp.array([1.0, -2.0, 0.5, 3.0])
Q = jnp.array([2.0, 1.0, -1.0, 0.5])
PAIRS = 4
DRAWS = 12_000
RAW = estimators.Antithetic(shaping.unshaped)
FORWARD = estimators.Forward(shaping.unshaped)
GAUSSIAN = directions.Directions()
ORTHOGONAL = directions.Directions('orthogonal', block=4)
SPHERE = directions.Directions('orthogonal', 'sqrt_d', block=4)
HADAMARD = directions.Directions('hadamard', block=4)

# Functions with the gradient at X of their Gaussian smoothing.
CASES = {
  'linear': (lambda x: A @ x + 30.0, A),
  'quadratic': (lambda x: x @ (Q * x) - 7.0, 2 * Q * X),
  'cubic': (lambda x: jnp.sum(x**3), 3 * X**2 + 3 * SIGMA**2),
}


def estimates(estimator, spec, function, valid=None, fill=None):
  """One estimate per key, float64 [DRAWS, d]."""

  def one(key):
    key_rows, key_lost = jax.random.split(key)
    rows = directions.rows(spec, key_rows, 0, count=PAIRS, size=4)
    points = [X + SIGMA * rows]
    if estimator.mirrored:
      points.append(X - SIGMA * rows)
    returns = jax.vmap(function)(jnp.concatenate(points))
    kept = jnp.ones(returns.shape, bool)
    if valid is not None:
      kept = valid(key_lost, returns.shape[0])
    if fill is not None:
      returns, kept = jnp.where(kept, returns, fill), jnp.ones_like(kept)
    weights = estimator.weights(returns, kept, sigma=SIGMA, center=function(X))
    return weights @ rows

  keys = jax.random.split(jax.random.key(1), DRAWS)
  return np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)


@functools.partial(jax.jit, static_argnums=0)
def weigh(estimator, returns, valid, sigma=0.1, center=None):
  return estimator.weights(returns, valid, sigma=sigma, center=center)


def worst_score(samples, expected):
  error = samples.std(0) / math.sqrt(len(samples)) + 1e-6
  return np.max(np.abs(samples.mean(0) - np.asarray(expected)) / error)


@pytest.mark.parametrize(
  ('estimator', 'spec', 'case'),
  [
    *((RAW, GAUSSIAN, case) for case in CASES),
    (RAW, ORTHOGONAL, 'cubic'),
    (FORWARD, GAUSSIAN, 'quadratic'),
    *marks.slow(
      *((RAW, ORTHOGONAL, case) for case in ('linear', 'quadratic')),
      *((FORWARD, GAUSSIAN, case) for case in ('linear', 'cubic')),
    ),
  ],
)
def test_unbiased(estimator, spec, case):
  function, expected = CASES[case]
  samples = estimates(estimator, spec, function)
  score = worst_score(samples, expected)
  assert score < 4.5, (samples.mean(0), expected, score)
  if estimator is RAW:
    planted = worst_score(1.05 * samples, expected)
    assert planted > 4.5, f'no power: {planted}'


def test_fixed_norms_estimate_other_smoothings_of_a_cubic():
  function = CASES['cubic'][0]
  ball = 3 * X**2 + 3 * SIGMA**2 * 4 / 6
  for spec, expected in ((SPHERE, ball), (HADAMARD, 3 * X**2 + SIGMA**2)):
    samples = estimates(RAW, spec, function)
    assert worst_score(samples, expected) < 4.5, (samples.mean(0), expected)
    assert worst_score(samples, CASES['cubic'][1]) > 6


@pytest.mark.parametrize(
  ('spec', 'expected'), [(GAUSSIAN, 5 / 4), (SPHERE, 0.0), (HADAMARD, 0.0)]
)
def test_variance_for_a_linear_function(spec, expected):
  """(d + 1) / n independent, (d - b) / b orthogonal, times |grad|^2."""
  samples = estimates(RAW, spec, CASES['linear'][0])
  variance = samples.var(0).sum() / float(A @ A)
  assert abs(variance - expected) < 0.04, variance


def test_worked_example():
  """sigma 0.1, g = e1, e2, F+ = (3, 2), F- = (1, 2), F0 = 2."""
  returns, valid = jnp.array([3.0, 2.0, 1.0, 2.0]), jnp.ones(4, bool)
  counted = estimators.Antithetic(count_center=True)
  for estimator, expected in (
    (RAW, 5),
    (counted, 7.90569),
    (estimators.TopPairs(), 1.41421),
  ):
    weights = weigh(estimator, returns, valid, 0.1, jnp.float32(2.0))
    np.testing.assert_allclose(weights, [expected, 0], rtol=1e-5, atol=1e-5)


@functools.lru_cache
def pairs():
  return 3 * jax.random.normal(jax.random.key(7), (12,)) + 50, jnp.ones(
    12, bool
  )


def test_all_top_pairs_are_antithetic_up_to_the_learning_rate():
  returns, valid = pairs()
  top = weigh(estimators.TopPairs(), returns, valid, 0.2)
  plain = weigh(estimators.Antithetic(), returns, valid, 0.2)
  rate = estimators.top_pairs_learning_rate(0.01, 0.2)
  np.testing.assert_allclose(rate * top, 0.01 * plain, rtol=1e-4)


@pytest.mark.parametrize('by', ['max', 'difference'])
@pytest.mark.parametrize(('fraction', 'kept'), [(0.5, 3), (0.4, 3), (1 / 6, 1)])
def test_top_pairs_against_numpy(by, fraction, kept):
  returns, valid = pairs()
  plus, minus = np.split(np.asarray(returns, np.float64), 2)
  score = np.maximum(plus, minus) if by == 'max' else np.abs(plus - minus)
  best = np.argsort(-score)[:kept]
  std = np.concatenate([plus[best], minus[best]]).std()
  expected = np.zeros(6)
  expected[best] = (plus - minus)[best] / (kept * std)
  estimator = estimators.TopPairs(fraction, by)
  weights = weigh(estimator, returns, valid, 0.2)
  np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  'estimator',
  [
    RAW,
    FORWARD,
    estimators.Antithetic(),
    estimators.Antithetic(shaping.centered_ranks),
    estimators.Forward(),
    estimators.TopPairs(0.5),
  ],
)
def test_constants_and_total_loss_give_exactly_zero(estimator):
  returns = jnp.full(12, 0.1)
  center = jnp.float32(0.1)
  for valid in (jnp.ones(12, bool), jnp.zeros(12, bool)):
    values = jnp.where(valid, returns, jnp.nan)
    weights = weigh(estimator, values, valid, 0.1, center)
    np.testing.assert_array_equal(weights, 0)


def test_even_functions_give_exactly_zero_pair_by_pair():
  half = pairs()[0][:6]
  returns = jnp.concatenate([half, half])
  for estimator in (RAW, estimators.Antithetic(), estimators.TopPairs()):
    weights = weigh(estimator, returns, jnp.ones(12, bool))
    np.testing.assert_array_equal(weights, 0)


@pytest.mark.parametrize(
  'estimator',
  [
    RAW,
    estimators.Antithetic(),
    estimators.Antithetic(shaping.centered_ranks),
    estimators.TopPairs(0.5),
  ],
)
def test_a_lost_pair_leaves_the_estimate_of_the_others(estimator):
  returns, _ = pairs()
  valid = jnp.ones(12, bool).at[2].set(False).at[10].set(False)
  whole = np.array([0, 1, 3, 5])
  both = np.concatenate([whole, whole + 6])
  if isinstance(estimator, estimators.TopPairs):
    # Half of six pairs, of the four that are left.
    expected = weigh(
      estimators.TopPairs(0.75), returns[both], jnp.ones(8, bool)
    )
  else:
    expected = weigh(estimator, returns[both], jnp.ones(8, bool))
  broken = returns.at[2].set(jnp.nan).at[10].set(jnp.inf)
  weights = weigh(estimator, broken, valid)
  np.testing.assert_allclose(weights[whole], expected, rtol=1e-5)
  np.testing.assert_array_equal(weights[np.array([2, 4])], 0)


def some_lost(key, size):
  """A fifth is lost; never all of them."""
  return jax.random.bernoulli(key, 0.8, (size,)).at[0].set(True).at[4].set(True)


def test_lost_members_leave_no_bias_but_zeros_do():
  function, expected = lambda x: A @ x + 3.0, A
  dropped = estimates(RAW, GAUSSIAN, function, valid=some_lost)
  assert worst_score(dropped, expected) < 4.5
  zeros = estimates(RAW, GAUSSIAN, function, valid=some_lost, fill=0.0)
  assert worst_score(zeros, expected) > 6


def test_rejects():
  with pytest.raises(ValueError, match='got center=None'):
    estimators.Forward().weights(*pairs(), sigma=0.1)
  with pytest.raises(ValueError, match='got center=None'):
    estimators.Antithetic(count_center=True).weights(*pairs(), sigma=0.1)
  for arguments in ((0.0,), (1.5,), (0.5, 'min')):
    with pytest.raises(ValueError, match='got'):
      estimators.TopPairs(*arguments)
