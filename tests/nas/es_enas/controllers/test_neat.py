"""NEAT's species and shares against plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import controllers
from nas.es_enas import space as space_lib
from nas.es_enas.controllers import neat
from nas.es_enas.controllers import population as population_lib
from tests import seeds
from tests.nas.es_enas import policy_cases

SPACE = space_lib.Space(
  (space_lib.Choices('a', 4, 3), space_lib.Subset('b', 3, 6))
)
CONTROLLER = controllers.Neat(SPACE, threshold=0.8)
P = 24


def population(seed):
  rng = seeds.rng(seed)
  return population_lib.Population(
    architectures=jnp.array(policy_cases.architectures(SPACE, rng, P)),
    scores=jnp.array(rng.normal(size=P), jnp.float32),
    position=jnp.int32(0),
    filled=jnp.int32(P),
  )


@jax.jit
def found(state):
  """Distances, species and shares."""
  distances = CONTROLLER.distances(state.architectures)
  of = neat.species(distances, CONTROLLER.threshold)
  return distances, of, neat.shares(of, state.scores)


def _differences(a, b):
  """How many elements and how many decisions of two architectures differ."""
  disjoint = len(set(a[4:]) - set(b[4:]))
  return disjoint, sum(x != y for x, y in zip(a[:4], b[:4], strict=True))


def twin_distance(a, b):
  disjoint, matching = _differences(a, b)
  return (1.0 * disjoint + 3.0 * matching) / 7


def twin_species(rows, threshold):
  """Members by representative."""
  species = {}
  for i, row in enumerate(rows):
    near = [r for r in species if twin_distance(rows[r], row) <= threshold]
    species.setdefault(near[0] if near else i, []).append(i)
  return species


def twin_shares(species, scores):
  least = min(scores)
  means = {
    r: np.mean([scores[i] - least for i in s]) for r, s in species.items()
  }
  total = sum(means.values())
  return {r: mean / total for r, mean in means.items()}


@pytest.mark.parametrize('seed', range(3))
def test_species_and_shares(seed):
  state = population(seed)
  rows = state.architectures.tolist()
  scores = np.asarray(state.scores, np.float64)
  species = twin_species(rows, 0.8)
  assert 1 < len(species) < P
  distances, of, shares = jax.device_get(found(state))
  expected = [[twin_distance(a, b) for b in rows] for a in rows]
  np.testing.assert_allclose(distances, expected, rtol=1e-6)
  assert {r: np.flatnonzero(of == r).tolist() for r in species} == species
  for representative, share in twin_shares(species, scores).items():
    np.testing.assert_allclose(shares[representative], share, atol=1e-6)
  np.testing.assert_allclose(np.sum(shares), 1, rtol=1e-6)


def test_parents_come_from_the_best_of_each_species():
  state = population(3)
  scores = np.asarray(state.scores, np.float64)
  species = twin_species(state.architectures.tolist(), 0.8)
  _, of, _ = found(state)
  count = 5000
  draw = jax.jit(CONTROLLER._parents, static_argnums=3)
  parents = np.asarray(draw(seeds.key(4), of, state.scores, count))
  counts = np.bincount(parents, minlength=P)
  for representative, share in twin_shares(species, scores).items():
    members = sorted(species[representative], key=lambda i: -scores[i])
    allowed = members[: int(np.ceil(0.6 * len(members)))]
    assert np.sum(counts[members]) == np.sum(counts[allowed])
    # Systematic sampling: a species has its share, rounded down or up.
    assert abs(np.sum(counts[members]) - share * count) <= 1.01
    expected = share * count / len(allowed)
    spread = np.sqrt(expected + 1)
    assert np.all(np.abs(counts[allowed] - expected) < 5 * spread)


@pytest.mark.parametrize(
  ('share', 'expected'), [(0.6, 15), (0.07, 2), (0.28, 7), (0.0, 0), (1.0, 25)]
)
def test_survivors_are_rounded_up_as_decimal_numbers(share, expected):
  # In float32, 0.6 * 25 is above 15; in float64, 0.28 * 25 is above 7.
  found = controllers.Neat(SPACE, survivors=share)._survivors(25)
  assert int(found[25]) == expected
  assert len(found) == 26


def test_equal_scores_share_equally():
  of = jnp.array([0, 0, 2, 0, 4])
  shares = jax.jit(neat.shares)(of, np.full(5, 7, np.float32))
  np.testing.assert_allclose(shares, [1 / 3, 0, 1 / 3, 0, 1 / 3], rtol=1e-6)


def test_children_are_mutations_of_parents():
  state = population(5)
  propose = jax.jit(CONTROLLER.propose, static_argnums=2)
  rows = state.architectures.tolist()
  for child in propose(state, seeds.key(6), 100).tolist():
    apart = [_differences(child, row) for row in rows]
    assert min(map(sum, apart)) <= 1
