"""Spaces: uniform draws, one change at a time, and distances by brute force."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import space as space_lib
from tests import seeds

CHOICES = space_lib.Choices('colours', 2, 3)
SUBSET = space_lib.Subset('edges', 2, 4)
ARRANGEMENT = space_lib.Arrangement('order', 2, 3)
MIXED = space_lib.Space((CHOICES, SUBSET, ARRANGEMENT))
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
  drawn = jax.jit(jax.vmap(group.sample))(keys)
  assert drawn.dtype == jnp.int32
  assert chi_square(counted(drawn, members(group))) < 5


@GROUPS
def test_mutations_are_uniform_over_the_neighbours(group):
  start = jnp.array(members(group)[3], jnp.int32)
  keys = jax.random.split(seeds.key(1), 6000)
  mutate = jax.vmap(group.mutate, in_axes=(0, None, None))
  drawn = np.asarray(jax.jit(mutate)(keys, start, jnp.array(1)))
  if isinstance(group, space_lib.Choices):
    assert np.all(drawn[:, 0] == start[0])
    expected = set(range(group.options)) - {int(start[1])}
  elif type(group) is space_lib.Subset:
    assert np.all(drawn[:, 0] == start[0])
    expected = set(range(group.options)) - set(start.tolist())
  else:
    expected = set(range(group.options)) - {int(start[1])}
  counts = np.bincount(drawn[:, 1], minlength=group.options)
  assert set(np.flatnonzero(counts)) == expected
  assert chi_square(counts[sorted(expected)]) < 5


def test_an_arrangement_exchanges_places():
  group = space_lib.Arrangement('order', 3, 3)
  keys = jax.random.split(seeds.key(2), 50)
  start = jnp.array([2, 0, 1])
  mutate = jax.vmap(group.mutate, in_axes=(0, None, None))
  drawn = mutate(keys, start, jnp.array(0))
  assert {tuple(one) for one in drawn.tolist()} == {(0, 2, 1), (1, 0, 2)}


def test_a_mutation_changes_exactly_one_decision():
  keys = jax.random.split(seeds.key(3), 2000)
  drawn = jax.vmap(MIXED.sample)(keys)
  mutated = jax.jit(jax.vmap(MIXED.mutate))(keys, drawn)
  assert jnp.all(jax.vmap(MIXED.is_valid)(mutated))
  distances = np.asarray(jax.vmap(MIXED.distance)(drawn, mutated))
  exchanged = np.sum(np.asarray(drawn != mutated)[:, 4:], 1) == 2
  assert np.all(distances == np.where(exchanged, 2, 1))
  assert 0 < np.mean(exchanged) < 1 / 3


def test_the_changed_decision_is_uniform():
  space = space_lib.Space((CHOICES, space_lib.Choices('fixed', 5, 1), SUBSET))
  start = space.sample(seeds.key(4))
  keys = jax.random.split(seeds.key(5), 8000)
  mutated = jax.vmap(space.mutate, in_axes=(0, None))(keys, start)
  counts = np.sum(np.asarray(mutated != start), 0)
  assert np.all(counts[2:7] == 0)
  assert chi_square(counts[[0, 1, 7, 8]]) < 5


def test_a_space_without_alternatives_stays():
  groups = space_lib.Choices('a', 2, 1), space_lib.Subset('b', 3, 3)
  space = space_lib.Space(groups)
  start = space.sample(seeds.key(6))
  assert space.mutate(seeds.key(7), start).tolist() == start.tolist()
  assert space.log_size == 0


def test_distance_by_brute_force():
  keys = jax.random.split(seeds.key(8), 200)
  drawn = jax.vmap(MIXED.sample)(keys)
  a, b = np.asarray(drawn[:100]), np.asarray(drawn[100:])
  expected = [
    np.sum(x[:2] != y[:2])
    + len(set(x[2:4]) - set(y[2:4]))
    + np.sum(x[4:] != y[4:])
    for x, y in zip(a, b, strict=True)
  ]
  assert jax.vmap(MIXED.distance)(a, b).tolist() == expected


def test_diversity_is_the_mean_over_pairs():
  drawn = jax.vmap(MIXED.sample)(jax.random.split(seeds.key(9), 12))
  valid = np.arange(12) % 4 > 0
  pairs = list(itertools.combinations(np.flatnonzero(valid), 2))
  expected = np.mean([MIXED.distance(drawn[i], drawn[j]) / 6 for i, j in pairs])
  found = MIXED.diversity(drawn, jnp.asarray(valid))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_diversity_in_closed_form():
  space = space_lib.Space((space_lib.Choices('a', 3, 4),))
  everything = jnp.array(members(space.groups[0]))
  # Of all 64 architectures, two different ones agree in a decision 15 of 63 times.
  np.testing.assert_allclose(space.diversity(everything), 48 / 63, rtol=1e-6)
  assert space.diversity(jnp.repeat(everything[5:6], 7, 0)) == 0
  assert space.diversity(everything[:1]) == 0
  assert space.diversity(everything, jnp.zeros(64, bool)) == 0


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


def test_groups_are_checked():
  with pytest.raises(ValueError, match='count must be positive'):
    space_lib.Choices('a', 0, 2)
  with pytest.raises(ValueError, match='at most all 2 elements'):
    space_lib.Subset('a', 3, 2)
  with pytest.raises(ValueError, match='different names'):
    space_lib.Space((CHOICES, CHOICES))


def test_an_empty_space_has_one_architecture():
  space = space_lib.Space(())
  (architecture,) = [space.sample(seeds.key(0))]
  assert architecture.shape == (0,)
  assert space.is_valid(space.mutate(seeds.key(1), architecture))
  assert space.from_json(space.to_json(architecture)).shape == (0,)
  assert (space.length, space.log_size) == (0, 0.0)
  assert space.diversity(jnp.zeros((3, 0), jnp.int32)) == 0
