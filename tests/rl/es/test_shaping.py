"""Shaping: invariances, ties, lost members, equal and broken returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.es import shaping

ALL = jnp.ones(9, bool)
RETURNS = jax.random.normal(jax.random.key(0), (9,)) * 3 + 100
SHAPINGS = (shaping.z_score, shaping.centered_ranks)


def ranks_twin(values):
  values = np.asarray(values, np.float64)
  below = (values[None] < values[:, None]).sum(1)
  equal = (values[None] == values[:, None]).sum(1)
  return (below + (equal - 1) / 2) / (len(values) - 1) - 0.5


def test_z_score_against_numpy():
  values = np.asarray(RETURNS, np.float64)
  expected = (values - values.mean()) / values.std()
  np.testing.assert_allclose(shaping.z_score(RETURNS, ALL), expected, atol=1e-4)


def test_ranks_share_ties():
  values = jnp.array([3.0, 1.0, 3.0, 2.0, 3.0, 1.0, 0.0, 9.0, 9.0])
  np.testing.assert_allclose(
    shaping.centered_ranks(values, ALL), ranks_twin(values), atol=1e-7
  )


@pytest.mark.parametrize('shape', SHAPINGS)
def test_lost_members_do_not_count(shape):
  valid = jnp.array([1, 1, 0, 1, 0, 1, 1, 1, 1], bool)
  kept = shape(RETURNS[valid], jnp.ones(7, bool))
  for filling in (0.0, jnp.nan, jnp.inf, 1e6):
    values = jnp.where(valid, RETURNS, filling)
    out = shape(values, valid)
    np.testing.assert_allclose(out[valid], kept, atol=1e-6)
    np.testing.assert_array_equal(out[~valid], 0)
  np.testing.assert_array_equal(shape(RETURNS, ~ALL), 0)


@pytest.mark.parametrize('value', [0.1, -1234.567, 1e-3, 0.0])
@pytest.mark.parametrize('shape', SHAPINGS)
def test_equal_returns_give_exactly_zero(shape, value):
  np.testing.assert_array_equal(shape(jnp.full(9, value), ALL), 0)


def test_a_plain_z_score_fails_on_equal_returns():
  values = np.full(9, 0.1, np.float32)
  with np.errstate(invalid='ignore', divide='ignore'):
    plain = (values - values.mean()) / values.std()
  assert not np.all(plain == 0)


def test_invariances():
  z = shaping.z_score(RETURNS, ALL)
  moved = shaping.z_score(7 * RETURNS - 300, ALL)
  np.testing.assert_allclose(moved, z, atol=1e-3)
  ranks = shaping.centered_ranks(RETURNS, ALL)
  np.testing.assert_array_equal(
    shaping.centered_ranks(jnp.exp(RETURNS / 20), ALL), ranks
  )
  assert float(jnp.max(ranks)) == 0.5
  assert float(jnp.min(ranks)) == -0.5


@pytest.mark.parametrize('shape', [*SHAPINGS, shaping.unshaped])
def test_nan_is_not_hidden(shape):
  assert bool(jnp.any(jnp.isnan(shape(RETURNS.at[3].set(jnp.nan), ALL))))


def test_single_member():
  one = jnp.ones(1, bool)
  for shape in SHAPINGS:
    np.testing.assert_array_equal(shape(jnp.array([5.0]), one), 0)
