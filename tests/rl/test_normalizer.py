"""Statistics: the algebra of merging, in float64, against concatenation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import normalizer

pytestmark = pytest.mark.usefixtures('float64')

# Compiled as a whole: one operation after the other takes ten times as long.
weighted = jax.jit(normalizer.weighted)
merge = jax.jit(normalizer.merge)
merge_all = jax.jit(normalizer.merge_all)
add = jax.jit(normalizer.add)
std = jax.jit(normalizer.std)
normalize = jax.jit(normalizer.normalize, static_argnames='clip')


def data(*sizes):
  rng = np.random.default_rng(0)
  return [rng.normal(1000.0, 3.0, size=(n, 2, 3)) for n in sizes]


def stats(x):
  return weighted(x, np.ones(len(x), x.dtype))


def close(a, b, rtol=1e-10):
  for x, y in zip(a, b, strict=True):
    np.testing.assert_allclose(x, y, rtol=rtol)


def test_merge_is_a_commutative_monoid():
  a, b, c = (stats(x) for x in data(5, 1, 17))
  close(merge(a, b), merge(b, a))
  left = merge(merge(a, b), c)
  close(left, merge(a, merge(b, c)))
  close(left, stats(np.concatenate(data(5, 1, 17))))
  none = normalizer.empty((2, 3))
  for merged in (merge(a, none), merge(none, a)):
    for x, y in zip(merged, a, strict=True):
      np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('groups', [1, 2, 5, 8])
def test_tree_equals_concatenation(groups):
  parts = data(*range(1, groups + 1))
  stacked = jax.tree.map(lambda *x: np.stack(x), *map(stats, parts))
  close(merge_all(stacked), stats(np.concatenate(parts)))


def test_adding_one_by_one_with_some_left_out():
  x = data(9)[0]
  included = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0], bool)
  bad = np.where(included[:, None, None], x, np.nan)
  running = normalizer.empty((2, 3), (1,))
  for row, keep in zip(bad, included, strict=True):
    running = add(running, row[None], keep[None])
  close(jax.tree.map(lambda v: v[0], running), stats(x[included]))


def test_normalize_against_numpy_and_constants():
  x = data(50)[0]
  x[:, 0, 0] = 4.0
  out = normalize(stats(x), jnp.asarray(x))
  deviation = x.std(0)
  deviation[0, 0] = 1
  np.testing.assert_allclose(out, (x - x.mean(0)) / deviation, atol=1e-10)
  clipped = normalize(stats(x), jnp.asarray(x), clip=0.5)
  np.testing.assert_allclose(clipped, np.clip(out, -0.5, 0.5))
  none = normalizer.empty((2, 3))
  np.testing.assert_array_equal(normalize(none, jnp.asarray(x)), x)


def test_constants_are_exact_however_they_are_counted():
  """In float32, where their mean is rounded."""
  x = np.tile(np.float32([0.1, 1000.1]), (1000, 1))
  running = normalizer.empty((2,), (1,))
  for row in x[:9]:
    running = add(running, row[None], np.ones(1, bool))
  halves = jax.tree.map(lambda *s: np.stack(s), *map(stats, (x, x[:7])))
  for found in (
    stats(x),
    merge_all(halves),
    jax.tree.map(lambda leaf: leaf[0], running),
  ):
    np.testing.assert_array_equal(found.m2, 0)
    np.testing.assert_array_equal(normalize(found, x), 0)
    np.testing.assert_array_equal(std(found), 1)


def test_sums_of_squares_would_not_do():
  """The recipe with sums loses the variance in float32; this one does not."""
  x = (np.random.default_rng(1).normal(1000, 0.1, (4000, 1))).astype(np.float32)
  total, squares = x.sum(0), (x**2).sum(0)
  naive = squares / len(x) - (total / len(x)) ** 2
  parts = jnp.asarray(x).reshape(40, 100, 1)
  merged = merge_all(jax.vmap(stats)(parts))
  expected = x.astype(np.float64).std()
  assert abs(float(std(merged)[0]) - expected) < 1e-3 * expected
  assert abs(np.sqrt(abs(naive[0])) - expected) > 0.05 * expected


def test_statistics_are_those_of_the_steps_that_count():
  rng = np.random.default_rng(2)
  x = rng.normal(1e3, 1, (20, 4, 3)).astype(np.float32)
  weight = (rng.random((20, 4)) < 0.6).astype(np.float32)
  # What does not count may be anything.
  shown = np.where(weight[..., None] > 0, x, np.nan)
  found = weighted(jnp.asarray(shown), jnp.asarray(weight))
  kept = x[weight > 0].astype(np.float64)
  assert found.count == len(kept)
  np.testing.assert_allclose(found.mean, kept.mean(0), rtol=1e-6)
  np.testing.assert_allclose(
    found.m2, ((kept - kept.mean(0)) ** 2).sum(0), rtol=1e-3
  )


def test_nothing_counts():
  found = weighted(jnp.ones((3, 2, 1)), jnp.zeros((3, 2)))
  for leaf in found:
    np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize('broken', [np.nan, np.inf, -np.inf, 1e30, -5e9])
def test_broken_observations_do_not_count(broken):
  """One number of an observation spoils all of it, and nothing else."""
  x = data(7)[0].astype(np.float32)
  shown = x.copy()
  shown[3, 1, 2] = broken
  kept = np.arange(7) != 3
  running = normalizer.empty((2, 3), (1,))
  for row in shown:
    running = add(running, row[None], np.ones(1, bool))
  running = jax.tree.map(lambda v: v[0], running)
  close(stats(shown), stats(x[kept]), rtol=1e-6)
  close(running, stats(x[kept]), rtol=1e-4)
  assert float(running.count) == 6


def test_large_observations_count_and_overflow_nothing():
  """A clock in seconds counts; sums of the largest squares are finite."""
  clock = stats(np.full((3, 1), 1.7e9, np.float32))
  assert float(clock.count) == 3
  most = np.float32(normalizer.LARGEST)
  found = stats(np.array([[most], [-most]]))
  for _ in range(60):
    found = merge(found, found)
  assert found.m2.dtype == jnp.float32
  assert bool(jnp.isfinite(found.m2[0]))
