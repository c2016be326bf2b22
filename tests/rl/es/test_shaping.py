"""Shaping: invariances, ties, lost members, equal and broken returns."""

import jax
import numpy as np
import pytest

from rl.es import shaping

ALL = np.ones(9, bool)
RETURNS = np.random.default_rng(0).normal(100, 3, 9).astype(np.float32)
# Compiled as a whole: one operation after the other takes far longer.
z_score, centered_ranks, unshaped = map(
  jax.jit, (shaping.z_score, shaping.centered_ranks, shaping.unshaped)
)
SHAPINGS = (z_score, centered_ranks)


def ranks_twin(values):
  values = np.asarray(values, np.float64)
  below = (values[None] < values[:, None]).sum(1)
  equal = (values[None] == values[:, None]).sum(1)
  return (below + (equal - 1) / 2) / (len(values) - 1) - 0.5


def test_z_score_against_numpy():
  values = np.asarray(RETURNS, np.float64)
  expected = (values - values.mean()) / values.std()
  np.testing.assert_allclose(z_score(RETURNS, ALL), expected, atol=1e-4)


def test_ranks_share_ties():
  values = np.float32([3, 1, 3, 2, 3, 1, 0, 9, 9])
  np.testing.assert_allclose(
    centered_ranks(values, ALL), ranks_twin(values), atol=1e-7
  )


@pytest.mark.parametrize('shape', SHAPINGS)
def test_lost_members_do_not_count(shape):
  valid = np.array([1, 1, 0, 1, 0, 1, 1, 1, 1], bool)
  kept = shape(RETURNS[valid], ALL[:7])
  for filling in (0.0, np.nan, np.inf, 1e6):
    values = np.where(valid, RETURNS, np.float32(filling))
    out = np.asarray(shape(values, valid))
    np.testing.assert_allclose(out[valid], kept, atol=1e-6)
    np.testing.assert_array_equal(out[~valid], 0)
  np.testing.assert_array_equal(shape(RETURNS, ~ALL), 0)


@pytest.mark.parametrize('value', [0.1, -1234.567, 1e-3, 0.0])
@pytest.mark.parametrize('shape', SHAPINGS)
def test_equal_returns_give_exactly_zero(shape, value):
  np.testing.assert_array_equal(shape(np.full(9, value, np.float32), ALL), 0)


def test_invariances():
  z = z_score(RETURNS, ALL)
  moved = z_score(7 * RETURNS - 300, ALL)
  np.testing.assert_allclose(moved, z, atol=1e-3)
  ranks = centered_ranks(RETURNS, ALL)
  np.testing.assert_array_equal(
    centered_ranks(np.exp(RETURNS / 20), ALL), ranks
  )
  assert (np.min(ranks), np.max(ranks)) == (-0.5, 0.5)


@pytest.mark.parametrize('shape', [*SHAPINGS, unshaped])
def test_nan_is_not_hidden(shape):
  broken = np.where(np.arange(9) == 3, np.float32(np.nan), RETURNS)
  assert np.isnan(shape(broken, ALL)).any()


def test_single_member():
  for shape in SHAPINGS:
    np.testing.assert_array_equal(shape(np.float32([5]), ALL[:1]), 0)
