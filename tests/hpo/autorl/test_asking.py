"""Ask and tell: one contract for all tuners, and what is particular to each."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hpo import spaces
from hpo.autorl import asking
from hpo.autorl.population import pbt, rounds
from hpo.autorl.search import gp, halving, learned, optuna, simple, vizier
from hpo.optformer import acquisitions, suggesting

SPACE = spaces.Space(
  (
    spaces.Float('lr', 1e-5, 1e-1, 'LOG'),
    spaces.Int('layers', 1, 8),
    spaces.Categorical('kind', ('a', 'b', 'c')),
  )
)
POLICY = suggesting.Policy(acquisitions.Prior(), num_candidates=1)
METHODS = {
  'random': simple.Random,
  'sobol': simple.Sobol,
  'grid': simple.Grid,
  'hyperband': lambda: halving.Hyperband(9, eta=3),
  'asha': lambda: halving.Asha(9, eta=3),
  'gp': lambda: gp.GP(initial=4, fit_steps=5, candidates=16, offspring=8),
  'optuna': optuna.Optuna,
  'pbt': lambda: rounds.Rounds(pbt.PBT, size=4, rounds=4, interval=5),
  'optformer': lambda: learned.OptFormer(policy=POLICY),
  'vizier': vizier.Vizier,
}


def score(job):
  """Best at lr = 1e-3 and kind b; some points are infeasible."""
  if job.params['kind'] == 'c' and job.params['layers'] == 1:
    return None
  away = abs(math.log10(job.params['lr']) + 3)
  return -away + (job.params['kind'] == 'b') + 0.01 * (job.budget or 0)


def make(name, seed=3):
  if name == 'vizier':
    pytest.importorskip('vizier')
  return asking.Tuner(METHODS[name](), SPACE, seed=seed)


def play(tuner, asks, workers=2):
  """Runs jobs with one that is always pending; results come out of order."""
  for _ in range(asks):
    tuner.ask(workers)
    pending = tuner.pending
    waits = len(pending) < workers
    for job in reversed(pending if waits else pending[1:]):
      tuner.tell(job.id, score(job), job.budget)
  return tuner


# Its network takes ten seconds to compile.
SLOW = pytest.param('optformer', marks=pytest.mark.slow)


@pytest.mark.parametrize(
  'name', [SLOW if name == 'optformer' else name for name in METHODS]
)
def test_contract_of_tuners(name):
  tuner = play(make(name), 5)
  assert len(tuner.records) >= 8
  for number, record in enumerate(tuner.records):
    assert record.job.id == number
    SPACE.codes(record.job.params)
    if record.job.parent is not None:
      parent = tuner.records[record.job.parent]
      assert parent.told is not None
      assert parent.job.budget < record.job.budget
  state = json.loads(json.dumps(tuner.state()))
  resumed = make(name)
  resumed.restore(state)
  assert resumed.best == tuner.best
  assert play(tuner, 3).records == play(resumed, 3).records
  assert play(make(name), 8).records == tuner.records


@pytest.mark.parametrize('name', ['random', 'sobol', 'asha', 'gp', 'optuna'])
def test_points_depend_on_the_seed(name):
  one, two = (play(make(name, seed), 2).records for seed in (0, 1))
  assert one[0].job.params != two[0].job.params


def test_what_is_refused():
  tuner = make('random')
  with pytest.raises(ValueError, match='job'):
    tuner.tell(0, 1.0)
  [job] = tuner.ask()
  with pytest.raises(ValueError, match='finite'):
    tuner.tell(job.id, float('nan'))
  tuner.tell(job.id, None)
  with pytest.raises(ValueError, match='already'):
    tuner.tell(job.id, 1.0)
  assert tuner.best is None
  assert tuner.records[0].status == 'INFEASIBLE'
  with pytest.raises(ValueError, match='seed'):
    make('random', seed=4).restore(tuner.state())
  with pytest.raises(ValueError, match='another tuner'):
    make('sobol').restore(tuner.state())
  with pytest.raises(ValueError, match='seed'):
    make('random', seed=2**32)


def test_the_best_is_the_largest_score_of_any_budget():
  tuner = make('asha')
  for job in tuner.ask(3):
    tuner.tell(job.id, 10.0 + job.id)
  [job] = tuner.ask(1)
  assert (job.budget, job.parent) == (3, 2)
  tuner.tell(job.id, 1.0)
  assert tuner.best.job.id == 2


def test_grid_is_all_combinations_and_ends():
  tuner = asking.Tuner(simple.Grid(3), SPACE)
  jobs = tuner.ask(100)
  assert len(jobs) == 27
  assert len({tuple(job.params.values()) for job in jobs}) == 27
  assert sorted({job.params['layers'] for job in jobs}) == [1, 4, 8]
  assert tuner.ask(1) == []


def test_a_grid_in_halving_leaves_no_point_out():
  line = spaces.Space((spaces.Float('x', 0.0, 1.0),))
  tuner = asking.Tuner(halving.Asha(9, sampler=simple.Grid(7)), line)
  for _ in range(8):
    for job in tuner.ask(2):
      tuner.tell(job.id, job.params['x'])
  fresh = [r.job.params['x'] for r in tuner.records if r.job.parent is None]
  np.testing.assert_allclose(fresh, np.linspace(0, 1, 7))
  assert any(record.job.budget == 9 for record in tuner.records)
  with pytest.raises(ValueError, match='as many points as the brackets start'):
    asking.Tuner(halving.Hyperband(9, sampler=simple.Grid(7)), line).ask(9)


def test_sobol_is_one_sequence_however_it_is_asked():
  one, two = (asking.Tuner(simple.Sobol(), SPACE) for _ in range(2))
  whole = one.ask(16)
  parts = [job for count in (1, 5, 10) for job in two.ask(count)]
  assert whole == parts
  codes = [SPACE.codes(job.params) for job in whole]
  # One point in each sixteenth of a real parameter: what random points lack.
  cells = np.floor(SPACE.to_unit(np.stack(codes))[:, 0] * 16)
  assert sorted(cells) == list(range(16))


def test_brackets_are_those_of_the_paper():
  found = halving.brackets(81, 1, 3)
  assert [bracket.sizes[0] for bracket in found] == [81, 34, 15, 8, 5]
  assert found[1].sizes == (34, 11, 3, 1)
  assert found[1].budgets == (3, 9, 27, 81)
  for bracket in found:
    spent = np.dot(bracket.sizes, bracket.budgets)
    assert spent <= 5 * 81


def test_hyperband_keeps_the_best_of_each_round_and_ends():
  tuner = asking.Tuner(halving.Hyperband(9, eta=3), SPACE)
  while jobs := tuner.ask(4):
    for job in jobs:
      tuner.tell(job.id, score(job))
  brackets = halving.brackets(9, 1, 3)
  runs = sum(sum(bracket.sizes) for bracket in brackets)
  scored = sum(r.score is not None for r in tuner.records)
  assert scored <= len(tuner.records) <= runs
  first = [r for r in tuner.records[:9] if r.job.budget == 1]
  best = sorted(first, key=lambda r: -(r.score or -9))[:3]
  gone_on = {r.job.parent for r in tuner.records if r.job.budget == 3}
  assert {r.job.id for r in best} <= gone_on
  for record in tuner.records:
    if record.job.parent is not None:
      parent = tuner.records[record.job.parent].job
      assert parent.params == record.job.params
      assert record.job.budget == 3 * parent.budget


def test_asha_never_waits():
  tuner = make('asha')
  assert len(tuner.ask(50)) == 50
  tuner.tell(7, 1.0)
  assert tuner.ask(1)[0].parent is None  # One result is no top third.
  tuner.tell(8, 2.0)
  tuner.tell(9, 0.0)
  assert tuner.ask(1)[0].parent == 8


def test_expected_improvement_is_the_mean_of_improvements():
  mean, deviation, best = 0.3, 0.7, 0.5
  gain = jax.jit(gp.expected_improvement)
  found = gain(jnp.array([mean]), jnp.array([deviation]), jnp.float32(best))
  grid = np.linspace(-6, 6, 200_001)
  gains = np.maximum(mean + deviation * grid - best, 0)
  expected = np.trapezoid(gains * stats.norm.pdf(grid), grid)
  np.testing.assert_allclose(found[0], expected, rtol=1e-4)
  sure = gain(jnp.array([0.2, 0.5, 0.8]), jnp.zeros(3), jnp.float32(best))
  np.testing.assert_allclose(sure, [0.0, 0.0, 0.3], atol=1e-6)


SQUARE = spaces.Space(
  (spaces.Float('x', 0.0, 1.0), spaces.Float('y', 0.0, 1.0))
)
SEARCH = gp.GP(initial=5, fit_steps=30, candidates=64, offspring=16)


def test_gp_finds_the_best_sooner_than_random_points():
  def regret(method, seed):
    tuner = asking.Tuner(method, SQUARE, seed=seed)
    for _ in range(16):
      [job] = tuner.ask()
      x, y = job.params.values()
      tuner.tell(job.id, -((x - 0.7) ** 2) - (y - 0.2) ** 2)
    return -tuner.best.score

  ours = [regret(SEARCH, seed) for seed in range(3)]
  assert max(ours) < 1e-3
  assert np.mean([regret(simple.Random(), s) for s in range(3)]) > 3e-3


def test_gp_takes_scores_of_any_size():
  """float32 ends at 3e38; scaled by a power of two, it changes nothing."""

  def points(factor):
    tuner = asking.Tuner(SEARCH, SQUARE)
    for score in (None, 1.5, -3.0, 2.0, None, 1.0, 0.5):
      [job] = tuner.ask()
      tuner.tell(job.id, score and score * factor)
    return [record.job.params['x'] for record in tuner.records]

  assert points(2.0**1000) == points(2.0**-1000) == points(1.0)


def test_points_asked_for_at_once_differ():
  tuner = play(make('gp'), 4)
  found = SPACE.to_unit(
    np.stack([SPACE.codes(job.params) for job in tuner.ask(3)])
  )
  for i in range(3):
    for j in range(i):
      assert np.abs(found[i] - found[j]).max() > 0.02
