"""The ES benchmark: what it compares is equal, what it times is in turns."""

import importlib.util
import json
import pathlib

import jax.numpy as jnp
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts/bench_es.py'


@pytest.fixture(scope='module')
def script():
  spec = importlib.util.spec_from_file_location('bench_es', SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_both_rollouts_agree_and_others_are_refused(script, monkeypatch):
  task = script.Pendulum(script.Sizes(steps=12), hidden=(4,))
  task.check()
  monkeypatch.setattr(task, 'returns', lambda params, key: jnp.zeros(()))
  with pytest.raises(script.Refused, match='returns differ'):
    task.check()


def test_turns_are_per_generation_and_paired(script, monkeypatch):
  """A clock that only the sides move: 6 s a call of ours, 3 s of the peer."""
  clock = [0.0]
  monkeypatch.setattr(script.time, 'process_time', lambda: clock[0])

  def side(seconds):
    def run():
      clock[0] += seconds

    return run

  row = script.measure(side(6.0), side(3.0), rounds=3, generations=2)
  assert row == {'ours': 3000.0, 'peer': 1500.0, 'ratio': 2.0}
  alone = script.measure(side(6.0), None, rounds=3, generations=2)
  assert alone == {'ours': 3000.0, 'peer': None, 'ratio': None}


@pytest.mark.slow
def test_missing_peers_are_said(script, monkeypatch, tmp_path):
  def absent(name):
    raise script.Refused(f'not installed: {name}')

  monkeypatch.setattr(script, '_import', absent)
  out = tmp_path / 'es.json'
  sizes = ['--population=4', '--steps=3', '--generations=2', '--wide=8']
  script.main([*sizes, '--rounds=1', f'--out={out}'])
  rows = json.loads(out.read_text())['rows']
  assert len(rows) == 4
  assert all('not installed' in row['note'] for row in rows)
  assert all(row['ours'] > 0 for row in rows[:3])
