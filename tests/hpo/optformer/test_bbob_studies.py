"""Generated studies: functions of seed and number, of the right distribution."""

import collections
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hpo import spaces, studies
from hpo.optformer import (
  bbob_problems,
  bbob_studies,
  behaviours,
  datasets,
  disguises,
  tokens,
  vocabulary,
)
from rl.es import bbob
from tests import seeds

# GP-UCB takes longest to compile, and has tests of its own.
CHEAP = behaviours.BEHAVIOURS[2:5]
KINDS = bbob_problems.Kinds(whole=1.0)
SOURCE = bbob_studies.Source(
  dimensions=(2,),
  trials=12,
  kinds=KINDS,
  disguise=disguises.Disguise(0.5),
  algorithms=CHEAP,
  block=32,
)
MAKER = tokens.Tokenizer(vocabulary.Compact(), encoder_length=144)
DATA = bbob_studies.BbobStudies(MAKER, source=SOURCE, eval_studies=4)


def same(first, second):
  return first.problem == second.problem and np.array_equal(
    first.values, second.values
  )


def test_studies_are_functions_of_seed_and_number():
  found = [SOURCE.study(1, number) for number in range(12)]
  bbob_studies._blocks.clear()
  # In another order, from other blocks.
  for number in (11, 3, 0):
    assert same(SOURCE.study(1, number), found[number])
  assert not same(SOURCE.study(2, 3), found[3])
  assert not same(SOURCE.study(1, 3, stream='other'), found[3])
  for first, second in itertools.combinations(found, 2):
    assert not np.array_equal(first.values, second.values)
  for number, study in enumerate(found):
    assert study.problem.algorithm == CHEAP[number % 3].name
    assert tokens.is_usable(study)


def test_a_number_of_studies_comes_again_and_again():
  few = dataclasses.replace(DATA, limit=4)
  assert (few.num_studies, DATA.num_studies) == (4, None)
  study, endless = few.training_study(1), DATA.training_study(1)
  for number in (0, 3, 4, 9):
    assert same(study(number), endless(number % 4))
  assert not same(endless(4), endless(0))
  with pytest.raises(ValueError, match='limit must be positive'):
    dataclasses.replace(DATA, limit=0)


def test_a_share_of_problems_has_one_type():
  def share(alike):
    kinds = bbob_problems.Kinds(1.0, 1.0, 1.0, 1.0, alike=alike)
    keys = jax.random.split(seeds.key(0), 2000)
    draw = lambda key: bbob_problems.draw(key, 4, (0, 1), kinds).kinds
    drawn = np.asarray(jax.jit(jax.vmap(draw))(keys))
    return (drawn == drawn[:, :1]).all(axis=1).mean()

  by_chance = 4**-3
  assert share(1.0) == 1.0
  # Five standard errors of 2,000 draws, at most.
  assert abs(share(0.0) - by_chance) < 0.015
  assert abs(share(0.3) - (0.3 + 0.7 * by_chance)) < 0.055


def test_unfit_studies_are_drawn_anew(monkeypatch):
  fit = lambda study: study.values[0] < study.values[1]
  monkeypatch.setattr(tokens, 'is_usable', fit)
  numbers = range(0, 3 * SOURCE.block, 3)
  found = [SOURCE.study(3, number) for number in numbers]
  assert all(map(fit, found))
  assert len({study.values.tobytes() for study in found}) == SOURCE.block
  monkeypatch.setattr(tokens, 'is_usable', lambda study: False)
  with pytest.raises(ValueError, match='must be fit to learn from, got 0 of'):
    SOURCE.study(4, 0)


def test_later_blocks_are_other_studies():
  one = SOURCE.study(1, 0)
  later = SOURCE.study(1, 3 * SOURCE.block)
  assert later.problem.algorithm == one.problem.algorithm
  assert not np.array_equal(one.values, later.values)


def test_dimensions_and_algorithms_take_turns():
  source = dataclasses.replace(SOURCE, dimensions=(1, 2, 3))
  places = [source.origin(number) for number in range(9 * 70)]
  assert len(set(places)) == len(places)
  seen = collections.Counter(place[:2] for place in places)
  assert seen == dict.fromkeys(itertools.product(range(3), (1, 2, 3)), 70)
  # Neighbours differ in both.
  assert len(set(places[0][:2] + places[1][:2])) > 2
  held_out = {source.origin(n, bbob_problems.HELD_OUT)[1] for n in range(99)}
  assert held_out == {2, 3}
  only_one = dataclasses.replace(SOURCE, dimensions=(1,))
  with pytest.raises(ValueError, match='need dimensions from 2 on'):
    only_one.origin(0, bbob_problems.HELD_OUT)


def test_nothing_of_the_held_out_families_leaks():
  assert len(bbob_problems.TRAINED) == 16
  assert not set(bbob_problems.TRAINED) & set(bbob_problems.HELD_OUT)
  known = {bbob.named(name).name for name in bbob.FUNCTIONS}
  assert {*bbob_problems.TRAINED, *bbob_problems.HELD_OUT} <= known
  for name in bbob_problems.HELD_OUT:
    for study in DATA.evaluation_studies(name):
      text = MAKER.vocabulary.decode(_ids(study)).lower()
      for family in (*bbob_problems.HELD_OUT, *bbob_problems.TRAINED):
        assert family.lower() not in text


def _ids(study):
  order = study.problem.space.free
  return MAKER.metadata(study.problem, order).tolist()


def test_training_takes_trained_families_only(monkeypatch):
  seen = []
  original = bbob_studies._block

  def spied(source, families, *rest):
    seen.append(families)
    return original(source, families, *rest)

  monkeypatch.setattr(bbob_studies, '_block', spied)
  DATA.training_study(0)(5)
  DATA.evaluation_studies('hill_climb')
  assert set(seen) == {bbob_problems.TRAINED}


def test_values_are_those_of_the_function():
  """A study without noise, against the formula at its own points."""
  draw = jax.jit(
    jax.vmap(lambda key: bbob_problems.draw(key, 2, (0, 2), KINDS))
  )
  problems = jax.device_get(draw(jax.random.split(seeds.key(0), 200)))
  quiet = int(np.argmax(problems.noise == 0))
  problem = jax.tree.map(lambda x: jnp.asarray(x[quiet]), problems)
  families = ('Sphere', 'BentCigar')
  gain = jax.jit(bbob_problems.objective(problem, families))
  point = problem.cube.snap(jnp.array([0.3, 0.9]))
  x = []
  for place in range(2):
    count = int(problem.cube.counts[place])
    index = min(int(point[place] * max(count, 1)), max(count - 1, 0))
    if problem.kinds[place] == bbob_problems.CATEGORICAL:
      index = int(problem.order[place, index])
    share = index / (count - 1) if count else float(point[place])
    x.append(-5 + 10 * share)
  function = bbob.FUNCTIONS[families[int(problem.family)]]
  expected = -np.asarray(jax.jit(function)(jnp.array(x), problem.instance))
  np.testing.assert_allclose(
    gain(seeds.key(1), point), expected, rtol=1e-5, atol=1e-5
  )
  kinds = np.asarray(problems.kinds).ravel()
  assert stats.chisquare(np.bincount(kinds, minlength=4)).pvalue > 1e-3
  noises = np.bincount(np.asarray(problems.noise), minlength=10)
  assert stats.chisquare(noises).pvalue > 1e-3
  counts = np.asarray(problems.cube.counts).ravel()
  listed = counts[kinds >= bbob_problems.DISCRETE]
  assert set(listed) == set(range(2, 9))
  assert DATA.longest_list == listed.max()
  assert counts[kinds == bbob_problems.INT].max() <= 64
  orders = np.sort(problems.order, axis=-1)
  np.testing.assert_array_equal(orders, np.broadcast_to(range(8), orders.shape))


def test_disguises_fit_the_encoder_and_change_no_token():
  rng = seeds.rng(1)
  longest = 0
  for kind in range(4):
    for _ in range(50):
      kinds, counts = np.full(4, kind), np.full(4, 64 if kind == 1 else 8)
      told = disguises.Disguise(1.0).problem(rng, kinds, counts, 'designer_x')
      plain = disguises.PLAIN.problem(rng, kinds, counts, 'designer_x')
      unit = told.space.to_unit(told.space.sample(rng, 5))
      names = [
        MAKER.parameters(
          studies.Study(
            problem,
            problem.space.from_unit(unit),
            np.zeros(5),
            np.zeros(5, np.int8),
          ),
          range(4),
        )
        for problem in (told, plain)
      ]
      np.testing.assert_allclose(*names, atol=1)
      longest = max(longest, np.count_nonzero(MAKER.metadata(told, range(4))))
  assert 100 < longest <= MAKER.encoder_length


def test_unknown_families_are_refused():
  with pytest.raises(ValueError, match="got 'Lunacek'"):
    bbob_studies.Source().study(0, 0, family='Lunacek')


def test_splits():
  assert DATA.splits[:3] == ('random_search', 'reg_evo', 'hill_climb')
  assert DATA.splits[3:] == bbob_problems.HELD_OUT
  assert isinstance(DATA, datasets.StudyData)
  [first, *_] = DATA.evaluation_studies('hill_climb')
  assert first.problem.algorithm == 'designer_hill_climb'
  assert len({type(p) for p in first.problem.space.parameters}) >= 1
  assert isinstance(first.problem.space, spaces.Space)
  with pytest.raises(ValueError, match='split must be one of'):
    DATA.evaluation_studies('Sphere')
  with pytest.raises(ValueError, match='dimensions'):
    dataclasses.replace(SOURCE, dimensions=())
  with pytest.raises(ValueError, match='chances'):
    bbob_problems.Kinds(real=-1.0)
  with pytest.raises(ValueError, match='alike must be in'):
    bbob_problems.Kinds(alike=1.5)
  with pytest.raises(ValueError, match='share'):
    disguises.Disguise(2.0)
