"""A run from its workdir alone: restored, evaluated, reported, compared."""

import csv
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import runtime
from runtime import compare, evaluate, report, trainer
from runtime.config import sessions
from runtime.context import RunContext
from runtime.loop import checkpoints
from runtime.record import writers
from tests import trees

FILES = ['configs/hpo/ufom_toy_tiny.gin']
PARAMS = [
  'STEPS = 4',
  'LOG_EVERY = 2',
  'EVAL_EVERY = 2',
  'CHECKPOINT_EVERY = 2',
  "checkpoints.CheckpointConfig.best_metric = 'eval/true/slope'",
]


def _write(workdir, rows):
  text = ''.join(f'{json.dumps(row)}\n' for row in rows)
  (workdir / 'metrics.jsonl').write_text(text)


def _train(workdir, seed=0, params=()):
  with sessions.session(trainer.train, FILES, [*PARAMS, *params]) as parsed:
    return parsed.build(
      workdir=str(workdir),
      seed=seed,
      context=RunContext(config=parsed.text, operative_config=parsed.operative),
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'toy'
  return workdir, _train(workdir)


@pytest.fixture
def copy(trained, tmp_path):
  return pathlib.Path(shutil.copytree(trained[0], tmp_path / 'copy'))


def test_state_trainer_and_scores_are_those_of_the_run(trained):
  workdir, result = trained
  with runtime.restore(str(workdir)) as run:
    assert (run.step, run.seed) == (4, 0)
    trees.check_same(run.state.theta, result.state.theta)
    assert run.trainer.tasks_per_step == run.experiment.batch_size
    last = run.finished().rows[-1]
    assert run.experiment.evaluate(run.state).items() <= last.items()


def test_steps_are_chosen_and_wrong_ones_named(trained, tmp_path):
  workdir = str(trained[0])
  with runtime.restore(workdir, step=2) as run:
    assert int(run.state.step) == 2
    assert run.finished().rows[-1]['step'] == 2
  slopes = {}
  for step in (2, 4):
    with runtime.restore(workdir, step=step) as run:
      slopes[step] = run.experiment.evaluate(run.state)['eval/true/slope']
  with runtime.restore(workdir, step='best') as run:
    assert run.step == min(slopes, key=slopes.get)
  with pytest.raises(ValueError, match=r'no checkpoint 3; it has \[2, 4\]'):
    runtime.restore(workdir, step=3)
  with pytest.raises(ValueError, match='holds no run'):
    runtime.restore(str(tmp_path))


def test_nothing_is_written_even_beside_a_running_process(copy):
  times = lambda: {p: p.stat().st_mtime_ns for p in copy.rglob('*')}
  before = times()
  with runtime.restore(str(copy)):
    pass
  assert times() == before


def test_settings_and_statements_change_the_trainer(trained):
  workdir = str(trained[0])
  with runtime.restore(
    workdir, params=['optax.sgd.learning_rate = 0.5'], tasks_per_step=2
  ) as run:
    assert run.experiment.batch_size == 2
  with pytest.raises(ValueError, match='no tasks; it has'):
    runtime.restore(workdir, tasks=2)


def test_a_mesh_that_does_not_fit_is_told(trained, caplog):
  params = ['DATA_PARALLEL = 3']
  with runtime.restore(
    str(trained[0]), params=params, devices=jax.devices()[:2]
  ) as run:
    assert run.experiment.mesh.size == 1
  assert 'one device is used' in caplog.text
  assert 'for 2 devices' in caplog.text


def test_parameters_that_do_not_fit_are_named(copy):
  text = (copy / 'config.gin').read_text()
  text = text.replace('Q = 0.1', 'Q = @adaptive.AdaptiveRule()')
  text = text.replace(
    'from hpo.ufom', 'from hpo.ufom import adaptive\nfrom hpo.ufom', 1
  )
  (copy / 'config.gin').write_text(text + '\nadaptive.AdaptiveRule.r = 10\n')
  with pytest.raises(checkpoints.MisfitError, match='averages'):
    runtime.restore(str(copy))


def test_a_damaged_checkpoint_is_named_with_one_that_is_there(copy):
  for part, step, message in (
    ('loop/metadata', 'latest', r'checkpoint 4 in .*copy.*try step=2$'),
    ('metrics/metrics', 'best', 'checkpoint 4 in'),
  ):
    (copy / 'checkpoints' / '4' / part).write_text('')
    with pytest.raises(checkpoints.CheckpointError, match=message):
      runtime.restore(str(copy), step=step)
    with runtime.restore(str(copy), step=2) as run:
      assert run.step == 2


def test_evaluate_prints_scores_and_writes_a_report(trained, tmp_path, capsys):
  workdir = str(trained[0])
  evaluate.main([workdir, '--step', 'best', '--report', str(tmp_path / 'r')])
  out = capsys.readouterr().out
  assert 'slope' in out
  assert (tmp_path / 'r' / 'scores.md').exists()
  with pytest.raises(ValueError, match=r"no split 'x'; there are \['true'\]"):
    evaluate.main([workdir, '--split', 'x'])
  with pytest.raises(ValueError, match='has no eval_episodes'):
    evaluate.main([workdir, '--episodes', '3'])


def test_a_report_is_written_again(copy):
  report.main([str(copy)])
  names = {path.name for path in (copy / 'report').iterdir()}
  assert {'scores.md', 'cost.csv', 'curves.png'} <= names


def test_runs_are_compared_by_configuration_and_seed(trained, tmp_path, capsys):
  """Against copies of a run with another seed or setting, and other scores."""
  folders = [str(trained[0])]
  for name, old, new in (
    ('b', '# seed = 0', '# seed = 1'),
    ('c', 'Q = 0.1', 'Q = 0.5'),
  ):
    folder = pathlib.Path(shutil.copytree(trained[0], tmp_path / name))
    text = (folder / 'config.gin').read_text()
    assert old in text
    (folder / 'config.gin').write_text(text.replace(old, new))
    worse = lambda k, v: 1.5 * v if k[:5] == 'eval/' else v
    _write(
      folder,
      [
        {k: worse(k, v) for k, v in row.items()}
        for row in writers.read_metrics(folder)
      ],
    )
    folders.append(str(folder))
  compare.main([*folders, '--out', str(tmp_path / 'out')])
  out = capsys.readouterr().out
  assert '-Q = 0.1' in out
  assert '+Q = 0.5' in out
  with (tmp_path / 'out' / 'scores.csv').open() as file:
    rows = [r for r in csv.DictReader(file) if r['metric'] == 'true/slope']
  assert [row['seeds'] for row in rows] == ['2', '1']
  first = [
    writers.read_metrics(folder)[-1]['eval/true/slope']
    for folder in folders[:2]
  ]
  assert float(rows[0]['mean']) == pytest.approx(np.mean(first))
  # Student's t of one degree of freedom: 12.706.
  half = 12.7062 * abs(first[0] - first[1]) / 2
  assert float(rows[0]['high']) - float(rows[0]['mean']) == pytest.approx(half)
  assert (tmp_path / 'out' / 'curves.png').exists()
  with pytest.raises(ValueError, match='same configuration and seed 0'):
    compare.main([folders[0], folders[0]])


@pytest.mark.parametrize('first', [1.0, None])
def test_a_run_that_ends_in_nan_shows(first, tmp_path):
  """Also if the metric was never finite."""
  for name, values in {'a': (first, None), 'b': (2.0, 3.0)}.items():
    (tmp_path / name).mkdir()
    rows = [{'step': i, 'eval/x': value} for i, value in enumerate(values)]
    _write(tmp_path / name, rows)
  (row,) = compare.score_rows({'both': [tmp_path / 'a', tmp_path / 'b']})
  assert row['seeds'] == 2
  assert np.isnan([row['mean'], row['low'], row['high']]).all()
