"""Closed forms against tables, quadrature and each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer.attention.analysis import theory
from tests import seeds


def one_row(kernel, where, *, size=64, **options):
  """Relative MSE of one row of the projection."""
  rows = {'mix_rows': options.get('mix_rows', 4)}
  return theory.relative_mse(
    kernel, where, features=theory.copies(kernel, **rows), size=size, **options
  )


def at_plus(plus):
  quarter = jnp.float32(plus) / 4
  return theory.Pairs(quarter, quarter, quarter)


def at_angle(theta, radius=1.0):
  square = jnp.float32(radius**2)
  return theory.Pairs(square * jnp.cos(theta), square, square)


@pytest.mark.parametrize(
  ('theta', 'expected'),
  [
    (0.0, (0, 194.393, 396.040, 0, 0)),
    (math.pi / 6, (0.2041, 112.447, 230.411, 18.911, 3.2653)),
    (math.pi / 2, (2.7622, 2.7622, 6.3891, 2.7622, 1.3811)),
    (math.pi, (3.5604, 0, 0, 0, 0)),
  ],
)
def test_errors_of_unit_vectors(theta, expected):
  """arXiv:2110.04367's kernels at |x| = |y| = 1, in units of one row."""
  kernels = ('trig', 'hyp', 'pos', 'angular', 'angular')
  for name, n, truth in zip(
    kernels, (4, 4, 4, 1, 10**6), expected, strict=True
  ):
    mse = one_row(f'softmax_{name}', at_angle(theta), mix_rows=n)
    mse *= math.exp(2 * math.cos(theta))
    np.testing.assert_allclose(mse, truth, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
  ('size', 'plus', 'expected'),
  [
    (64, 4, 35.4),
    (64, 8, 743),
    (64, 16, 1.1e5),
    (16, 4, 17.23),
    (16, 8, 123),
    (16, 16, 1.85e3),
  ],
)
def test_optimal_positive_features_beat_plain_ones(size, plus, expected):
  oprf = one_row('softmax_oprf', at_plus(plus), size=size)
  np.testing.assert_allclose(oprf, expected, rtol=5e-3)
  assert oprf < one_row('softmax_pos', at_plus(plus), size=size)
  for other in (0.5 * plus, 2 * plus):
    worse = one_row('softmax_oprf', at_plus(plus), size=size, mean_square=other)
    assert worse > oprf


def test_optimal_constants_at_zero_are_the_plain_features():
  constants = theory.oprf_constants(0.0, 16)
  np.testing.assert_allclose(constants, (1, 0, 1, 0), atol=1e-7)
  assert np.isfinite(theory.oprf_constants(1e20, 16)).all()


@pytest.mark.parametrize(
  ('size', 'plus', 'expected'),
  [
    (16, 1, 0.98705),
    (16, 4, 0.83706),
    (64, 1, 0.99629),
    (64, 4, 0.94525),
    (64, 8, 0.8098),
    (64, 16, 0.47065),
  ],
)
def test_regularized_kernel(size, plus, expected):
  ratio = np.exp(theory.log_regularized_ratio(size, jnp.float32(plus)))
  np.testing.assert_allclose(ratio, expected, rtol=2e-5)


def test_series_is_the_mean_over_the_sphere():
  """E exp(sqrt(d) r u) with u the first coordinate on the unit sphere."""
  for d, r in ((3, 0.5), (8, 2.0), (64, 4.0)):
    u = np.linspace(-1, 1, 200_001)
    weight = (1 - u**2) ** ((d - 3) / 2)
    mean = (weight * np.exp(math.sqrt(d) * r * u)).sum() / weight.sum()
    ours = theory.log_0f1(d / 2, jnp.float32(d * r * r / 4))
    np.testing.assert_allclose(ours, np.log(mean), rtol=2e-5)


def test_series_at_the_ends_of_its_range():
  z = jnp.asarray([0.0, 1e-6, 1e5, jnp.inf])
  values = jax.jit(lambda z: theory.log_0f1(32.0, z))(z)
  assert values[0] == 0
  np.testing.assert_allclose(values[1], 1e-6 / 32, rtol=1e-2)
  # 0F1(; b; z) ~ Gamma(b) z^((1 - 2b)/4) exp(2 sqrt(z)) / (2 sqrt(pi)), times
  # 1 - (4 (b - 1)^2 - 1) / (16 sqrt(z)) + ...
  leading = (
    math.lgamma(32) - 63 / 4 * math.log(1e5) + 2 * math.sqrt(1e5)
  ) - math.log(2 * math.sqrt(math.pi))
  correction = -(4 * 31**2 - 1) / (16 * math.sqrt(1e5))
  np.testing.assert_allclose(values[2], leading + correction, rtol=5e-4)
  assert values[3] == math.inf


@pytest.mark.parametrize(
  ('radius', 'expected'),
  [
    (0.5, (0.485, 0.383, 0.364, 0.346, 0.343)),
    (1.0, (0.374, 0.260, 0.243, 0.231, 0.229)),
    (1.5, (0.303, 0.186, 0.160, 0.135, 0.132)),
    (2.0, (0.262, 0.153, 0.127, 0.102, 0.098)),
    (3.0, (0.214, 0.119, 0.095, 0.069, 0.065)),
  ],
)
def test_worst_relative_error_of_the_angular_hybrid(radius, expected):
  """Below both parts' worst case, at equal m, for every radius and n."""
  where = at_angle(jnp.linspace(0, math.pi, 20_001), radius)
  bases = [
    jnp.sqrt(one_row(name, where)).max()
    for name in ('softmax_trig', 'softmax_hyp')
  ]
  np.testing.assert_allclose(bases[0], bases[1], rtol=1e-5)
  for n, truth in zip((1, 4, 8, 64, 10**6), expected, strict=True):
    mse = one_row('softmax_angular', where, mix_rows=n)
    ratio = jnp.sqrt(mse.max()) / bases[0]
    np.testing.assert_allclose(ratio, truth, atol=2e-3)


def test_sharing_rows_never_hurts_the_angular_hybrid():
  x, y = seeds.rng(0).standard_normal((2, 200, 8)) / 2
  where = theory.pairs(jnp.asarray(x), jnp.asarray(y))
  shared = one_row('softmax_angular', where)
  apart = one_row('softmax_angular', where, mix_shared=False)
  assert (shared <= apart * (1 + 1e-5)).all()
  assert (shared < 0.9 * apart).any()
  # The Gaussian coefficient may leave [0, 1], and then the claim fails.
  shared = one_row('softmax_gaussian', where)
  apart = one_row('softmax_gaussian', where, mix_shared=False)
  assert (shared > apart * (1 + 1e-5)).any()


def test_errors_fall_with_features_alone_where_there_is_no_bias():
  where = theory.Pairs(*map(jnp.float32, (0.1, 0.3, 0.5)))
  for kernel in theory.COPIES:
    few, many = (
      theory.relative_mse(kernel, where, features=r, size=8) for r in (1e2, 1e9)
    )
    bias = math.expm1(theory.log_regularized_ratio(8, where.plus)) ** 2
    expected = bias if kernel.endswith('_reg') else 0.0
    np.testing.assert_allclose(many, expected, rtol=1e-3, atol=1e-6)
    assert few > many


def test_all_pairs_are_the_pairs():
  x, y = seeds.rng(1).standard_normal((2, 3, 5, 4))
  x, y = jnp.asarray(x), jnp.asarray(y[:, :2])
  whole = theory.all_pairs(x, y)
  single = theory.pairs(x[:, :, None], y[:, None])
  for one, two in zip(whole, single, strict=True):
    assert one.shape == two.shape == (3, 5, 2)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
  plus = ((x[:, :, None] + y[:, None]) ** 2).sum(-1)
  np.testing.assert_allclose(whole.plus, plus, rtol=1e-5)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: theory.copies('relu'), "'relu'"),
    (lambda: one_row('softmax_poss', at_plus(1.0)), "'softmax_pos'"),
    (
      lambda: theory.relative_mse(
        'softmax_pos', at_plus(1.0), features=0, size=8
      ),
      'features=0',
    ),
    (
      lambda: theory.orthogonal_gain(jnp.float32(1), rows=12, size=8),
      'rows=12 size=8',
    ),
    (
      lambda: theory.coefficient_moments(
        'softmax_pos', at_plus(1.0), mix_rows=1
      ),
      'hybrid kernel',
    ),
  ],
)
def test_errors_name_the_value(call, message):
  with pytest.raises(ValueError, match=message):
    call()
