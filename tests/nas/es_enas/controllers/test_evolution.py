"""Evolution and hill climbing against bookkeeping in plain Python."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import controllers
from nas.es_enas import space as space_lib
from nas.es_enas.controllers import evolution
from nas.es_enas.controllers import population as population_lib
from tests import marks, seeds

SPACE = space_lib.Space(
  (space_lib.Choices('a', 3, 4), space_lib.Subset('b', 2, 5))
)
P = 7


def filled(scores, key=0):
  """A full population of random architectures."""
  scores = jnp.asarray(scores, jnp.float32)
  population = population_lib.empty(SPACE, seeds.key(key), len(scores))
  return population.replace(
    scores=scores, filled=jnp.array(len(scores), jnp.int32)
  )


@pytest.mark.parametrize('count', [4, 19, *marks.slow(1, 7)])
def test_contains_the_newest(count):
  rng = seeds.rng(0)
  append = jax.jit(population_lib.appended)
  population = population_lib.empty(SPACE, seeds.key(1), P)
  told = []
  for generation in range(6):
    keys = jax.random.split(seeds.key(generation), count)
    architectures = jax.vmap(SPACE.sample)(keys)
    scores = rng.normal(size=count).astype(np.float32)
    valid = rng.random(count) < 0.7
    lost = np.where(valid, scores, np.nan)
    population = append(population, architectures, jnp.asarray(lost), valid)
    told += [
      (float(scores[i]), tuple(architectures[i].tolist()))
      for i in np.flatnonzero(valid)
    ]
    held = zip(
      population.scores.tolist(), population.architectures.tolist(), strict=True
    )
    kept = [(score, tuple(row)) for score, row in held]
    assert int(population.filled) == min(len(told), P)
    assert sorted(kept[: int(population.filled)]) == sorted(told[-P:])


def test_children_differ_from_a_parent_in_one_decision():
  controller = controllers.Evolution(SPACE)
  state = filled(seeds.rng(1).normal(size=P))
  children = jax.jit(controller.propose, static_argnums=2)(
    state, seeds.key(2), 200
  )
  distance = jax.vmap(SPACE.distance, in_axes=(None, 0))
  apart = jax.vmap(distance, in_axes=(0, None))(children, state.architectures)
  assert jnp.all(jnp.min(apart, 1) <= 1)


def test_random_until_the_population_is_full():
  controller = controllers.Evolution(SPACE)
  state = filled(np.arange(P)).replace(filled=jnp.array(P - 1, jnp.int32))
  found = controller.propose(state, seeds.key(3), 100)
  keys = jax.random.split(jax.random.split(seeds.key(3))[1], 100)
  np.testing.assert_array_equal(found, jax.vmap(SPACE.sample)(keys))


@pytest.mark.parametrize('size', [2, 5, 6])
def test_rank_probabilities_by_enumeration(size):
  for tournament in range(1, size + 1):
    groups = list(itertools.combinations(range(size), tournament))
    wins = np.bincount([min(group) for group in groups], minlength=size)
    np.testing.assert_allclose(
      evolution.rank_probabilities(size, tournament), wins / len(groups)
    )


def odds(scores, tournament):
  return evolution.win_probabilities(
    jnp.asarray(scores, jnp.float32), tournament
  )


def test_win_probabilities_by_enumeration():
  scores = seeds.rng(2).permutation(8)
  expected = [math.comb(score, 2) / math.comb(8, 3) for score in scores]
  np.testing.assert_allclose(odds(scores, 3), expected, atol=1e-6)


def test_ties_are_won_by_chance():
  scores = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
  pairs = list(itertools.combinations(range(5), 2))
  expected = np.zeros(5)
  for pair in pairs:
    best = [i for i in pair if scores[i] == max(scores[list(pair)])]
    expected[best] += 1 / len(best) / len(pairs)
  np.testing.assert_allclose(odds(scores, 2), expected, atol=1e-6)


def test_parents_follow_the_probabilities():
  controller, count = controllers.Evolution(SPACE, tournament=3), 20_000
  state = filled(seeds.rng(2).permutation(8))
  parents = jax.jit(controller.parents, static_argnums=2)
  found = np.bincount(parents(state, seeds.key(4), count), minlength=8) / count
  expected = np.asarray(odds(state.scores, 3), np.float64)
  deviation = np.sqrt(expected * (1 - expected) / count + 1e-12)
  assert np.all(np.abs(found - expected) < 5 * deviation)
  assert np.all(found[state.scores < 2] == 0)


def test_best_merges_the_same_architecture():
  rows = jnp.array(
    [[0, 1, 2, 0, 1], [3, 1, 2, 4, 2], [0, 1, 2, 1, 0], [1, 1, 1, 2, 3]]
  )
  state = filled([5.0, 3.0, -1.0, 2.5]).replace(architectures=rows)
  found = population_lib.fitness(SPACE, state)
  np.testing.assert_allclose(found, [2, 3, 2, 2.5])
  best = controllers.Evolution(SPACE).best(state)
  assert best.tolist() == rows[1].tolist()
  partial = state.replace(filled=jnp.array(1, jnp.int32))
  assert population_lib.fitness(SPACE, partial).tolist() == [5] + 3 * [-np.inf]


@pytest.mark.parametrize(
  ('size', 'expected'), [(1, 1), (3, 2), (8, 2), (450, 21)]
)
def test_default_tournament(size, expected):
  assert controllers.Evolution(SPACE)._tournament(size) == expected


def test_a_tournament_beyond_the_population_is_told():
  with pytest.raises(ValueError, match='tournament=5 population=4'):
    controllers.Evolution(SPACE, population=4, tournament=5)
  with pytest.raises(ValueError, match='tournament=5 population=4'):
    controllers.Evolution(SPACE, tournament=5).init(seeds.key(0), 4)


def test_hill_climbing_keeps_the_best_mean():
  controller = controllers.HillClimb(SPACE)
  feedback = jax.jit(controller.feedback)
  rows = jnp.array([[0, 1, 2, 0, 1], [0, 1, 2, 1, 0], [3, 1, 2, 4, 2]])
  state = controller.init(seeds.key(5), 3)
  everything = jnp.ones(3, bool)

  def told(state, *scores):
    scores = jnp.array(scores, jnp.float32)
    return feedback(state, seeds.key(0), rows, scores, everything)[0]

  # The first two rows are one subset: their mean 3 loses against 4.
  state = told(state, 6, 0, 4)
  assert controller.best(state).tolist() == rows[2].tolist()
  assert (float(state.score), int(state.evaluations)) == (4, 1)
  # The incumbent was evaluated again: its mean is 3, still above 2.
  state = told(state, 4, 0, 2)
  assert controller.best(state).tolist() == rows[2].tolist()
  assert (float(state.score), int(state.evaluations)) == (3, 2)
  # Its mean is now 2; the others have 2.5.
  state = told(state, 5, 0, 0)
  assert controller.best(state).tolist() == rows[0].tolist()
  assert (float(state.score), int(state.evaluations)) == (2.5, 2)


def test_hill_climbing_mutates_the_incumbent():
  controller = controllers.HillClimb(SPACE)
  state = controller.init(seeds.key(6), 4)
  state = state.replace(
    score=jnp.array(1.0), evaluations=jnp.array(1, jnp.int32)
  )
  children = controller.propose(state, seeds.key(7), 50)
  distance = jax.vmap(SPACE.distance, in_axes=(None, 0))
  assert jnp.all(distance(controller.best(state), children) == 1)


def test_hill_climbing_can_propose_the_incumbent_again():
  controller = controllers.HillClimb(SPACE, again=True)
  state = controller.init(seeds.key(6), 4)
  state = state.replace(
    score=jnp.array(1.0), evaluations=jnp.array(1, jnp.int32)
  )
  children = controller.propose(state, seeds.key(7), 50)
  apart = jax.vmap(SPACE.distance, (None, 0))(controller.best(state), children)
  assert apart[0] == 0
  assert jnp.all(apart[1:] == 1)
  with pytest.raises(ValueError, match='count with again must be at least 2'):
    controller.init(seeds.key(0), 1)


@pytest.mark.parametrize('again', [False, True])
def test_a_lucky_incumbent_stays_unless_it_is_evaluated_again(again):
  """One score was 100 too high; all others are true."""
  controller = controllers.HillClimb(SPACE, again=again)
  target = SPACE.sample(seeds.key(8))
  distance = jax.vmap(SPACE.distance, in_axes=(None, 0))

  def generation(state, step):
    key = jax.random.fold_in(seeds.key(9), step)
    found = controller.propose(state, key, 8)
    lucky = 100.0 * ((step == 0) & (jnp.arange(8) == 3))
    scores = lucky - distance(target, found)
    valid = jnp.ones(8, bool)
    state, _ = controller.feedback(state, key, found, scores, valid)
    return state, state.architecture

  state = controller.init(seeds.key(10), 8)
  _, held = jax.lax.scan(generation, state, jnp.arange(200))
  apart = distance(target, held)
  assert apart[0] > 0
  assert (apart[-1] == 0) == again
  if not again:
    assert (held == held[0]).all()
