"""The tree against sums in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.replay import sum_tree

write = jax.jit(sum_tree.write)
find = jax.jit(sum_tree.find)


def filled(values):
  tree = sum_tree.empty(len(values))
  index = jnp.arange(len(values))
  return write(tree, index, jnp.asarray(values, jnp.float32))


@pytest.mark.parametrize('size', [1, 16, 17, 300])
def test_sums_and_search(size):
  rng = np.random.default_rng(size)
  # Whole numbers: sums are exact, so the leaf is known exactly.
  values = rng.integers(0, 5, size).astype(np.float64)
  values[-1] = 2
  tree = filled(values)
  assert float(sum_tree.total(tree)) == values.sum()
  targets = np.arange(0, values.sum(), 0.5)[:64]
  targets = np.pad(targets, (0, 64 - len(targets)))
  expected = np.searchsorted(np.cumsum(values), targets, side='right')
  found = np.asarray(find(tree, jnp.asarray(targets, jnp.float32)))
  np.testing.assert_array_equal(found, expected)
  assert (values[found] > 0).all()


def test_zeros_are_never_found():
  rng = np.random.default_rng(0)
  values = np.where(rng.random(300) < 0.9, 0, rng.lognormal(0, 4, 300))
  tree = filled(values)
  total = np.float32(sum_tree.total(tree))
  close = np.nextafter(total, np.float32(0))
  targets = np.concatenate(
    [[0, close, total], total * rng.random(61, np.float32)]
  )
  found = np.asarray(find(tree, jnp.asarray(targets, jnp.float32)))
  assert (values[found] > 0).all()


def test_no_error_builds_up():
  rng = np.random.default_rng(1)
  values = rng.lognormal(0, 4, 300).astype(np.float32)
  tree, drifting = filled(values), np.float32(sum_tree.total(filled(values)))
  for _ in range(50):
    index = rng.choice(300, 32, replace=False)
    new = rng.lognormal(0, 4, 32).astype(np.float32)
    for i, value in zip(index, new, strict=True):
      drifting += value - values[i]
    values[index] = new
    tree = write(tree, jnp.asarray(index), jnp.asarray(new))
  rebuilt = filled(values)
  for ours, fresh in zip(tree.levels, rebuilt.levels, strict=True):
    np.testing.assert_array_equal(ours, fresh)
  # Adding differences, the other way to keep a sum, does not give that.
  assert drifting != np.float32(sum_tree.total(rebuilt))


def test_the_largest_of_repeated_writes_counts():
  tree = filled([5.0, 1.0, 1.0])
  tree = write(tree, jnp.array([0, 2, 0]), jnp.array([2.0, 4.0, 3.0]))
  np.testing.assert_array_equal(tree.levels[0][:3], [3.0, 1.0, 4.0])
  assert float(sum_tree.total(tree)) == 8


def test_rejects_an_empty_tree():
  with pytest.raises(ValueError, match='size'):
    sum_tree.empty(0)
