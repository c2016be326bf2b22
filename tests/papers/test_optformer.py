"""The rows of OptFormer: what is measured and judged, with an untrained model."""

import dataclasses
import functools
import json
import time

import jax
import numpy as np
import pytest
from flax import linen as nn

from hpo import hpob, spaces, studies, tabular
from hpo.optformer import (
  acquisitions,
  bbob_studies,
  behaviours,
  forecasts,
  presets,
  suggesting,
  tokens,
  trained,
  vocabulary,
)
from papers import describing, rows
from papers.optformer import (
  amounts,
  costs,
  curves,
  imitation,
  methods,
  optimising,
  peers,
  prediction,
  searches,
  tasks,
)
from tests.hpo.optformer import optformer_cases as cases
from tests.papers import planted

SYSTEM = rows.find()['optformer']
TABLE = 'nasbench201/cifar10'


@functools.cache
def _untrained():
  words = vocabulary.Compact()
  network = presets.make(words, 'tiny')
  ids = np.ones((1, 2), np.int32)
  made = jax.jit(functools.partial(network.init, jax.random.key(0)))(ids, ids)
  maker = tokens.Tokenizer(words, encoder_length=128, decoder_length=96)
  return trained.Trained(network, maker, nn.unbox(made))


@dataclasses.dataclass(frozen=True)
class Untrained:
  def load(self):
    return _untrained()


@pytest.fixture
def table(tmp_path):
  """A small table in the place of the real ones."""
  shape = tabular.family(TABLE).shape
  runs = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
  path = tmp_path / 'tables.npz'
  np.savez(path, **{TABLE: runs})
  return tasks.Tables(str(path), (TABLE,))


METHODS = {
  'random': methods.Random(),
  'OptFormer': methods.OptFormer(
    suggesting.Policy(num_candidates=8), model=Untrained()
  ),
  'prior': methods.OptFormer(
    suggesting.Policy(acquisitions.Prior(), 8, noisy=True),
    minimal=True,
    temperature=1.5,
    model=Untrained(),
  ),
  'behaviour': methods.Behaviour(behaviours.RegularizedEvolution(4, 2)),
  'tpe': peers.Optuna('tpe'),
  'cma': peers.Optuna('cma'),
  'eagle': peers.Vizier('eagle'),
}


@pytest.mark.parametrize('name', list(METHODS))
def test_methods_search_from_the_same_start(name, table):
  if isinstance(METHODS[name], peers.Vizier):
    pytest.importorskip('vizier.algorithms', reason='extra [vizier]')
  if isinstance(METHODS[name], peers.Optuna):
    pytest.importorskip('optuna', reason='extra [optuna]')
  setting = searches.Setting(METHODS[name], table, trials=6, starts=4)
  found = searches.run(setting, seed=3)
  again = searches.run(setting, seed=3, at=TABLE)
  np.testing.assert_array_equal(found['best'], again['best'])
  assert (np.diff(found['best']) >= 0).all()
  assert found['final'] == found['best'][-1] <= 1
  plain = dataclasses.replace(setting, method=methods.Random())
  np.testing.assert_array_equal(
    found['best'][:4], searches.run(plain, seed=3)['best'][:4]
  )
  assert found['mean'] == pytest.approx(found['best'][4:].mean())
  assert 10 ** found['log_regret'] == pytest.approx(1 - found['final'])


def test_hpob_begins_with_its_own_starts(tmp_path):
  rng = np.random.default_rng(0)
  points, values = rng.uniform(size=(40, 2)), rng.uniform(size=40)
  for name, content in (
    (hpob.POINTS, {'X': points.tolist(), 'y': values[:, None].tolist()}),
    (hpob.STARTS, {'test0': [3, 4], 'test1': [5, 6]}),
  ):
    (tmp_path / name).write_text(json.dumps({'1': {'2': content}}))
  source = tasks.Hpob(str(tmp_path))
  setting = searches.Setting(methods.Random(), source, trials=6, starts=2)
  found = searches.run(setting, seed=0)
  scores = (values - np.median(values)) / (values.max() - np.median(values))
  np.testing.assert_allclose(found['best'][0], scores[3])
  np.testing.assert_allclose(found['best'][1], scores[3:5].max())
  assert np.isclose(scores[:, None], found['best']).any(axis=0).all()
  twice = searches.run(dataclasses.replace(setting, repeats=2), seed=0)
  np.testing.assert_allclose(twice['best'][0], scores[[3, 5]].mean())


def test_repeats_are_averaged(table):
  setting = searches.Setting(methods.Random(), table, trials=6, starts=5)
  one = [searches.run(setting, seed=seed)['best'] for seed in (0, 1)]
  assert not np.array_equal(*one)
  twice = searches.run(dataclasses.replace(setting, repeats=2), seed=0)['best']
  again = searches.run(dataclasses.replace(setting, repeats=2), seed=0)['best']
  np.testing.assert_array_equal(twice, again)
  assert not np.array_equal(twice, one[0])


def test_wrong_names_of_peers():
  problem = studies.Problem(tabular.family(TABLE).space)
  pytest.importorskip('optuna', reason='extra [optuna]')
  with pytest.raises(ValueError, match="'tpe' or 'cma', got 'gp'"):
    peers.Optuna('gp').start(problem, 0, 5)


def test_landmarks_of_a_known_function():
  rng = np.random.default_rng(0)
  space = spaces.Space(
    (spaces.Float('x', -5.0, 5.0), spaces.Discrete('y', (0, 1, 4)))
  )
  truth = lambda codes: (codes[:, 0] - 1.234) ** 2 + 10 * codes[:, 1]
  median, least = tasks._landmarks(space, truth, rng)
  codes = space.sample(rng, 100_000)
  assert median == pytest.approx(np.median(truth(codes)), rel=0.05)
  assert least == pytest.approx(0, abs=1e-4)


def test_searches_need_trials_of_their_own(table):
  with pytest.raises(ValueError, match='trials=5 starts=5'):
    searches.Setting(methods.Random(), table, trials=5)


@pytest.mark.slow
def test_tasks_of_unseen_families():
  source = tasks.Bbob(dimensions=(2,))
  first, again, other = (source.task(n) for n in (1, 1, 6))
  space = first.problem.space
  codes = space.sample(np.random.default_rng(0), 300)
  values = first.truth(codes)
  np.testing.assert_array_equal(values, again.truth(codes))
  np.testing.assert_array_equal(values[:3], first.truth(codes[:3]))
  assert first.problem == again.problem != other.problem
  # Noise is drawn for each trial; task 1 has noise, or this seed must change.
  seen = [first.observe(n, codes[0]) for n in (0, 0, 1)]
  assert seen[0] == seen[1] != seen[2]
  # Half of the points are below the median; none is far beyond the best known.
  scores = (values - first.zero) / (first.one - first.zero)
  assert 0.4 < (scores > 0).mean() < 0.6
  assert scores.max() < 1 + 1e-6
  best = first.best_scores(codes)
  np.testing.assert_array_equal(best, np.maximum.accumulate(scores))


class Uniform:
  """Knows the range and nothing else."""

  def __call__(self, setting, history, point, scale):
    masses = np.zeros((1, 1000))
    masses[:, 200:800] = 1 / 600
    return forecasts.Forecasts(masses, scale, history.problem.sign)


@pytest.fixture
def plain_study(monkeypatch):
  """Random trials of a study without a compiled function."""

  def study(setting, seed, count):
    space = tabular.family('hpolib/naval_propulsion').space
    rng = np.random.default_rng(seed)
    return cases.study(rng, space, count, goal='MINIMIZE')

  monkeypatch.setattr(prediction, '_random_study', study)


def test_scores_of_the_uniform_forecast(plain_study):
  found = prediction.run(prediction.Setting(Uniform()), seed=0, at=5)
  np.testing.assert_allclose(found['density'], 0, atol=1e-6)
  # With the value at v in [0, 1], the CRPS is v^3 / 3 + (1 - v)^3 / 3.
  pits = np.array(found['pit'])
  np.testing.assert_allclose(
    found['crps'], (pits**3 + (1 - pits) ** 3) / 3, atol=2e-3
  )
  assert set(found['hit']) <= {0.0, 1.0}
  np.testing.assert_allclose(found['confidence'], 0.01)


@pytest.mark.parametrize(
  'forecast', [prediction.by_histogram, prediction.by_model]
)
def test_forecasts_are_cut_to_the_range(plain_study, forecast):
  setting = prediction.Setting(forecast, 1.0, points=2, model=Untrained())
  found = prediction.run(setting, seed=1, at=6)
  assert np.isfinite(list(found.values())).all()
  assert {len(values) for values in found.values()} == {2}
  assert max(found['density']) <= np.log(600) + 1e-6


def test_calibration_of_perfect_forecasts():
  rng = np.random.default_rng(0)
  confidence = rng.uniform(size=(100, 200))
  hit = rng.uniform(size=(100, 200)) < confidence
  found = prediction.calibration(
    confidence, hit.astype(float), rng.uniform(size=(100, 200))
  )
  assert found['ECE %'] < 2
  assert found['PIT distance'] < 0.02
  assert found['50 % interval'] == pytest.approx(0.5, abs=0.02)
  assert found['90 % interval'] == pytest.approx(0.9, abs=0.02)


def test_imitation_reads_studies_under_names(monkeypatch):
  told = []

  def study(setting, seed):
    rng = np.random.default_rng(seed)
    found = cases.study(rng, tabular.family(TABLE).space, 8)
    problem = dataclasses.replace(
      found.problem, algorithm=f'designer_{setting.algorithm}'
    )
    return dataclasses.replace(found, problem=problem)

  def losses(model, found):
    told.extend(one.problem.algorithm for one in found)
    return [np.arange(8.0)] * len(found)

  monkeypatch.setattr(imitation, '_study', study)
  monkeypatch.setattr(imitation.imitation, 'losses', losses)
  setting = imitation.Setting('random_search', first=6, model=Untrained())
  found = imitation.run(setting, seeds=(0, 1), at='hill_climb')
  assert told == ['designer_hill_climb'] * 2
  for record in found:
    assert record['loss'] == 6.5
    # The floor is that of the algorithm that wrote the study.
    assert record['floor'] == record['uniform'] == pytest.approx(6 * np.log(5))


@pytest.mark.slow
def test_imitation_of_studies_that_are_made():
  source = bbob_studies.Source(
    (2,), 12, algorithms=(behaviours.RandomSearch(),), block=8
  )
  setting = imitation.Setting(
    'random_search', source, first=2, model=Untrained()
  )
  found = imitation.run(setting, seeds=(0, 1), at='random_search')
  for record in found:
    assert record['floor'] == pytest.approx(record['uniform'])
    # Untrained, so near to uniform; never better by more than luck.
    assert record['loss'] == pytest.approx(record['uniform'], rel=0.2)


def _searched(study, means):
  """Records of searches with these last scores, which differ from task to task."""
  found = {}
  for i, arm in enumerate(study.arms):
    for at in study.at or (None,):
      last = planted.noisy(means.get(arm, 0.5), 0.02, i, seeds=15)
      found[arm, at] = [
        {
          'best': np.linspace(0, x, 200),
          'final': x,
          'log_regret': np.log10(1 - x),
          'seconds': 0.1,
        }
        for x in last
      ]
  return planted.results(study, found, seeds=15)


_RANKED = {
  optimising.RANDOM: 0.7,
  optimising.PRIOR: 0.8,
  optimising.EI: 0.9,
  'M = 1': 0.6,
  'M = 10': 0.7,
  'M = 100': 0.8,
  'uniform proposals, EI': 0.75,
}
SEARCHES = (
  *('held-out', 'held-out-peers', 'held-out-vizier', 'candidates', 'tables'),
  *('tables-vizier', 'nasbench201', 'hpob', 'ablation-acquisitions'),
  *('ablation-metadata', 'ablation-temperature', 'ablation-proposals'),
)


@pytest.mark.parametrize('name', SEARCHES)
def test_rows_of_searches_are_judged(name):
  row = SYSTEM.rows[name]
  study = row.at_scale('paper' if name == 'hpob' else 'tiny')
  assert planted.verdict(row, _searched(study, _RANKED)) == 'holds'
  worst = dict.fromkeys(study.arms, 0.8)
  worst |= {optimising.EI: 0.6, optimising.PRIOR: 0.6, 'M = 100': 0.5}
  assert planted.verdict(row, _searched(study, worst)) == 'fails'


def test_curves_of_imitation_are_judged():
  (row,) = curves.ROWS
  study = row.at_scale('tiny')
  same = _searched(study, dict.fromkeys(study.arms, 0.8))
  assert planted.verdict(row, same) == 'holds'
  other = _searched(
    study, dict.fromkeys(study.arms, 0.8) | {'reg_evo, imitated': 0.6}
  )
  assert planted.verdict(row, other) == 'fails'


def _trained(losses):
  """Records of models with these last losses, by arm."""
  found = {}
  for i, (arm, loss) in enumerate(losses.items()):
    found[arm] = [
      {
        'objectives': np.array([7.0, x]),
        'parameters': np.array([3.0, x - 4]),
        'step': np.array([0, 600]),
      }
      for x in planted.noisy(loss, 0.01, i, seeds=3)
    ]
  study = amounts.ROWS[0].at_scale('tiny')
  return planted.results(study, found, seeds=3)


def test_amounts_of_data_are_judged():
  (row,) = amounts.ROWS
  arms = tuple(row.at_scale('tiny').arms)
  found = _trained(dict(zip(arms, (6.5, 6.2, 6.0), strict=True)))
  assert planted.verdict(row, found) == 'holds'
  found = _trained(dict(zip(arms, (6.5, 6.0, 6.2), strict=True)))
  assert planted.verdict(row, found) == 'fails'


@pytest.mark.slow
def test_models_are_trained_on_amounts_of_data():
  tiny = amounts.Setting(8, steps=60, records=2, size='tiny', judged=4)
  found = amounts.run(tiny, seed=0)
  assert found['step'].tolist() == [30, 60]
  assert found['objectives'][-1] < found['objectives'][0]
  again = amounts.run(tiny, seed=0)
  np.testing.assert_array_equal(again['parameters'], found['parameters'])


def _imitated(right, wrong=40.0):
  """Losses with the right name by algorithm, and with all other names."""
  floors = {
    'random_search': 20.0,
    'grid_search_shuffled': 14.0,
    'hill_climb': 8.0,
    'reg_evo': 10.0,
    'grid_search': 0.0,
  }
  found = {}
  for arm in imitation.NAMES:
    for at in imitation.NAMES:
      loss = right.get(arm, 9.0) if arm == at else wrong
      values = planted.noisy(loss, 0.01, seeds=12)
      found[arm, at] = [
        {'loss': x, 'uniform': 20.0}
        | ({'floor': floors[arm]} if arm in floors else {})
        for x in values
      ]
  return planted.results(imitation.STUDY, found, seeds=12)


@pytest.mark.parametrize(
  ('name', 'change'),
  [
    ('imitation-uniform', {'random_search': 20.5}),
    ('imitation-structured', {'hill_climb': 14.0}),
    ('imitation-floors', {'reg_evo': 12.0}),
    ('imitation-names', {'eagle_strategy': 39.5}),
  ],
)
def test_imitation_is_judged(name, change):
  good = {
    'random_search': 20.05,
    'grid_search_shuffled': 14.05,
    'hill_climb': 8.5,
    'reg_evo': 10.5,
  }
  row = SYSTEM.rows[name]
  assert planted.verdict(row, _imitated(good)) == 'holds'
  assert planted.verdict(row, _imitated(good | change)) == 'fails'


@pytest.mark.parametrize('name', ['prediction', 'calibration'])
def test_forecasts_are_judged(name):
  row, rng = SYSTEM.rows[name], np.random.default_rng(0)

  def found(good, bad):
    records = {}
    for arm in prediction.STUDY.arms:
      for at in prediction.STUDY.at:
        level = good if arm == prediction.MODEL else bad
        records[arm, at] = [
          {
            'density': level + at / 20 + rng.normal(0, 0.1, 4),
            'crps': rng.uniform(0, 0.1, 4),
            # Of the bad ones all values are too large, and bins too sure.
            'pit': rng.uniform(0 if level > 0 else 0.8, 1, 4),
            'confidence': np.full(4, 0.05 if level > 0 else 0.9),
            'hit': rng.uniform(size=4) < 0.05,
          }
          for _ in range(20)
        ]
    return planted.results(prediction.STUDY, records, seeds=20)

  assert planted.verdict(row, found(1.0, -1.0)) == 'holds'
  assert planted.verdict(row, found(-1.0, 1.0)) == 'fails'
  if name == 'calibration':
    assert planted.verdict(row, found(1.0, 1.0)) == 'inconclusive'


def test_costs_are_judged():
  row = SYSTEM.rows['cost-of-suggestions']
  study = row.at_scale('tiny')

  def found(power):
    return planted.results(
      study,
      {
        (arm, at): [
          {'next': x}
          for x in 0.01 * at**power * np.array([1, 1.05, 1.1]) * (1 + 99 * i)
        ]
        for i, arm in enumerate(study.arms)
        for at in study.at
      },
      seeds=3,
    )

  assert planted.verdict(row, found(0.3)) == 'holds'
  assert planted.verdict(row, found(2.0)) == 'fails'


class Slow:
  """Spends CPU time: a known amount a trial, half a second more at first."""

  started = 0

  def start(self, problem, seed, trials):
    self.started += 1

    def choose(study):
      end = time.process_time() + 0.002 * len(study) + (self.started == 1) / 2
      while time.process_time() < end:
        pass
      return problem.space.sample(np.random.default_rng(seed), 1)[0]

    return choose


def test_a_cost_is_timed():
  found = costs.run(costs.Setting(Slow(), parameters=2), seed=0, at=5)
  assert 0.002 * 6 <= found['next'] < 0.5


def test_settings_name_the_weights():
  """So that kept runs are not taken for those of other weights."""
  for name in (optimising.EI, optimising.PRIOR):
    setting = SYSTEM.rows['held-out'].at_scale('tiny').arms[name]
    told = describing.describe(setting)
    assert told['method']['model']['digest'] == methods.Model().digest
