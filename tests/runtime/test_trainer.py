"""Training by a trainer: what is opened is closed, and a report costs no run."""

import contextlib
import dataclasses

import pytest

from runtime import context, loop, trainer
from runtime.loop import durations
from runtime.record import writers

CONFIG = loop.LoopConfig(durations.Duration(steps=2), log_every=1)


class Toy:
  """A trainer that notes when its experiment is closed."""

  def __init__(self, make, **changes):
    self.make = make
    self.changes = changes
    self.closed = 0

  @contextlib.contextmanager
  def experiment(self, *, seed, mesh):
    del seed
    try:
      yield dataclasses.replace(self.make(mesh=mesh), **self.changes)
    finally:
      self.closed += 1


def _train(toy, workdir, *, config=CONFIG, **options):
  return trainer.train(
    workdir=str(workdir), trainer=toy, loop=config, **options
  )


def test_tables_pictures_and_how_to_continue(
  regression, tmp_path, capsys, one_device
):
  seen = {}

  def pictures(run):
    seen.update(run.tables)
    return {'note.txt': lambda path: path.write_text(str(run.rows[0]['step']))}

  toy = Toy(
    regression,
    tables=lambda run: {'sums': [{'w': float(run.state.params['w'].sum())}]},
    pictures=pictures,
  )
  told = context.RunContext(program='python -m toy', argv=('toy', '--x=a b'))
  _train(toy, tmp_path, context=told)
  out = capsys.readouterr().out
  assert toy.closed == 1
  assert seen['sums'][0]['w'] != 0
  folder = tmp_path / 'report'
  assert (folder / 'sums.md').read_text() in out
  assert (folder / 'note.txt').read_text() == '1'
  assert {'sums.csv', 'curves.png', 'metrics.csv', 'summary.md'} <= {
    path.name for path in folder.iterdir()
  }
  assert "python -m toy '--x=a b' --gin_param='STEPS = ...'" in out


def test_a_part_that_fails_costs_only_itself(
  regression, tmp_path, caplog, one_device
):
  def fail(*_):
    raise KeyError('no such agent')

  toy = Toy(
    regression,
    tables=fail,
    pictures=lambda run: {'bad.png': fail},
    files=lambda run: {'good.txt': lambda path: path.write_text('found')},
  )
  assert _train(toy, tmp_path).finished
  written = {path.name for path in (tmp_path / 'report').iterdir()}
  assert {'good.txt', 'curves.png'} <= written
  assert "lacks the tables: KeyError: 'no such agent'" in caplog.text
  assert 'lacks the file bad.png: KeyError' in caplog.text
  assert toy.closed == 1


def test_no_steps_no_report(regression, tmp_path, caplog, one_device):
  config = loop.LoopConfig(durations.Duration(steps=0))
  assert _train(Toy(regression), tmp_path, config=config).finished
  assert 'no report: there are no steps' in caplog.text
  assert not (tmp_path / 'report').exists()


def test_a_failure_closes_the_experiment(regression, tmp_path, one_device):
  toy = Toy(lambda mesh: regression(mesh=mesh, poison=1))
  with pytest.raises(FloatingPointError):
    _train(toy, tmp_path)
  assert toy.closed == 1


def test_what_has_no_parameters_of_its_own_refuses_those_of_others(
  regression, tmp_path, one_device
):
  toy, workdir = Toy(regression, inheritable=False), tmp_path / 'new'
  start = context.RunContext(init_from='elsewhere')
  with pytest.raises(ValueError, match='leave out --init_from=elsewhere'):
    _train(toy, workdir, context=start)
  assert not workdir.exists()


def test_a_refused_restart_loses_nothing(
  regression, tmp_path, capsys, one_device
):
  """And what cannot start from another run is not told to."""
  toy = Toy(regression, inheritable=False)
  _train(toy, tmp_path)
  files = lambda: {
    path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')
  }
  before = files()
  start = context.RunContext(init_from='elsewhere')
  with pytest.raises(ValueError, match='leave out --init_from=elsewhere'):
    _train(toy, tmp_path, context=start)
  assert files() == before
  longer = dataclasses.replace(CONFIG, duration=durations.Duration(steps=3))
  told = context.RunContext(program='python -m toy', argv=('toy',))
  assert _train(toy, tmp_path, config=longer, context=told).step == 3
  steps = [row['step'] for row in writers.read_metrics(tmp_path)]
  assert sorted(set(steps)) == [1, 2, 3]
  assert 'give it more STEPS:\n  python -m toy' in capsys.readouterr().out
