"""Bins: round trips, bounds, the worked example, affine invariance."""

import dataclasses

import numpy as np
import pytest

from hpo import spaces
from hpo.optformer import quantizing
from tests import refusals, seeds
from tests.hpo.optformer import optformer_cases as cases

Q = quantizing.NUM_BINS
FREE = tuple(p for p in cases.MIXED.parameters if not p.is_fixed)
SPACE = spaces.Space(FREE)


def test_round_trips_err_by_half_a_bin_at_most():
  codes = SPACE.sample(seeds.rng(0), 3000)
  tokens = quantizing.parameter_tokens(FREE, codes)
  found = quantizing.parameter_codes(FREE, tokens)
  for i, parameter in enumerate(FREE):
    if isinstance(parameter, spaces.Float):
      error = parameter.to_scaled(found[:, i]) - parameter.to_scaled(
        codes[:, i]
      )
      assert np.abs(error).max() <= 0.5 / Q + 1e-7
  logs = np.log(found[:, 1]) - np.log(codes[:, 1])
  assert np.abs(logs).max() <= (np.log(1e2) - np.log(1e-4)) / (2 * Q) + 1e-5
  np.testing.assert_array_equal(found[:, 3], codes[:, 3])  # high - low = 999
  assert (found[:, 4] != codes[:, 4]).any()  # 5001 whole numbers in 1000 bins
  np.testing.assert_array_equal(found[:, 5:], codes[:, 5:])


def test_every_bin_is_its_own_round_trip():
  k = np.arange(Q)
  np.testing.assert_array_equal(quantizing.quantize(quantizing.centers(k)), k)
  for parameter in FREE[:3]:
    codes = quantizing.parameter_codes((parameter,), k[:, None])
    found = quantizing.parameter_tokens((parameter,), codes)
    np.testing.assert_array_equal(found[:, 0], k)


def test_bounds():
  np.testing.assert_array_equal(
    quantizing.quantize(np.array([0, 1.0])), [0, 999]
  )
  np.testing.assert_array_equal(
    quantizing.legal_counts(FREE), [Q, Q, Q, Q, Q, 3, 3]
  )


def test_the_worked_example():
  tokens = quantizing.parameter_tokens(
    tuple(cases.PAPER.problem.space.parameters), cases.PAPER.codes
  )
  np.testing.assert_array_equal(tokens, [[831, 0], [645, 1]])
  for start, size, expected in ((0.0, 1.0, [0, 999]), (0.2, 0.6, [200, 800])):
    scale = quantizing.ObjectiveRange.of(cases.PAPER.gains, start, size)
    z = scale.to_scaled(cases.PAPER.gains)
    np.testing.assert_array_equal(quantizing.quantize(z), expected)


def test_affine_maps_of_the_objective_change_nothing():
  rng = seeds.rng(1)
  y = rng.normal(size=200)

  def tokens(values):
    scale = quantizing.ObjectiveRange.of(values)
    return quantizing.quantize(scale.to_scaled(values))

  for a, b in ((3.7, 0.0), (1e-6, 5.0), (1e8, -1e9)):
    assert np.abs(tokens(a * y + b) - tokens(y)).max() <= 1


def test_the_random_range_is_met_and_keeps_the_order():
  rng = seeds.rng(2)
  y = rng.normal(size=50)
  for start, size in ((0.05, 0.3), (0.0, 1.0), (0.7, 0.3)):
    scale = quantizing.ObjectiveRange.of(y, start, size)
    k = quantizing.quantize(scale.to_scaled(y))
    assert abs(k.min() - start * Q) <= 1
    assert abs(k.max() - min((start + size) * Q, Q - 1)) <= 1
    assert (np.diff(k[np.argsort(y)]) >= 0).all()
    np.testing.assert_allclose(scale.from_scaled(scale.to_scaled(y)), y)
    error = scale.from_scaled(quantizing.centers(k)) - y
    assert np.abs(error).max() <= scale.bin_width() * 0.501


def test_the_largest_range_does_not_overflow():
  values = np.array([-1e308, 0.0, 1e308])
  scale = quantizing.ObjectiveRange.of(values)
  z = scale.to_scaled(values)
  np.testing.assert_allclose(z, [0.2, 0.5, 0.8])
  np.testing.assert_allclose(scale.from_scaled(z), values, atol=1e293)
  np.testing.assert_allclose(scale.bin_width(), 1e305 / 0.3)


def test_equal_values_of_the_largest_size_have_a_range():
  most = np.finfo(np.float64).max
  for value in (most, -most):
    scale = quantizing.ObjectiveRange.of(np.array([value, value]))
    z = scale.to_scaled(np.array([value]))
    assert 0.2 <= z[0] <= 0.8
    np.testing.assert_allclose(scale.from_scaled(z), value)


@pytest.mark.parametrize(
  'values', [[], [np.nan], [3.0], [3.0, 3.0], [1e9, 1e9], [1e17, 1e17]]
)
def test_equal_values_lie_in_the_middle(values):
  scale = quantizing.ObjectiveRange.of(np.array(values))
  assert scale.low < scale.high
  known = [v for v in values if v == v]
  np.testing.assert_allclose(scale.to_scaled(np.array(known)), 0.5)


test_what_has_no_bin_is_refused = refusals.table(
  (lambda: quantizing.quantize(np.array([0.5, np.nan])), 'nan'),
  (lambda: quantizing.quantize(np.array([np.inf])), 'inf'),
  (lambda: quantizing.quantize(np.array([1.001])), r'\[0, 1\]'),
  (lambda: quantizing.quantize(np.array([-0.001])), r'\[0, 1\]'),
  (lambda: quantizing.centers(np.array([1000])), '0..999'),
  (lambda: quantizing.centers(np.array([-1])), '0..999'),
  (
    lambda: quantizing.parameter_codes(FREE[5:6], np.array([[3]])),
    "'d' must lie in 0..2",
  ),
  (
    lambda: quantizing.parameter_tokens(FREE[:1], np.array([[np.nan]])),
    "parameter 'x'",
  ),
  (
    lambda: quantizing.legal_counts(
      (spaces.Categorical('c', tuple(map(str, range(1001)))),)
    ),
    'at most 1000',
  ),
  (lambda: quantizing.ObjectiveRange(1.0, 1.0), 'low < high'),
  (lambda: quantizing.ObjectiveRange(1.0, np.inf), 'finite'),
  (lambda: quantizing.ObjectiveRange(0.0, 1.0, 0.5, 0.6), 'start and size'),
)


def test_goals_are_one_flip():
  found = cases.study(seeds.rng(3))
  other = dataclasses.replace(
    found,
    problem=dataclasses.replace(found.problem, goal='MINIMIZE'),
    values=-found.values,
  )
  np.testing.assert_array_equal(found.gains, other.gains)
