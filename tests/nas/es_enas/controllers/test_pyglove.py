"""PyGlove's algorithms on our spaces, and its spaces in ours."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pyglove as pg
import pytest

from nas.es_enas import controllers
from nas.es_enas import space as space_lib
from nas.es_enas.controllers import pyglove
from tests import marks, seeds
from tests.nas.es_enas import policy_cases

N = 8
SPACE = space_lib.Space(
  (
    space_lib.Choices('a', 4, 3),
    space_lib.Subset('b', 2, 4),
    space_lib.Arrangement('c', 3, 3),
    space_lib.Choices('d', 1, 3),
  )
)
TARGET = np.array([0, 1, 2, 0, 3, 1, 1, 0, 2, 2])


VALID = jax.jit(jax.vmap(SPACE.is_valid))


def score(architectures):
  """Minus the distances from the target, by hand."""
  found = np.asarray(architectures)
  places = [*range(4), *range(6, 10)]
  elements = [len(set(TARGET[4:6]) - set(one[4:6])) for one in found]
  differ = (found != TARGET)[:, places].sum(1)
  return -np.float32(differ + elements)


def evolution():
  return pg.evolution.regularized_evolution(
    population_size=N, tournament_size=4, seed=3
  )


ALGORITHMS = {
  'random': lambda: pg.geno.Random(seed=1),
  'sweeping': pg.geno.Sweeping,
  'evolution': evolution,
  'neat': lambda: pg.evolution.neat(population_size=N),
  'hill_climb': lambda: pg.evolution.hill_climb(
    batch_size=4, init_population_size=4
  ),
  'nsga2': lambda: pg.evolution.nsga2(
    pg.evolution.mutators.Uniform(), population_size=4
  ),
}


def run(controller, state, key, start, end):
  for generation in range(start, end):
    inner = jax.random.fold_in(key, generation)
    found = controller.propose(state, inner, N)
    assert found.shape == (N, SPACE.length)
    assert np.all(VALID(found))
    valid = np.arange(N) != generation
    scores = np.where(valid, score(found), np.float32(np.nan))
    told = jnp.asarray(scores), jnp.asarray(valid)
    state, _ = controller.feedback(state, inner, found, *told)
  return state


def equal(a, b):
  return all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))


@pytest.mark.parametrize(
  'name',
  ['evolution', *marks.slow(*(n for n in ALGORITHMS if n != 'evolution'))],
)
def test_drives_any_algorithm(name):
  controller = pyglove.PyGlove(SPACE, ALGORITHMS[name](), history=12)
  assert isinstance(controller, controllers.Controller)
  assert hash(controller) == hash(
    pyglove.PyGlove(SPACE, ALGORITHMS[name](), history=12)
  )
  start = controller.init(seeds.key(0), N)
  state = run(controller, start, seeds.key(1), 0, 3)
  assert state.evaluations.scores.shape == (12,)
  assert int(state.evaluations.filled) == 12
  assert VALID(np.tile(controller.best(state), (N, 1))).all()
  # Another controller goes on from the state, as after a restart.
  other = pyglove.PyGlove(SPACE, ALGORITHMS[name](), history=12)
  run(other, state, seeds.key(1), 3, 4)


@pytest.mark.slow
def test_evolution_continues_bit_for_bit():
  key = seeds.key(2)
  make = lambda: pyglove.PyGlove(SPACE, evolution(), history=N)
  one = make()
  whole = run(one, one.init(key, N), key, 0, 5)
  one = make()
  half = run(one, one.init(key, N), key, 0, 3)
  restored = jax.tree.map(lambda leaf: jnp.array(np.array(leaf)), half)
  assert equal(run(make(), restored, key, 3, 5), whole)


def test_the_same_call_proposes_the_same():
  controller = pyglove.PyGlove(SPACE, evolution(), history=12)
  state = run(controller, controller.init(seeds.key(0), N), seeds.key(3), 0, 2)
  before = random.getstate()
  a, b = (controller.propose(state, seeds.key(4), 3) for _ in range(2))
  np.testing.assert_array_equal(a, b)
  assert random.getstate() == before
  assert not np.array_equal(a, controller.propose(state, seeds.key(5), 3))


def test_the_key_seeds_the_first_generation():
  algorithm = evolution()
  controller = pyglove.PyGlove(SPACE, algorithm, history=12)
  state = controller.init(seeds.key(0), N)
  a, b = (controller.propose(state, seeds.key(i), N) for i in (1, 2))
  assert not np.array_equal(a, b)
  assert algorithm == evolution()


def test_all_lost_leaves_the_state():
  controller = pyglove.PyGlove(SPACE, evolution(), history=12)
  state = controller.init(seeds.key(0), N)
  found = controller.propose(state, seeds.key(1), N)
  lost = jnp.full(N, jnp.nan), jnp.zeros(N, bool)
  after, _ = controller.feedback(state, seeds.key(1), found, *lost)
  assert equal(after, state)


def test_evaluations_it_did_not_propose_are_learnt():
  controller = pyglove.PyGlove(SPACE, evolution(), history=12)
  state = controller.init(seeds.key(0), N)
  rows = jnp.array(np.tile(np.int32(TARGET), (N, 1)))
  told = jnp.array(score(rows)), jnp.array(np.ones(N, bool))
  state, _ = controller.feedback(state, seeds.key(1), rows, *told)
  assert score(controller.best(state)[None]) == 0
  children = controller.propose(state, seeds.key(2), 20)
  assert np.mean(score(children) >= -2) > 0.8


@pytest.mark.slow
def test_evolution_learns():
  controller = pyglove.PyGlove(SPACE, evolution(), history=16)
  state = run(controller, controller.init(seeds.key(5), N), seeds.key(6), 0, 15)
  assert score(controller.best(state)[None]) >= -4


def test_the_end_of_a_sweep_is_told():
  space = space_lib.Space((space_lib.Choices('a', 1, 3),))
  controller = pyglove.PyGlove(space, pg.geno.Sweeping())
  state = controller.init(seeds.key(0), 2)
  with pytest.raises(ValueError, match='Sweeping has no further proposals'):
    controller.propose(state, seeds.key(1), 4)


def test_spaces_of_pyglove():
  value = pg.Dict(
    width=pg.oneof([16, 32]),
    depth=pg.oneof([1, 2]),
    kind=pg.oneof(['x', 'y', 'z']),
    any=pg.manyof(3, [1, 2], distinct=False),
    some=pg.manyof(2, list('abcd'), sorted=True),
    bag=pg.manyof(2, [5, 6, 7], distinct=False, sorted=True),
    order=pg.permutate([1, 2, 3]),
    fixed=4,
  )
  space, decode = pyglove.from_pyglove(value)
  assert space.groups == (
    space_lib.Choices('width..depth', 2, 2),
    space_lib.Choices('kind', 1, 3),
    space_lib.Choices('any', 3, 2),
    space_lib.Subset('some', 2, 4),
    space_lib.Choices('bag', 2, 3),
    space_lib.Arrangement('order', 3, 3),
  )
  row = jnp.array([1, 0, 2, 0, 1, 0, 3, 1, 2, 0, 2, 0, 1])
  assert decode(row) == pg.Dict(
    width=32,
    depth=1,
    kind='z',
    any=[1, 2, 1],
    some=['b', 'd'],
    bag=[5, 7],
    order=[3, 1, 2],
    fixed=4,
  )
  for row in policy_cases.architectures(space, seeds.rng(7), 20):
    found = decode(jnp.array(row))
    assert found.some == sorted(found.some)
    assert sorted(found.order) == [1, 2, 3]


def test_decisions_within_candidates():
  value = pg.Dict(
    body=pg.oneof([pg.Dict(width=pg.oneof([8, 16, 32])), 'none']),
    some=pg.manyof(2, [pg.oneof(['p', 'q']), 'r', pg.oneof(['s', 't'])]),
    bag=pg.manyof(2, [pg.oneof([1, 2]), 3], distinct=False, sorted=True),
  )
  space, decode = pyglove.from_pyglove(value)
  # body, its width; some, its p or q and s or t; bag, and of each choice 1 or 2.
  assert space.options.tolist() == [2, 3, 3, 3, 2, 2, 2, 2, 2, 2]
  row = jnp.array([0, 2, 2, 0, 1, 0, 1, 0, 0, 1])
  assert decode(row) == pg.Dict(
    body=pg.Dict(width=32), some=['s', 'q'], bag=[2, 3]
  )
  # What belongs to candidates that are not chosen changes nothing.
  row = jnp.array([1, 0, 1, 0, 1, 0, 1, 1, 0, 0])
  expected = pg.Dict(body='none', some=['r', 'q'], bag=[3, 3])
  assert decode(row) == decode(row.at[1].set(2)) == expected
  assert decode(row.at[5].set(1)) == decode(row.at[9].set(1)) == expected


def test_all_choices_within_candidates_are_reached():
  value = pg.oneof([pg.manyof(2, [pg.oneof([1, 2]), 3], distinct=False), 4])
  space, decode = pyglove.from_pyglove(value)
  rows = itertools.product(*map(range, space.options.tolist()))
  found = {str(decode(np.array(row))) for row in rows}
  assert found == {str(one) for one in pg.iter(value)}


def test_a_single_choice_is_a_space():
  space, decode = pyglove.from_pyglove(pg.oneof(['x', 'y']))
  assert space.groups == (space_lib.Choices('choice', 1, 2),)
  assert decode(jnp.array([1])) == 'y'


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    (pg.Dict(x=pg.floatv(0.0, 1.0)), "decision 'x' must be oneof.*got Float"),
    (pg.oneof([pg.Dict(y=pg.floatv(0.0, 1.0)), 3]), 'y.* must be oneof.*Float'),
  ],
)
def test_other_spaces_are_rejected(value, message):
  with pytest.raises(ValueError, match=message):
    pyglove.from_pyglove(value)
