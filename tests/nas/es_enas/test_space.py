"""Spaces: uniform draws, one change at a time, and distances by brute force."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import space as space_lib
from tests import refusals, seeds

CHOICES = space_lib.Choices('colours', 2, 3)
SUBSET = space_lib.Subset('edges', 2, 4)
ARRANGEMENT = space_lib.Arrangement('order', 2, 3)
MIXED = space_lib.Space((CHOICES, SUBSET, ARRANGEMENT))
MANY = 2000
GROUPS = pytest.mark.parametrize(
  'group', [CHOICES, SUBSET, ARRANGEMENT], ids=lambda group: group.name
)


def members(group):
  """All vectors of a group, by brute force."""
  found = itertools.product(range(group.options), repeat=group.count)
  if isinstance(group, space_lib.Choices):
    return list(found)
  return [one for one in found if len(set(one)) == group.count]


def meanings(group):
  """What is left if vectors that mean the same count once."""
  if type(group) is space_lib.Subset:
    return {frozenset(one) for one in members(group)}
  return set(members(group))


def chi_square(counts):
  """Statistic against equal frequencies, in standard deviations."""
  expected = np.sum(counts) / len(counts)
  free = len(counts) - 1
  return (np.sum((counts - expected) ** 2) / expected - free) / np.sqrt(
    2 * free
  )


def counted(drawn, values):
  found = dict.fromkeys(values, 0)
  for one in np.asarray(drawn):
    found[tuple(one.tolist())] += 1
  return np.array(list(found.values()))


@functools.cache
def drawn():
  """Many architectures."""
  sample = jax.jit(jax.vmap(MIXED.sample))
  return np.asarray(sample(jax.random.split(seeds.key(3), MANY)))


def by_hand(a, b):
  """The distance of two architectures."""
  elements = len(set(a[2:4]) - set(b[2:4]))
  return np.sum(a[:2] != b[:2]) + elements + np.sum(a[4:] != b[4:])


@GROUPS
def test_log_size_counts_the_different_members(group):
  np.testing.assert_allclose(
    math.exp(group.log_size), len(meanings(group)), rtol=1e-12
  )


def test_sizes_multiply():
  assert math.exp(MIXED.log_size) == pytest.approx(9 * 6 * 6)
  assert MIXED.length == 6
  assert MIXED.options.tolist() == [3, 3, 4, 4, 3, 3]


@GROUPS
def test_samples_are_uniform(group):
  keys = jax.random.split(seeds.key(0), 6000)
  found = jax.jit(jax.vmap(group.sample))(keys)
  assert found.dtype == jnp.int32
  assert chi_square(counted(found, members(group))) < 5


@GROUPS
def test_mutations_are_uniform_over_the_neighbours(group):
  start = np.array(members(group)[3], np.int32)
  keys = jax.random.split(seeds.key(1), 6000)
  mutate = jax.vmap(group.mutate, in_axes=(0, None, None))
  mutated = np.asarray(jax.jit(mutate)(keys, start, jnp.array(1)))
  if isinstance(group, space_lib.Choices):
    assert np.all(mutated[:, 0] == start[0])
    expected = set(range(group.options)) - {int(start[1])}
  elif type(group) is space_lib.Subset:
    assert np.all(mutated[:, 0] == start[0])
    expected = set(range(group.options)) - set(start.tolist())
  else:
    expected = set(range(group.options)) - {int(start[1])}
  counts = np.bincount(mutated[:, 1], minlength=group.options)
  assert set(np.flatnonzero(counts)) == expected
  assert chi_square(counts[sorted(expected)]) < 5


def test_an_arrangement_exchanges_places():
  group = space_lib.Arrangement('order', 3, 3)
  keys = jax.random.split(seeds.key(2), 50)
  start = jnp.array([2, 0, 1])
  mutate = jax.vmap(group.mutate, in_axes=(0, None, None))
  found = jax.jit(mutate)(keys, start, jnp.array(0))
  assert {tuple(one) for one in found.tolist()} == {(0, 2, 1), (1, 0, 2)}


def test_a_mutation_changes_exactly_one_decision():
  @jax.jit
  @jax.vmap
  def run(key, one):
    mutated = MIXED.mutate(key, one)
    return mutated, MIXED.is_valid(mutated), MIXED.distance(one, mutated)

  keys = jax.random.split(seeds.key(4), MANY)
  mutated, valid, distances = map(np.asarray, run(keys, drawn()))
  assert np.all(valid)
  exchanged = np.sum((drawn() != mutated)[:, 4:], 1) == 2
  assert np.all(distances == np.where(exchanged, 2, 1))
  assert 0 < np.mean(exchanged) < 1 / 3


def test_the_changed_decision_is_uniform():
  space = space_lib.Space((CHOICES, space_lib.Choices('fixed', 5, 1), SUBSET))
  start = np.array([2, 0, 0, 0, 0, 0, 0, 3, 1])
  keys = jax.random.split(seeds.key(5), 8000)
  mutated = jax.jit(jax.vmap(space.mutate, in_axes=(0, None)))(keys, start)
  counts = np.sum(np.asarray(mutated) != start, 0)
  assert np.all(counts[2:7] == 0)
  assert chi_square(counts[[0, 1, 7, 8]]) < 5


def test_a_space_without_alternatives_stays():
  groups = space_lib.Choices('a', 2, 1), space_lib.Subset('b', 3, 3)
  space = space_lib.Space(groups)
  start = space.sample(seeds.key(6))
  assert space.mutate(seeds.key(7), start).tolist() == start.tolist()
  assert space.log_size == 0


def test_distance_by_brute_force():
  a, b = drawn()[:100], drawn()[100:200]
  expected = [by_hand(*pair) for pair in zip(a, b, strict=True)]
  assert jax.jit(jax.vmap(MIXED.distance))(a, b).tolist() == expected


def test_diversity_is_the_mean_over_pairs():
  some, valid = drawn()[:12], np.arange(12) % 4 > 0
  pairs = itertools.combinations(some[valid], 2)
  expected = np.mean([by_hand(*pair) / 6 for pair in pairs])
  found = jax.jit(MIXED.diversity)(some, valid)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_diversity_in_closed_form():
  space = space_lib.Space((space_lib.Choices('a', 3, 4),))
  everything = np.array(members(space.groups[0]), np.int32)
  diversity = jax.jit(space.diversity)
  # Of all 64 architectures, two different ones agree in a decision 15 of 63 times.
  np.testing.assert_allclose(diversity(everything), 48 / 63, rtol=1e-6)
  assert diversity(np.repeat(everything[5:6], 64, 0)) == 0
  assert diversity(everything, np.arange(64) == 5) == 0
  assert diversity(everything, np.zeros(64, bool)) == 0


@pytest.mark.parametrize(
  'wrong',
  [
    [0, 3, 0, 1, 0, 1],
    [0, 0, 1, 1, 0, 1],
    [0, 0, 0, 1, 2, 2],
    [0, 0, 0, 4, 0, 1],
    [-1, 0, 0, 1, 0, 1],
  ],
)
def test_is_valid_rejects(wrong):
  assert not MIXED.is_valid(jnp.array(wrong))
  with pytest.raises(ValueError, match='does not belong'):
    MIXED.to_json(wrong)


def test_json_round_trip():
  architecture = jnp.array([2, 0, 3, 1, 2, 0])
  written = MIXED.to_json(architecture)
  assert written == {'colours': [2, 0], 'edges': [1, 3], 'order': [2, 0]}
  read = MIXED.from_json(written)
  assert read.dtype == jnp.int32
  assert MIXED.distance(read, architecture) == 0


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'colours': None}, 'colours must be 2 integers'),
    ({'colours': [1]}, 'colours must be 2 integers'),
    ({'colours': [0.5, 1.0]}, 'colours must be 2 integers'),
    ({'colours': [True, False]}, 'colours must be 2 integers'),
    ({'colours': [[0], [1, 2]]}, 'colours must be 2 integers'),
    ({'colours': [0, 3]}, r'colours must be in \[0, 3\)'),
    ({'colours': [0, 2**40]}, r'colours must be in \[0, 3\)'),
    ({'edges': [1, 1]}, 'does not belong'),
    ({'unknown': [1]}, 'groups must be'),
  ],
)
def test_json_errors(change, message):
  written = {'colours': [2, 0], 'edges': [1, 3], 'order': [2, 0]} | change
  with pytest.raises(ValueError, match=message):
    MIXED.from_json(written)


def test_a_missing_group_is_told():
  with pytest.raises(ValueError, match='groups must be'):
    MIXED.from_json({'colours': [2, 0]})


test_groups_are_checked = refusals.table(
  (lambda: space_lib.Choices('a', 0, 2), 'count must be positive'),
  (lambda: space_lib.Subset('a', 3, 2), 'at most all 2 elements'),
  (lambda: space_lib.Space((CHOICES, CHOICES)), 'different names'),
)


def test_an_empty_space_has_one_architecture():
  space = space_lib.Space(())
  (architecture,) = [space.sample(seeds.key(0))]
  assert architecture.shape == (0,)
  assert space.is_valid(space.mutate(seeds.key(1), architecture))
  assert space.from_json(space.to_json(architecture)).shape == (0,)
  assert (space.length, space.log_size) == (0, 0.0)
  assert space.diversity(jnp.zeros((3, 0), jnp.int32)) == 0
