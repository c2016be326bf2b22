"""The PPO benchmark: turns are paired, and what is missing is said."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts/bench_rl.py'


@pytest.fixture(scope='module')
def script():
  spec = importlib.util.spec_from_file_location('bench_rl', SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_turns_are_per_step_and_paired(script, monkeypatch):
  """Clocks that only the sides move: 2 s a call, and 4 s of the other."""
  clock = [0.0]
  for name in ('process_time', 'perf_counter'):
    monkeypatch.setattr(script.time, name, lambda: clock[0])

  def side(seconds, steps):
    def run():
      clock[0] += seconds

    return script.Side(run, steps)

  rows = script.measure(side(2.0, 600), side(4.0, 400), rounds=3)
  assert [row['clock'] for row in rows] == ['CPU', 'wall']
  for row in rows:
    assert row['ours'] == pytest.approx(1e4 / 3)
    assert row['peer'] == pytest.approx(1e4)
    assert row['ratio'] == pytest.approx(1 / 3)
  alone = script.measure(side(2.0, 600), None, rounds=3)
  assert all(row['ratio'] is None for row in alone)


def test_a_missing_peer_is_said_and_agents_are_counted(
  script, monkeypatch, tmp_path
):
  made = []

  def ours(iterations, agents=1, devices=1):
    made.append((iterations, agents, devices))
    return script.Side(lambda: None, iterations * agents)

  monkeypatch.setattr(script, 'ours', ours)
  monkeypatch.setattr(script, 'bound', lambda: script.Side(lambda: None, 5))
  out = tmp_path / 'rl.json'
  sizes = ['--rounds=1', '--iterations=12', '--agents=2', '--devices=4']
  script.main([*sizes, f'--out={out}'])
  assert made == [(12, 1, 1), (6, 2, 1), (6, 2, 4)]
  found = json.loads(out.read_text())
  assert 'no --purejaxrl' in found['notes']
  assert found['rows'][0]['ratio'] is None
  assert found['rows'][2]['ratio'] > 0


def test_our_side_trains_alike_on_any_devices(script):
  found = []
  for devices in (1, 2):
    side = script.ours(1, agents=2, devices=devices)
    assert side.steps == 2 * 4 * 128
    _, (metrics, _) = side.run()
    assert metrics['policy_loss'].shape == (2, 1)
    found.append(metrics)
  for name, values in found[0].items():
    np.testing.assert_allclose(found[1][name], values, rtol=1e-3, atol=1e-6)


def test_the_bound_counts_the_products_of_a_step(script):
  """Acting, and four epochs of three times that, of two networks 4-64-64-k."""
  forward = 2 * sum(4 * 64 + 64 * 64 + 64 * k for k in (2, 1))
  learning = 4 * (3 * forward - 2 * 2 * 4 * 64)  # No gradient of observations.
  least = 2 * 2048**3 / script.bound().steps
  # Beside these: values of truncated and of last observations.
  assert forward + learning < least < 2.3 * forward + learning
