"""PPO: agents are counted, and all sides do the same work."""

import numpy as np
import pytest

from benchmarks import harness, programs, rl


def test_agents_are_counted_and_set_beside_one(monkeypatch):
  made = []

  def ours(iterations, agents=1, devices=1):
    made.append((iterations, agents, devices))
    return programs.Program(lambda: None, units=iterations * agents)

  monkeypatch.setattr(rl, 'ours', ours)
  monkeypatch.setattr(rl, 'bound', lambda: programs.Program(lambda: None))
  sizes = rl.Sizes(iterations=12, agents=2, devices=4)
  settings = programs.Settings(rounds=1, pause=0.0)
  results = harness.run(rl.SUBJECT, sizes, settings, ['PPO'], peers=True)
  assert made == [(12, 1, 1), (6, 2, 1), (6, 2, 4)]
  (absent,) = results.left_out
  assert absent['form'] == 'purejaxrl'
  pairs = harness.rows(rl.SUBJECT, sizes, results)['pairs']
  assert [row.case.removeprefix('PPO, ') for row in pairs] == [
    '2 agents on 1 devices against one agent',
    '2 agents on 4 devices against one agent',
    'products alone at full rate against one agent',
  ]


@pytest.mark.slow
def test_our_side_trains_alike_on_any_devices():
  found = []
  for devices in (1, 2):
    side = rl.ours(1, agents=2, devices=devices)
    assert side.units == 2 * 4 * 128
    _, (metrics, _) = side.bound()()
    assert metrics['policy_loss'].shape == (2, 1)
    found.append(metrics)
  for name, values in found[0].items():
    np.testing.assert_allclose(found[1][name], values, rtol=1e-3, atol=1e-6)


def test_the_bound_counts_the_products_of_a_step():
  """Acting, and four epochs of three times that, of two networks 4-64-64-k."""
  forward = 2 * sum(4 * 64 + 64 * 64 + 64 * k for k in (2, 1))
  learning = 4 * (3 * forward - 2 * 2 * 4 * 64)  # No gradient of observations.
  least = 2 * 2048**3 / rl.bound().units
  # Beside these: values of truncated and of last observations.
  assert forward + learning < least < 2.3 * forward + learning
