"""The Pareto archive against brute force."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import pareto
from tests import seeds

ITEM = jax.ShapeDtypeStruct((2,), jnp.int32)
insert = jax.jit(pareto.insert)


def points(number, count):
  """Returns, costs, items and validity, with many equal values."""
  rng = seeds.rng(number)
  returns = rng.integers(12, size=count).astype(np.float32)
  costs = rng.integers(12, size=count).astype(np.float32)
  items = np.stack([np.arange(count), np.full(count, number)], 1)
  return returns, costs, items.astype(np.int32), rng.random(count) < 0.8


def front(returns, costs):
  """All pairs that no other pair dominates."""
  pairs = set(zip(returns.tolist(), costs.tolist(), strict=True))
  return {
    (r, c)
    for r, c in pairs
    if not any((a >= r and b <= c and (a, b) != (r, c)) for a, b in pairs)
  }


def held(archive):
  used = np.asarray(archive.used)
  assert (np.diff(used.astype(int)) <= 0).all()
  returns, costs = np.asarray(archive.returns), np.asarray(archive.costs)
  assert (returns[~used] == -np.inf).all()
  assert (np.diff(costs[used]) > 0).all()
  assert (np.diff(returns[used]) > 0).all()
  return list(zip(returns[used].tolist(), costs[used].tolist(), strict=True))


def test_front_of_several_generations():
  archive = pareto.empty(16, ITEM)
  generations = [points(number, 24) for number in range(6)]
  seen = []
  for generation in generations:
    archive = insert(archive, *generation)
    seen.append([x[generation[3]] for x in generation[:2]])
    returns, costs = (np.concatenate(x) for x in zip(*seen, strict=True))
    assert set(held(archive)) == front(returns, costs)
  for place, (r, c) in enumerate(held(archive)):
    index, number = archive.items[place]
    returns, costs, _, valid = generations[number]
    assert (returns[index], costs[index], valid[index]) == (r, c, True)


def test_of_equal_points_the_first_stays():
  archive = pareto.empty(2, ITEM)
  ones = jnp.ones(3)
  items = jnp.arange(6).reshape(3, 2)
  archive = insert(archive, ones, ones, items, ones == 1)
  archive = insert(archive, ones, ones, items + 6, ones == 1)
  assert held(archive) == [(1.0, 1.0)]
  np.testing.assert_array_equal(archive.items[0], [0, 1])


def test_points_that_are_lost_are_left_out():
  archive = pareto.empty(4, ITEM)
  returns = jnp.array([jnp.nan, jnp.inf, 9.0, 1.0])
  costs = jnp.array([0.0, 0.0, 1.0, 3.0])
  valid = jnp.array([True, True, False, True])
  archive = insert(archive, returns, costs, jnp.zeros((4, 2), int), valid)
  assert held(archive) == [(1.0, 3.0)]


def thinned(pairs, capacity):
  """Takes the most crowded point away, as long as there are too many."""
  pairs = sorted(pairs, key=lambda pair: pair[1])
  while len(pairs) > capacity:
    spans = [pairs[-1][axis] - pairs[0][axis] for axis in range(2)]
    distance = lambda i: sum(
      (pairs[i + 1][axis] - pairs[i - 1][axis]) / spans[axis]  # noqa: B023
      for axis in range(2)
    )
    del pairs[min(range(1, len(pairs) - 1), key=distance)]
  return pairs


def test_a_full_archive_is_thinned_out():
  """The ends stay, and the widest gaps close last."""
  rng = seeds.rng(3)
  returns = np.sort(rng.random(24)).astype(np.float32)
  costs = np.sort(rng.random(24)).astype(np.float32)
  archive = insert(
    pareto.empty(7, ITEM),
    *(returns, costs, np.zeros((24, 2), np.int32), np.ones(24, bool)),
  )
  pairs = list(zip(returns.tolist(), costs.tolist(), strict=True))
  assert held(archive) == thinned(pairs, 7)
  assert held(archive)[0] == pairs[0]
  assert held(archive)[-1] == pairs[-1]


def test_order_does_not_matter():
  """The same front from either end, as long as there is room."""
  parts = [points(number, 24) for number in range(3)]
  add = lambda archive, part: insert(archive, *part)
  forth = functools.reduce(add, parts, pareto.empty(16, ITEM))
  back = functools.reduce(add, parts[::-1], pareto.empty(16, ITEM))
  assert held(forth) == held(back)


def test_rejects():
  with pytest.raises(ValueError, match='at least 2, got capacity=1'):
    pareto.empty(1, ITEM)
