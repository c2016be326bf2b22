"""Trackers beside the rows: a real MLflow store, and a tracker that fails."""

import json

import pytest

from runtime import loop
from runtime.loop import durations
from runtime.record import trackers, writers


class Broken:
  def __init__(self, workdir):
    self.rows = 0

  def write(self, step, values):
    raise OSError('the server is gone')

  def close(self):
    raise AssertionError('it was left out')


def config(steps, *made):
  return loop.LoopConfig(
    durations.Duration(steps=steps), log_every=1, trackers=made
  )


def test_a_tracker_that_fails_is_told_once(regression, tmp_path, caplog):
  result = loop.run(regression(), config(4, Broken), workdir=tmp_path, seed=0)
  assert result.finished
  assert caplog.text.count('cannot write and is left out') == 1
  assert 'the server is gone' in caplog.text
  assert len(writers.read_metrics(tmp_path)) == 5


def test_mlflow_has_every_row_once_also_of_a_resumed_run(regression, tmp_path):
  tracking = pytest.importorskip('mlflow.tracking')
  uri = f'sqlite:///{tmp_path}/mlflow.db'
  tracker = trackers.MLflow(uri, experiment='test')
  run = tmp_path / 'run'
  loop.run(regression(), config(3, tracker), workdir=run, seed=0)
  rows = writers.read_metrics(run)
  # As after a kill: two rows less than MLflow has.
  (run / 'metrics.jsonl').write_text(
    '\n'.join(map(json.dumps, rows[:2])) + '\n'
  )
  again = tracker(run)
  for row in rows[2:]:
    again.write(row['step'], {k: v for k, v in row.items() if k != 'step'})
  again.write(9, {'train/loss': 0.5})
  again.close()
  client = tracking.MlflowClient(uri)
  found = client.search_runs(
    [client.get_experiment_by_name('test').experiment_id]
  )
  assert len(found) == 1
  history = client.get_metric_history(found[0].info.run_id, 'train/loss')
  expected = [
    (r['step'], r['train/loss']) for r in rows if 'train/loss' in r
  ] + [(9, 0.5)]
  assert sorted((m.step, m.value) for m in history) == expected
