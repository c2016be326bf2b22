"""The sampler in Optuna's own loop."""

import warnings

import numpy as np
import pytest

from hpo.optformer import optuna as adapter
from hpo.optformer import suggesting

optuna = pytest.importorskip('optuna')
POLICY = suggesting.Policy(num_candidates=8)


@pytest.fixture
def sampler(made):
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  return lambda seed=0: adapter.OptFormerSampler(made, policy=POLICY, seed=seed)


def objective(trial):
  rate = trial.suggest_float('rate', 1e-4, 1.0, log=True)
  layers = trial.suggest_int('layers', 1, 4)
  width = trial.suggest_int('width', 8, 32, step=8)
  share = trial.suggest_float('share', 0.0, 1.0, step=0.25)
  kind = trial.suggest_categorical('kind', (None, True, 3, 'text'))
  assert kind in (None, True, 3, 'text')
  assert width in (8, 16, 24, 32)
  assert share * 4 == round(share * 4)
  trial.suggest_float('fixed', 2.0, 2.0)
  if trial.number == 2:
    raise optuna.TrialPruned
  if layers == 4:
    trial.suggest_float('rare', 0.0, 1.0)
  return rate + width + share


def points(sampler, direction='minimize'):
  study = optuna.create_study(sampler=sampler, direction=direction)
  study.optimize(objective, n_trials=5)
  assert len(study.trials) == 5
  return [trial.params for trial in study.trials]


def test_optimizes_and_is_reproducible(sampler):
  first = points(sampler())
  assert points(sampler()) == first
  assert points(sampler(1)) != first
  fresh = sampler()
  fresh.reseed_rng()
  assert points(fresh) != first
  assert len({str(point) for point in first}) == 5
  assert isinstance(fresh, optuna.samplers.BaseSampler)
  with pytest.raises(ValueError, match='seed=-1'):
    sampler(-1)


@pytest.mark.parametrize(
  ('low', 'high', 'step'),
  [(0.0, 0.3, 0.1), (-0.3, 0.3, 0.1), (0.1, 0.7, 0.2), (-0.3, 0.3, 1e-4)],
)
def test_steps_that_are_rounded_stay_legal(low, high, step):
  """Optuna draws a value anew, uniformly, that it finds out of range."""
  given = optuna.distributions.FloatDistribution(low, high, step=step)
  study = optuna.create_study()
  for value in (low, 0.0, 0.1 + 0.2, high):
    study.enqueue_trial({'x': value})
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Of values out of range.
    asked = [study.ask({'x': given}) for _ in range(4)]
  for trial in asked[:2]:
    study.tell(trial, 1.0)
  problem, columns = adapter.to_problem(study, {'x': given})
  found = adapter.to_trials(study.trials, columns, problem)
  is_legal = lambda trial: low <= trial.params['x'] <= high + 1e-9
  assert len(found) == sum(map(is_legal, study.trials))
  parameter = columns['x'].parameter
  ends = [parameter.value(code) for code in parameter.from_unit(np.arange(2.0))]
  assert [columns['x'].outside(end) for end in ends] == [low, high]


def test_values_off_the_steps_are_not_shown_to_the_model():
  given = optuna.distributions.FloatDistribution(0.0, 1.0, step=0.25)
  inside = adapter._column('x', given).inside
  assert [inside(x) for x in (0.25 + 1e-12, 0.3, 1.5)] == [0.25, 0.3, 1.5]


def test_runs_at_once_differ(sampler):
  study = optuna.create_study(sampler=sampler())
  study.optimize(objective, n_trials=2)
  asked = [study.ask() for _ in range(3)]
  rates = [trial.suggest_float('rate', 1e-4, 1.0, log=True) for trial in asked]
  assert len(set(rates)) == 3


def test_what_the_model_cannot_read_is_drawn_uniformly(sampler):
  kinds = optuna.distributions
  given = {
    'list': kinds.CategoricalDistribution(range(1200)),
    'large': kinds.IntDistribution(-(2**60), 2**60),
    'wide': kinds.FloatDistribution(1e-300, 1e300, log=True),
  }
  # As many as those of `objective`, whose programs these share.
  known = {f'x{i}': kinds.FloatDistribution(0.0, 1.0) for i in range(5)}
  given |= known
  study = optuna.create_study(sampler=sampler())
  for value in (1.0, 2.0):
    study.tell(study.ask(given), value)
  trial = study.ask(given)
  assert set(trial.relative_params) == set(known)
  assert set(trial.params) == set(given)


def test_several_objectives_are_refused(sampler):
  study = optuna.create_study(
    sampler=sampler(), directions=['minimize', 'maximize']
  )
  run = lambda trial: (trial.suggest_float('x', 0, 1), 1.0)
  with pytest.raises(ValueError, match='one objective'):
    study.optimize(run, n_trials=2)


def test_odd_trials_do_not_stop_a_study(sampler):
  """Infinite values, values out of range, and ranges of failed trials."""

  def odd(trial):
    rate = trial.suggest_float('rate', 0.0, 9.0 if trial.number == 1 else 1.0)
    trial.suggest_int('width', 0, 8000, step=2)
    trial.suggest_float('share', 0.0, 1.0, step=1e-4)
    trial.suggest_int('layers', 1, 4)
    trial.suggest_categorical('kind', ('a', 'b'))
    if trial.number == 1:
      raise optuna.TrialPruned
    return float('inf') if trial.number == 2 else rate

  study = optuna.create_study(sampler=sampler())
  shared = {'width': 2, 'share': 0.5}
  study.enqueue_trial({'rate': 5.0, **shared})
  study.enqueue_trial({'rate': 7.0, **shared})
  with pytest.warns(UserWarning, match='out of range'):
    study.optimize(odd, n_trials=6)
  assert [t.state.name for t in study.trials].count('COMPLETE') == 5
  for trial in study.trials[3:]:
    assert trial.params['width'] % 2 == 0
    places = trial.params['share'] * 1e4
    assert places == pytest.approx(round(places), abs=1e-6)
