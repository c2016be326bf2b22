"""Trainers of populations and searches: resuming, budgets, studies, seeds."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from hpo import studies
from hpo.autorl import accounts
from hpo.autorl.population import pb2, pbt, running
from hpo.autorl.population import results as population_results
from hpo.autorl.population import training as population_training
from hpo.autorl.search import gp, halving, simple
from hpo.autorl.search import results as search_results
from hpo.autorl.search import training as search_training
from hpo.optformer import datasets, tokens, vocabulary
from runtime import loop, trainer
from runtime.loop import durations
from tests import experiments, marks
from tests.hpo.autorl.populations_cases import LINE, Climb

SEEDS = accounts.Seeds((0, 1), (7, 8))


def population(method=pbt.PBT, **options):
  options = {'size': 4, 'rounds': 4, 'updates': 2} | options
  return population_training.PopulationTrainer(
    Climb(noise=0.1), method(LINE), seeds=SEEDS, name='climb', **options
  )


def search(method, **options):
  options = {'jobs': 8, 'updates': 3, 'parallel': 2} | options
  return search_training.SearchTrainer(
    Climb(noise=0.1), method, LINE, seeds=SEEDS, name='climb', **options
  )


def train(made, steps, workdir):
  result = trainer.train(
    workdir=str(workdir),
    trainer=made,
    loop=loop.LoopConfig(
      durations.Duration(steps=steps),
      log_every=1,
      checkpoint_every=durations.Duration(steps=2),
    ),
  )
  return result.state


TRAINERS = {
  'pbt': population,
  'pb2': lambda: population(pb2.PB2),
  'asha': lambda: search(halving.Asha(9, eta=3)),
  'gp': lambda: search(
    gp.GP(initial=3, fit_steps=3, candidates=16, offspring=8)
  ),
}


# Of each trainer one is quick.
@pytest.mark.parametrize('name', ['pbt', 'asha', *marks.slow('pb2', 'gp')])
def test_resumed_runs_are_the_same(name, tmp_path, one_device):
  made = TRAINERS[name]()
  rows = experiments.check_resumes(
    lambda steps, workdir: train(made, steps, workdir), tmp_path
  )
  assert rows[-1]['step'] == 4
  whole, parts = (
    (tmp_path / run / 'report' / 'study.jsonl').read_text()
    for run in ('whole', 'parts')
  )
  assert whole == parts


@pytest.mark.parametrize('name', ['pbt', 'asha', 'gp', *marks.slow('pb2')])
def test_the_step_is_compiled_once(name):
  """The first state has the types of all others, weak types included."""
  experiment = experiments.of(TRAINERS[name](), devices=jax.devices()[:1])
  before = jax.eval_shape(experiment.init)
  batch = next(experiment.batches)
  after, _ = jax.eval_shape(experiment.step, before, batch)
  types = lambda tree: [
    (x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)
  ]
  assert types(after) == types(before)


def test_devices_share_the_members():
  """Against one program of one device."""
  made = population(size=8)
  driven = loop.drive(experiments.of(made), 4, 4)
  totals = driven.state.populations.members['total']
  assert len(totals.sharding.device_set) == 8
  run = functools.partial(
    running.run, made.inner, made.method, size=8, rounds=4, updates=2
  )
  keys = accounts.keys(jax.random.key(0), SEEDS.tuning)
  _, played = jax.jit(jax.vmap(run))(keys)
  scores = np.asarray(played.scores).max(axis=-1).mean(axis=0)
  found = driven.column('train/best_score')
  np.testing.assert_allclose(found, scores, rtol=1e-5)


@pytest.mark.parametrize(
  'drawn',
  [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.pictures])],
)
def test_what_a_population_leaves(drawn, tmp_path, capsys, one_device):
  made = population(rounds_per_step=2)
  state = train(made, 3, tmp_path)  # Two rounds more than there are.
  assert int(state.populations.rounds[0]) == 4
  assert {p.name for p in (tmp_path / 'report').glob('*.png')} >= {
    'schedule.png',
    'lineage.png',
    'incumbent.png',
  }
  [study] = studies.read(tmp_path / 'report' / 'study.jsonl')
  assert len(study) == 4 * 2 * 4
  assert study.problem.algorithm == 'PBT'
  np.testing.assert_allclose(
    study.values, np.asarray(state.history.scores).ravel(), rtol=1e-6
  )
  # rounds x members x seeds x updates
  assert '| 32 ' in capsys.readouterr().out.replace('|     ', '| ')
  table = (tmp_path / 'report' / 'budget.csv').read_text()
  assert table.splitlines()[1].startswith(f'32,{4 * 4 * 2 * 2},2')
  _check_the_trainer_of_optformer_reads(tmp_path / 'report' / 'study.jsonl')


def _check_the_trainer_of_optformer_reads(path):
  data = datasets.StudyFiles(
    tokens.Tokenizer(vocabulary.Compact(bins=50), decoder_length=120),
    train=str(path),
  )
  assert data.num_studies == 1
  example = data.training_examples(0)(np.array([0]))
  assert all(np.isfinite(x).all() for x in example.values())


def test_a_job_that_goes_on_has_the_state_of_its_parent():
  made = search(halving.Asha(9, eta=3), jobs=6, parallel=3)
  made = dataclasses.replace(made, inner=Climb())
  experiment = experiments.of(made)
  driven = loop.drive(experiment, 2, 2)
  jobs = made._told(experiment.batches, driven.state)
  state = driven.state
  child = next(r for r in jobs.records if r.job.parent is not None)
  place = child.job.params['x']
  # Three updates in all, one of them in the parent.
  gain = np.exp(-20 * (place - 0.7) ** 2)
  np.testing.assert_allclose(child.score, 3 * gain, rtol=1e-5)
  np.testing.assert_allclose(
    state.states['total'][child.job.id], 3 * gain, rtol=1e-5
  )
  updates = sum(r.step for r in jobs.records) - 1
  assert int(state.spent) == updates * 2
  steps, best = search_results.incumbents(jobs.records, 2)
  assert steps[-1] == updates * 2
  assert best[-1] == max(r.score for r in jobs.records)


def test_failed_jobs_are_infeasible():
  @dataclasses.dataclass(frozen=True)
  class Broken(Climb):
    def update(self, state, zeta, key):
      found = super().update(state, zeta, key)
      score = jax.numpy.where(zeta['x'] > 0.5, jax.numpy.nan, found.score)
      return found._replace(score=score)

  made = dataclasses.replace(search(simple.Sobol()), inner=Broken())
  experiment = experiments.of(made)
  driven = loop.drive(experiment, 4)
  made._told(experiment.batches, driven.state)
  for record in experiment.batches.tuner.records:
    assert (record.score is None) == (record.job.params['x'] > 0.5)


@dataclasses.dataclass(frozen=True)
class Hopeless(Climb):
  """All members fail."""

  def update(self, state, zeta, key):
    found = super().update(state, zeta, key)
    return found._replace(score=jax.numpy.float32(np.nan))


@pytest.mark.parametrize('name', ['pbt', 'asha'])
def test_runs_that_all_fail_are_a_result(name, tmp_path, caplog, one_device):
  made = dataclasses.replace(TRAINERS[name](), inner=Hopeless())
  train(made, 4, tmp_path)
  [study] = studies.read(tmp_path / 'report' / 'study.jsonl')
  assert {trial.status for trial in study.trials} == {'INFEASIBLE'}
  assert 'the report lacks' not in caplog.text


def test_one_population_that_fails_does_not_stop_the_others():
  scores = np.float32([[[np.nan] * 4, [1.0, np.nan, 3.0, 2.0]]])
  played = running.Round(
    np.zeros((1, 2, 4, 1)), scores, np.zeros((1, 2, 4), int), {}
  )
  lost, kept = population_results.score_rows(LINE, played)
  assert lost['score'] is None
  assert (kept['score'], kept['median of members']) == (3.0, 2.0)
  made = population()
  experiment = experiments.of(made, devices=jax.devices()[:1])
  state = jax.jit(experiment.init)()
  history = state.history.replace(
    scores=state.history.scores.at[0].set(scores[0])
  )
  populations = state.populations.replace(rounds=state.populations.rounds + 1)
  state = state.replace(populations=populations, history=history)
  found = jax.jit(made._metrics)(state).compute()
  assert (float(found['score']), float(found['best_score'])) == (2.0, 3.0)
  scores = experiment.evaluators['test'](state)
  assert set(scores) == {'score'} < set(experiment.scores['test'])


def test_budgets_are_whole_updates():
  experiment = experiments.of(
    dataclasses.replace(
      search(halving.Asha(9, unit=1, eta=3)),
      inner=dataclasses.replace(Climb(), noise=0.0),
    )
  )
  experiment.batches._steps = 2
  with pytest.raises(ValueError, match='multiples'):
    next(experiment.batches)


def test_the_largest_seed_has_a_key():
  found = accounts.keys(jax.random.key(0), (1, 2**32 - 1))
  assert len(set(map(tuple, jax.random.key_data(found).tolist()))) == 2


@pytest.mark.parametrize(
  ('tuning', 'test', 'message'),
  [
    ((0, 1), (1, 2), 'seeds'),
    ((), (1,), 'seeds'),
    ((0,), (), 'seeds'),
    ((0, 0), (1,), 'seeds'),
    ((0,), (5, -1), 'test must not be negative'),
    ((2**32,), (1,), 'tuning must be at most 4294967295'),
  ],
)
def test_seeds_of_tuning_and_test_are_disjoint(tuning, test, message):
  with pytest.raises(ValueError, match=message):
    accounts.Seeds(tuning, test)
