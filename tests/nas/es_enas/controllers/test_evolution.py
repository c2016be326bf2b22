"""Evolution and hill climbing against bookkeeping in plain Python."""

import functools
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
from tests import marks, seeds, trees
from tests.nas.es_enas import policy_cases

SPACE = space_lib.Space(
  (space_lib.Choices('a', 3, 4), space_lib.Subset('b', 2, 5))
)
P = 7
CHILDREN = 200
PROPOSE = jax.jit(controllers.Evolution(SPACE).propose, static_argnums=2)


def filled(scores, key=0):
  """A full population of random architectures."""
  rows = policy_cases.architectures(SPACE, seeds.rng(key), len(scores))
  return population_lib.Population(
    architectures=jnp.array(rows),
    scores=jnp.asarray(scores, jnp.float32),
    position=jnp.int32(0),
    filled=jnp.int32(len(scores)),
  )


def distances(one, others):
  """By how many decisions one architecture differs from each other."""
  one, others = np.asarray(one), np.asarray(others)
  elements = [len(set(one[3:]) - set(other[3:])) for other in others]
  return (one[:3] != others[:, :3]).sum(1) + elements


@pytest.mark.parametrize('count', [4, 19, *marks.slow(1, 7)])
def test_contains_the_newest(count):
  rng = seeds.rng(0)
  append = jax.jit(population_lib.appended)
  population = filled(np.zeros(P)).replace(filled=jnp.int32(0))
  told = []
  for _ in range(6):
    architectures = rng.integers(4, size=(count, 5), dtype=np.int32)
    scores = rng.normal(size=count).astype(np.float32)
    valid = rng.random(count) < 0.7
    lost = np.where(valid, scores, np.nan)
    population = append(population, architectures, lost, valid)
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
  state = filled(seeds.rng(1).normal(size=P))
  children = np.asarray(PROPOSE(state, seeds.key(2), CHILDREN))
  apart = [distances(child, state.architectures).min() for child in children]
  assert max(apart) <= 1


def test_random_until_the_population_is_full():
  state = filled(np.arange(P)).replace(filled=jnp.int32(P - 1))
  found = PROPOSE(state, seeds.key(3), CHILDREN)

  @jax.jit
  def drawn(key):
    keys = jax.random.split(jax.random.split(key)[1], CHILDREN)
    return jax.vmap(SPACE.sample)(keys)

  np.testing.assert_array_equal(found, drawn(seeds.key(3)))


@pytest.mark.parametrize('size', [2, 5, 6])
def test_rank_probabilities_by_enumeration(size):
  for tournament in range(1, size + 1):
    groups = list(itertools.combinations(range(size), tournament))
    wins = np.bincount([min(group) for group in groups], minlength=size)
    np.testing.assert_allclose(
      evolution.rank_probabilities(size, tournament), wins / len(groups)
    )


def odds(scores, tournament):
  win = jax.jit(evolution.win_probabilities, static_argnums=1)
  return win(jnp.asarray(scores, jnp.float32), tournament)


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
  assert np.all(found[np.asarray(state.scores) < 2] == 0)


def test_best_merges_the_same_architecture():
  rows = jnp.array(
    [[0, 1, 2, 0, 1], [3, 1, 2, 4, 2], [0, 1, 2, 1, 0], [1, 1, 1, 2, 3]]
  )
  state = filled([5.0, 3.0, -1.0, 2.5]).replace(architectures=rows)
  fitness = jax.jit(functools.partial(population_lib.fitness, SPACE))
  found = fitness(state)
  np.testing.assert_allclose(found, [2, 3, 2, 2.5])
  best = jax.jit(controllers.Evolution(SPACE).best)(state)
  assert best.tolist() == rows[1].tolist()
  partial = state.replace(filled=jnp.int32(1))
  assert fitness(partial).tolist() == [5] + 3 * [-np.inf]


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


def climbing(controller, key, **changes):
  """The first state of a hill climber."""
  state = jax.jit(controller.init, static_argnums=1)(key, 4)
  return trees.strong(state.replace(**changes))


def test_hill_climbing_keeps_the_best_mean():
  controller = controllers.HillClimb(SPACE)
  feedback = jax.jit(controller.feedback)
  rows = jnp.array([[0, 1, 2, 0, 1], [0, 1, 2, 1, 0], [3, 1, 2, 4, 2]])
  state = climbing(controller, seeds.key(5))
  everything = np.ones(3, bool)

  def told(state, *scores):
    scores = np.array(scores, np.float32)
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


@pytest.mark.parametrize('again', [False, True])
def test_hill_climbing_mutates_the_incumbent(again):
  """Or proposes it again first."""
  controller = controllers.HillClimb(SPACE, again=again)
  state = climbing(
    controller, seeds.key(6), score=np.float32(1), evaluations=np.int32(1)
  )
  propose = jax.jit(controller.propose, static_argnums=2)
  children = propose(state, seeds.key(7), 50)
  apart = distances(state.architecture, children)
  assert apart[0] == (0 if again else 1)
  assert np.all(apart[1:] == 1)
  np.testing.assert_array_equal(controller.best(state), state.architecture)


def test_hill_climbing_again_needs_two():
  controller = controllers.HillClimb(SPACE, again=True)
  with pytest.raises(ValueError, match='count with again must be at least 2'):
    controller.init(seeds.key(0), 1)


@pytest.mark.parametrize('again', [False, True])
def test_a_lucky_incumbent_stays_unless_it_is_evaluated_again(again):
  """One score was 100 too high; all others are true."""
  controller = controllers.HillClimb(SPACE, again=again)

  @jax.jit
  def climbed(target_key, key):
    target = SPACE.sample(target_key)
    distance = jax.vmap(SPACE.distance, in_axes=(None, 0))

    def generation(state, step):
      inner = jax.random.fold_in(key, step)
      found = controller.propose(state, inner, 8)
      lucky = 100.0 * ((step == 0) & (jnp.arange(8) == 3))
      scores = lucky - distance(target, found)
      valid = jnp.ones(8, bool)
      state, _ = controller.feedback(state, inner, found, scores, valid)
      return state, state.architecture

    state = controller.init(jax.random.fold_in(key, 200), 8)
    _, held = jax.lax.scan(generation, state, jnp.arange(200))
    return held, distance(target, held)

  held, apart = map(np.asarray, climbed(seeds.key(8), seeds.key(9)))
  assert apart[0] > 0
  assert (apart[-1] == 0) == again
  if not again:
    assert (held == held[0]).all()
