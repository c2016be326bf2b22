"""Behaviours: one contract, what each does, and the floors of their models."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hpo import spaces, studies
from hpo.optformer import behaviours
from hpo.optformer.behaviours import floors
from tests import marks, refusals, seeds

TRIALS = 40
# GP-UCB takes the longest, by far.
STUDIES, GP_STUDIES = 48, 3
SHIFT = (0.2, 0.7, 0.4)
REAL = behaviours.Cube(jnp.zeros(3, jnp.int32), jnp.ones(3, bool))
MIXED = behaviours.Cube(jnp.array([0, 3, 4]), jnp.array([True, True, False]))
NAMES = [b.name for b in behaviours.BEHAVIOURS]


@functools.partial(jax.jit, static_argnums=0)
def written(name, key, cube):
  """Studies of a bowl; one program serves both cubes."""
  behaviour = behaviours.BEHAVIOURS[NAMES.index(name)]
  gain = lambda _, x: -jnp.sum((x - jnp.array(SHIFT)) ** 2)
  run = lambda key: behaviours.run(behaviour, key, cube, gain, TRIALS)
  return jax.vmap(run)(jax.random.split(key, count(name)))


def count(name):
  return GP_STUDIES if name == 'designer_recursive_gp' else STUDIES


@functools.cache
def history(name, mixed=False):
  cube = MIXED if mixed else REAL
  return jax.device_get(written(name, seeds.key(NAMES.index(name)), cube))


@pytest.mark.parametrize(
  'name',
  [
    *(name for name in NAMES if name != 'designer_recursive_gp'),
    *marks.slow('designer_recursive_gp'),
  ],
)
def test_contract(name):
  for mixed in (False, True):
    found = history(name, mixed)
    points = found.points
    assert points.shape == (count(name), TRIALS, 3)
    assert ((points >= 0) & (points <= 1)).all()
    expected = -((points - np.float32(SHIFT)) ** 2).sum(axis=-1)
    np.testing.assert_allclose(found.gains, expected, atol=1e-5)
    if mixed:
      cells = points[..., 1:] * (3, 4)
      np.testing.assert_allclose(cells % 1, 0.5, atol=1e-5)
  again = jax.device_get(written(name, seeds.key(NAMES.index(name)), REAL))
  np.testing.assert_array_equal(again.points, history(name).points)
  assert (points[0] != points[1]).any() == (name != 'designer_grid_search')


def test_random_search_is_uniform():
  points = history('designer_random_search', True).points
  assert stats.kstest(points[..., 0].ravel(), 'uniform').pvalue > 1e-3
  counts = np.bincount(np.int32(points[..., 2].ravel() * 4), minlength=4)
  assert stats.chisquare(counts).pvalue > 1e-3


def test_grid_is_lexicographic():
  points = history('designer_grid_search', True).points[0]
  rows = np.array(list(np.ndindex(100, 3, 4)))[:TRIALS]
  expected = (rows + np.array([0, 0.5, 0.5])) / (99, 3, 4)
  np.testing.assert_allclose(points, expected, atol=1e-6)


def test_shuffled_grid_has_no_replacement():
  name = 'designer_grid_search_shuffled'
  places = history(name).points * 99
  np.testing.assert_allclose(places, np.round(places), atol=1e-4)
  # A small grid is used up again and again.
  cube = behaviours.Cube(jnp.array([2, 3, 2]), jnp.ones(3, bool))
  points = jax.device_get(written(name, jax.random.key(1), cube)).points
  cells = np.int32(points * (2, 3, 2)) @ (6, 2, 1)
  for start in (0, 12, 24):
    passes = np.sort(cells[:, start : start + 12])
    np.testing.assert_array_equal(passes, np.tile(np.arange(12), (STUDIES, 1)))
  assert len({tuple(row) for row in cells[:, :12]}) > STUDIES // 2


def test_hill_climb_moves_one_parameter_of_the_best():
  found = history('designer_hill_climb')
  moved = []
  for points, gains in zip(found.points, found.gains, strict=True):
    for number in range(1, TRIALS):
      parent = points[np.argmax(gains[:number])]
      [place] = np.flatnonzero(points[number] != parent)
      moved.append((place, points[number, place]))
  places, fresh = map(np.array, zip(*moved, strict=True))
  assert stats.chisquare(np.bincount(places)).pvalue > 1e-3
  assert stats.kstest(fresh, 'uniform').pvalue > 1e-3


def test_evolution_draws_parents_by_rank():
  found = history('designer_reg_evo')
  ranks = []
  for points, gains in zip(found.points, found.gains, strict=True):
    for number in range(25, TRIALS):
      rows = np.arange(number - 25, number)
      ranked = rows[np.argsort(-gains[rows], kind='stable')]
      same = (points[ranked] == points[number]).sum(axis=1)
      # Relatives share two parameters as well; those are left out.
      if (same == 2).sum() == 1:
        ranks.append(np.argmax(same == 2))
      assert (same >= 2).any()
  chances = floors.winner_chances()
  assert chances.sum() == pytest.approx(1)
  assert stats.entropy(chances) == pytest.approx(2.323, abs=1e-3)
  # Bad parents have no relatives, so the least and the most are not compared.
  first = np.mean(np.array(ranks) < 5)
  expected = chances[:5].sum()
  assert abs(first - expected) < 0.1, (first, expected)


def test_tournaments_by_brute_force():
  rng = seeds.rng(4)
  winners = [rng.choice(25, 5, replace=False).min() for _ in range(20000)]
  shares = np.bincount(winners, minlength=25) / len(winners)
  np.testing.assert_allclose(shares, floors.winner_chances(), atol=0.015)


def test_searches_find_more_than_random_search():
  best = {name: history(name).gains.max(axis=1).mean() for name in NAMES}
  for name in (
    'designer_recursive_gp',
    'designer_hill_climb',
    'designer_reg_evo',
    'designer_eagle_strategy',
  ):
    assert best[name] > best['designer_random_search'], (name, best)
  assert best['designer_recursive_gp'] > -1e-3, best
  first = history('designer_recursive_gp').points[:, 0]
  np.testing.assert_array_equal(first, 0.5)


def study(name, row=0, mixed=False):
  found = history(name, mixed)
  kinds = [spaces.Float('a', -5, 5)]
  if mixed:
    kinds += [
      spaces.Int('b', 1, 3),
      spaces.Categorical('c', ('p', 'q', 'r', 's')),
    ]
  else:
    kinds += [spaces.Float('b', 1e-3, 1, 'LOG'), spaces.Float('c', 0, 1)]
  problem = studies.Problem(spaces.Space(kinds), algorithm=name)
  codes = problem.space.from_unit(np.float64(found.points[row]))
  gains = np.float64(found.gains[row])
  return studies.Study(problem, codes, gains, np.zeros(TRIALS, np.int8))


def floor_of(name, mixed=False, count=1):
  rows = [floors.floor(study(name, row, mixed)) for row in range(count)]
  return np.mean(rows, axis=0)


def test_floors_are_those_of_the_closed_forms():
  q, d = math.log(1000), 3
  assert floor_of('designer_grid_search').max() == 0
  np.testing.assert_allclose(floor_of('designer_random_search'), d * q)
  np.testing.assert_allclose(
    floor_of('designer_grid_search_shuffled'), d * math.log(100), atol=1e-4
  )
  climb = floor_of('designer_hill_climb', count=STUDIES)[1:]
  np.testing.assert_allclose(climb, math.log(d) + q, atol=0.05)
  late = floor_of('designer_reg_evo', count=STUDIES)[25:].mean()
  assert q + math.log(d) < late < 2.323 + math.log(d) + q + 0.1
  mixed = floor_of('designer_random_search', mixed=True)
  np.testing.assert_allclose(mixed, q + math.log(12))


def test_a_floor_is_a_likelihood():
  """Over all points of a small space, chances sum to 1."""
  space = spaces.Space((spaces.Int('a', 0, 2), spaces.Discrete('b', (1, 2))))
  rng = seeds.rng(5)
  codes = space.sample(rng, 31)
  for name in ('designer_hill_climb', 'designer_reg_evo'):
    total = 0.0
    gains = rng.normal(size=31)
    for point in np.ndindex(3, 2):
      problem = studies.Problem(space, algorithm=name)
      last = np.concatenate([codes[:30], np.float64([point])])
      found = floors.floor(
        studies.Study(problem, last, gains, np.zeros(31, np.int8))
      )
      total += math.exp(-found[-1])
    assert total == pytest.approx(1)


def test_the_floor_of_a_shuffled_grid_counts_all_whole_numbers():
  """150 whole numbers are 150 points, though a real parameter has 100."""
  space = spaces.Space((spaces.Int('n', 1, 150), spaces.Float('x', 0, 1)))
  problem = studies.Problem(space, algorithm='designer_grid_search_shuffled')
  codes = np.array([[3.0, 0.0], [3.0, 1.0]])
  found = floors.floor(
    studies.Study(problem, codes, np.zeros(2), np.zeros(2, int))
  )
  np.testing.assert_allclose(found, np.log([15000, 14999]))


test_settings_out_of_range_are_refused = refusals.table(
  (lambda: behaviours.GridSearch(resolution=1), 'at least 2'),
  (lambda: behaviours.ShuffledGridSearch(resolution=1), 'at least 2'),
  (lambda: behaviours.GpUcb(offspring=30), 'divide by 4'),
  (lambda: behaviours.GpUcb(offspring=0), 'at least 4'),
  (lambda: behaviours.GpUcb(candidates=2), 'at least 4'),
  (lambda: behaviours.GpUcb(radius=0.0), 'radius'),
  (lambda: behaviours.EagleStrategy(chance=1.5), 'chance'),
  (lambda: behaviours.EagleStrategy(step=-1.0), 'step'),
  (lambda: behaviours.RegularizedEvolution(population=3), 'tournament'),
)


def test_floors_say_what_they_cannot_do():
  assert floors.floor(study('designer_eagle_strategy')) is None
  with pytest.raises(ValueError, match='algorithm must be one of'):
    floors.floor(
      studies.Study(
        studies.Problem(spaces.Space((spaces.Float('a', 0, 1),))),
        np.zeros((1, 1)),
        np.zeros(1),
        np.zeros(1, np.int8),
      )
    )


def test_a_fly_moves_towards_a_better_one():
  """The move of the paper by hand: two flies of which one has its turn."""
  calm = behaviours.EagleStrategy(step=0.0, smallest=0.0, chance=0.0)
  flies = calm.init(REAL)
  size = flies.gains.shape[0]
  assert size == 10 + math.ceil((3**1.2 + 3) / 2)
  near, far = jnp.array([0.4, 0.5, 0.6]), jnp.array([0.7, 0.4, 0.6])
  flies = flies.replace(
    points=flies.points.at[:2].set(jnp.stack([near, far])),
    gains=flies.gains.at[:2].set(jnp.array([1.0, 2.0])),
  )
  # After `size` trials it is the first fly's turn; the last trial, of the last
  # fly, changes nothing.
  history = behaviours.History.empty(TRIALS, 3).replace(count=jnp.int32(size))
  move = jax.jit(calm.propose)
  point, _ = move(seeds.key(1), REAL, history, flies)
  pull = math.exp(-float(((near - far) ** 2).sum()))
  np.testing.assert_allclose(point, near + pull * (far - near), rtol=1e-5)
  # The better one is pushed away from the worse one a little.
  swapped = flies.replace(gains=flies.gains.at[0].set(3.0))
  point, _ = move(seeds.key(1), REAL, history, swapped)
  np.testing.assert_allclose(
    point, near - 0.02 * pull * (far - near), rtol=1e-5
  )
