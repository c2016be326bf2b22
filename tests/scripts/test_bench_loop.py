import importlib.util
import json
import pathlib
import sys

import jax
import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts/bench_loop.py'


@pytest.fixture(scope='module')
def script():
  spec = importlib.util.spec_from_file_location('bench_loop', SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_step_does_the_products_it_is_asked_for(script):
  experiment = script.make_experiment(3)
  batch = next(experiment.batches)
  state, collection = jax.jit(experiment.step)(experiment.init(), batch)
  expected = np.eye(script.WIDTH)
  for _ in range(3):
    expected = np.tanh(expected @ np.eye(script.WIDTH))
  np.testing.assert_allclose(state.matrix, expected + 1e-3, rtol=1e-5)
  np.testing.assert_allclose(
    collection.compute()['loss'],
    np.mean((batch['x'].astype(np.float64) @ expected) ** 2),
    rtol=1e-4,
  )


def test_turns_pair_the_steps_of_the_loop_with_the_bare_ones(
  script, monkeypatch
):
  """A clock that only the test moves: 3 s a step of ours, 2 s of the peer."""
  clock = [0.0]

  class Peer:
    def seconds(self, steps):
      clock[0] += 2.0 * steps
      return 2.0

  monkeypatch.setattr(script.time, 'perf_counter', lambda: clock[0])
  turns = script.Turns(Peer())
  batches = script.Batches()
  batches.on_turn = turns.next
  for _ in range(3 * script.LOG_EVERY):
    next(batches)
    clock[0] += 3.0
  assert turns.ours == [3.0, 3.0]
  assert turns.peer == [2.0, 2.0]


def test_writes_its_rows(script, tmp_path, monkeypatch, capsys):
  out = tmp_path / 'results' / 'loop.json'
  flags = ['--turns=2', f'--out={out}']
  monkeypatch.setattr(sys, 'argv', ['bench_loop.py', *flags])
  monkeypatch.setattr(script, 'calibrate', lambda target_s: 1)
  script.main()
  result = json.loads(out.read_text())
  assert result['name'] == 'loop'
  assert [row['case'] for row in result['rows']] == [
    'step of 1 ms', 'step of 5 ms', 'step of 20 ms',
  ]  # fmt: skip
  for row in result['rows']:
    assert min(row['ours'], row['peer']) > 0
    assert row['ratio'] > 0
  assert 'step of 20 ms' in capsys.readouterr().out
