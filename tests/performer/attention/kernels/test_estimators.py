"""Estimators of exp(x . y) beside their closed forms, by Monte Carlo.

One function draws, one function judges: it is the same that must catch a
planted bias.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer.attention.analysis import theory
from performer.attention.kernels import general, table
from tests import marks, seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

D = 4
DRAWS = 20_000
E1, ONES = np.eye(D)[0], np.ones(D) / math.sqrt(D)
# Along the axes and the diagonals, where wrong matrices show; and in general.
UNBIASED = [(s * 0.6 * u, s * 0.6 * u) for u in (E1, ONES) for s in (1, -1)] + [
  (0.7 * E1, 0.7 * ONES)
]
GENERAL = [
  (np.array([0.5, -0.2, 0.3, 0.1]), np.array([0.1, 0.3, -0.2, 0.4])),
  (np.array([0.2, 0.1, -0.3, 0.4]), np.array([0.4, 0.0, 0.1, 0.3])),
]
TRANSFORM = np.diag([1.5, 0.8, 1.0, 0.6]) + 0.2 * np.eye(D, k=1)
CASES = {
  'pos_reg': {'kernel': 'softmax_pos_reg', 'features': D},
  'hyp_reg': {'kernel': 'softmax_hyp_reg', 'features': 2 * D},
  'oprf': {'kernel': 'softmax_oprf', 'features': D, 'oprf_mean_square': 1.5},
  'general': {'kernel': 'softmax_general', 'features': D},
  'angular': {'kernel': 'softmax_angular', 'features': 16 * D, 'mix_rows': 2},
  'angular_apart': {
    'kernel': 'softmax_angular',
    'features': 16 * D,
    'mix_rows': 2,
    'mix_shared': False,
  },
  'gaussian': {
    'kernel': 'softmax_gaussian',
    'features': 18 * D,
    'mix_rows': 2,
    'mix_bandwidth': 1.3,
  },
}


@functools.lru_cache
def samples(name, ortho):
  """Estimates over exp(x . y), float64 [DRAWS, pairs]."""
  favor = cases.favor(ortho=ortho, **CASES[name])
  pairs = np.asarray(UNBIASED + GENERAL, np.float32) * D**0.25
  x, y = (jnp.asarray(pairs[:, i])[None, None] for i in (0, 1))

  def draw(key):
    w = favor.draw(key, layer=0, step=0, num_heads=1, head_dim=D)
    if name == 'general':
      w = w._replace(transform=jnp.asarray(TRANSFORM, jnp.float32))
    maps = favor.spec.maps(w, D)
    one, two = maps.queries(x), maps.keys(y)
    log = one.log_weight + two.log_weight
    if favor.spec.log:
      total = jnp.exp(one.values + two.values + log[..., None]).sum(-1)
    else:
      total = (one.values * two.values).sum(-1) * jnp.exp(log)
    return favor.spec.scale(favor.features) * total[0, 0]

  keys = jax.random.split(seeds.key(3), DRAWS)
  run = jax.jit(lambda keys: jax.lax.map(draw, keys, batch_size=2000))
  truth = np.exp([x @ y for x, y in UNBIASED + GENERAL])
  return np.asarray(run(keys), np.float64) / truth


def where_of(pairs):
  x, y = np.asarray(pairs, np.float32).swapaxes(0, 1)
  return theory.pairs(jnp.asarray(x), jnp.asarray(y))


def expected_mean(name):
  ratio = np.ones(len(UNBIASED + GENERAL))
  if name.endswith('_reg'):
    plus = where_of(UNBIASED + GENERAL).plus
    ratio = np.exp(theory.log_regularized_ratio(D, plus))
  return ratio


def is_unbiased(estimates, mean):
  """Whether every mean is within 4 standard errors (or exact to rounding)."""
  error = estimates.std(0) / len(estimates) ** 0.5
  return np.abs(estimates.mean(0) - mean) < 4 * error + 2e-6


@pytest.mark.slow
@pytest.mark.parametrize('ortho', ['iid', 'rorf'])
@pytest.mark.parametrize('name', CASES)
def test_means(name, ortho):
  estimates, mean = samples(name, ortho), expected_mean(name)
  assert is_unbiased(estimates, mean).all(), estimates.mean(0) / mean
  assert not is_unbiased(1.05 * estimates, mean).any(), 'no power'


@pytest.mark.parametrize(
  'name',
  [
    *('pos_reg', 'oprf'),
    *marks.slow('hyp_reg', 'general', 'angular', 'angular_apart', 'gaussian'),
  ],
)
def test_mean_squared_errors_are_the_closed_forms(name):
  """For independent rows; orthogonal ones are not worse."""
  favor = cases.favor(**CASES[name])
  pairs = np.asarray(UNBIASED + GENERAL)
  if name == 'general':
    inverse = np.linalg.inv(TRANSFORM)
    pairs = np.stack([pairs[:, 0] @ TRANSFORM.T, pairs[:, 1] @ inverse], 1)
  expected = theory.relative_mse(
    favor.kernel,
    where_of(pairs),
    features=favor.features,
    size=D,
    mean_square=favor.oprf_mean_square,
    mix_rows=2,
    mix_bandwidth=favor.mix_bandwidth or 1.0,
    mix_shared=favor.mix_shared,
  )
  squares = (samples(name, 'iid') - 1) ** 2
  error = squares.std(0) / DRAWS**0.5
  assert (np.abs(squares.mean(0) - expected) < 4 * error + 1e-9).all(), (
    squares.mean(0) / expected
  )
  assert (error < 0.15 * np.asarray(expected) + 1e-9).all(), 'no power'
  orthogonal = (samples(name, 'rorf') - 1) ** 2
  noise = (orthogonal.std(0) ** 2 / DRAWS) ** 0.5 + error
  assert (orthogonal.mean(0) < squares.mean(0) + 4 * noise).all()


@pytest.mark.parametrize('name', list(theory.COPIES))
def test_features_per_row_are_those_of_the_kernel(name):
  """Of any; those of a hybrid are 8 n and 2 (4 n + 1)."""
  expected = {'softmax_angular': 24, 'softmax_gaussian': 26}
  found = theory.copies(name, mix_rows=3)
  assert found == expected.get(name, table.get(name).copies)


def hybrid_estimate(x, y, *, swap=False):
  """One draw of the angular hybrid for rows of x and y, both scaled."""
  favor = cases.favor(**CASES['angular'])
  w = cases.projection(favor, d=D)
  maps = favor.spec.maps(w, D)
  x, y = (jnp.asarray(z, jnp.float32)[None, None] * D**0.25 for z in (x, y))
  one, two = maps.queries(x), maps.keys(y)
  keys = np.asarray(two.values)
  if swap:
    # "Same side" for "other side", in both parts: [part, coefficient, base].
    parts = keys.reshape(*keys.shape[:-1], 2, 4, 2 * D)
    keys = np.roll(parts, 2, axis=-2).reshape(keys.shape)
  weight = np.exp(one.log_weight + two.log_weight)
  return ((one.values * keys).sum(-1) * weight / D)[0, 0]


@pytest.mark.slow
def test_angular_hybrid_is_exact_at_both_ends():
  """In every draw, not in the mean; exchanged coefficients are wrong there."""
  x = np.asarray(twin.normal(5, 20, D)) * 0.7
  for y in (x, -x):
    truth = np.exp((x * y).sum(-1))
    np.testing.assert_allclose(hybrid_estimate(x, y), truth, rtol=2e-5)
    wrong = hybrid_estimate(x, y, swap=True)
    assert np.median(np.abs(wrong / truth - 1)) > 0.05


def test_balance_minimises_the_mean_square():
  rng = seeds.rng(6)
  # Entries that are large in q are small in k.
  scale = np.exp(np.linspace(-1, 1, D) * [[1], [-1]])
  q, k = (
    jnp.asarray(rng.standard_normal((3, 40, 2, D)) * s, jnp.float32)
    for s in scale
  )
  mask = twin.mask(7, 3, 40)
  diagonal = np.asarray(general.balance(q, k, mask))
  kept = np.asarray(k)[np.asarray(mask)]
  ratio = (kept**2).mean(0) / (np.asarray(q) ** 2).mean((0, 1))
  np.testing.assert_allclose(diagonal, ratio**0.25, rtol=1e-5)

  def mean(a):
    x, y = np.asarray(q[..., 0, :]) * a, kept[:, 0] / a
    return (x**2).sum(-1).mean() + (y**2).sum(-1).mean()

  best = mean(diagonal[0])
  for j in range(D):
    for factor in (0.9, 1.1):
      other = diagonal[0].copy()
      other[j] *= factor
      assert mean(other) > best
  assert best < 0.8 * mean(np.ones(D))
  flat = general.balance(q.at[..., 0].set(0), k)
  assert (flat[:, 0] == 1).all()


def test_tails_of_orthogonal_regularized_features_are_lighter():
  """arXiv:2009.14794, Theorem 3: fewer large errors than independent rows."""
  tails = {}
  for ortho in ('iid', 'rorf'):
    values = samples('pos_reg', ortho)[:, 0] / expected_mean('pos_reg')[0]
    tails[ortho] = (values > 2).mean()
  error = (tails['iid'] / DRAWS) ** 0.5
  assert tails['rorf'] < 0.5 * tails['iid'] - 4 * error, tails


@pytest.mark.slow
def test_largest_error_falls_with_rows_and_hardly_grows_with_length():
  """The trend of arXiv:2009.14794, Theorem 4: m^-1/2, and log L at most."""
  d, length = 8, 512
  x, y = (np.asarray(twin.normal(s, length, d)) for s in (8, 9))
  x, y = (0.6 * z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (x, y))
  truth = np.exp(x @ y.T)

  def worst(rows, size, seed):
    favor = cases.favor('softmax_trig', features=2 * rows)
    w = np.asarray(cases.projection(favor, seed=seed, d=d))
    a, b = x[:size] @ w.T, y[:size] @ w.T
    dots = np.cos(a) @ np.cos(b).T + np.sin(a) @ np.sin(b).T
    return np.abs(dots / rows * math.exp(0.36) - truth[:size, :size]).max()

  def median(rows, size):
    return np.median([worst(rows, size, seed) for seed in range(9)])

  by_rows = [median(rows, length) for rows in (16, 64, 256)]
  slopes = np.diff(np.log(by_rows)) / math.log(4)
  assert (np.abs(slopes + 0.5) < 0.15).all(), slopes
  growth = median(64, 512) / median(64, 32)
  assert 1 <= growth < math.log(512) / math.log(32) * 1.3, growth
