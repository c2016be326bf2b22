"""Rows of tuners within a run: what planted numbers must be judged."""

import dataclasses

import numpy as np
import pytest

from hpo.autorl import drift_mdp
from papers import rows
from papers.autorl import drifting, learned, online
from tests.papers import planted

SYSTEM = rows.find()['autorl']
STEPS = 'environment_steps'


def judged(name, record):
  """The verdict of a row whose arms have records by seed."""
  row = SYSTEM.rows[name]
  study = row.at_scale('tiny')
  records = {
    arm: [record(arm, seed) for seed in range(5)] for arm in study.arms
  }
  return planted.verdict(row, planted.results(study, records, seeds=5))


def near(value, arm, seed, spread=0.02):
  draw = np.random.default_rng((seed, len(arm)))
  return value + spread * draw.standard_normal()


@pytest.mark.parametrize(
  ('tuners', 'restarts', 'verdict'),
  [(3.5, 2.0, 'holds'), (2.5, 2.0, 'fails'), (3.5, 3.4, 'fails')],
)
def test_drifting_settings(tuners, restarts, verdict):
  grid = np.linspace(1, 3, 20)

  def record(arm, seed):
    if arm == drifting.CONSTANT:
      mean = grid + near(0, arm, seed)
      return {'mean': mean, 'curve': np.repeat(mean[:, None], 40, 1)}
    mean = near(restarts if arm == drifting.RANDOM else tuners, arm, seed)
    return {'mean': mean, 'curve': np.full(40, mean)}

  assert judged('drift', record) == verdict


@pytest.mark.parametrize(
  ('up', 'back', 'verdict'), [(0.99, 0.7, 'holds'), (0.9, 0.7, 'fails')]
)
def test_the_chain(up, back, verdict):
  def record(arm, seed):
    last = {online.UP: up, online.DOWN: back, online.FIXED: 0.8}[arm]
    pays = 2.0 if last > 0.93 else 1.0
    noise = near(0, arm, seed, 1e-3)
    curve = np.linspace(0.8, last, 20) + noise
    return {'discount': curve, 'test': np.full(20, pays + noise)}

  assert judged('chain', record) == verdict


@pytest.mark.parametrize(
  ('levels', 'verdict'), [(0.7, 'holds'), (0.5, 'fails')]
)
def test_level_replay(levels, verdict):
  def record(arm, seed):
    solved = near(0.6 if arm == online.UNIFORM else levels, arm, seed)
    curve = np.linspace(0.1, solved, 10)
    curve[-3:] = solved
    steps = 1000 * np.arange(1, 11)
    return {'test': curve, 'seen': curve, 'episode_return': curve, STEPS: steps}

  assert judged('level-replay', record) == verdict


@pytest.mark.parametrize(('share', 'verdict'), [(0.8, 'holds'), (0.3, 'fails')])
def test_augmentations(share, verdict):
  def record(arm, seed):
    solved = near(0.7 if arm == online.UCB else 0.5, arm, seed)
    drawn = {
      f'pulled_{i}': np.full(
        10, near(share if i == 0 else (1 - share) / 3, arm, seed)
      )
      for i in range(4)
    }
    return {'test': np.full(10, solved)} | drawn

  assert judged('augmentations', record) == verdict


@pytest.mark.parametrize(
  ('evolved', 'verdict'), [(0.9, 'holds'), (0.5, 'fails')]
)
def test_the_update_rule(evolved, verdict):
  def record(arm, seed):
    score = 0.9 if arm == learned.META else evolved
    if arm.startswith('REINFORCE'):
      score = 0.7 if arm.endswith('30') else 0.3
    curve = np.full(10, near(score, arm, seed))
    return {'score': curve, STEPS: 1e5 * np.arange(1, 11)}

  assert judged('update-rule', record) == verdict


@pytest.mark.slow
@pytest.mark.parametrize('arm', drifting.TUNERS)
def test_tuners_give_an_exact_return_for_each_update(arm):
  task = drift_mdp.DriftMDP(length=80, horizon=2, episodes=4)
  one, two = drifting.run(
    drifting.Setting(drifting.TUNERS[arm], task), seeds=(0, 1)
  )
  assert one['curve'].shape == (40,)
  np.testing.assert_allclose(one['curve'].mean(), one['mean'], rtol=1e-5)
  assert one['mean'] != two['mean']


@pytest.mark.slow
def test_runs_have_what_rows_read():
  study = SYSTEM.rows['update-rule'].at_scale('tiny')
  for arm, setting in study.arms.items():
    if isinstance(setting, online.Setting):
      short = dataclasses.replace(setting, iterations=2, records=2)
    else:
      short = dataclasses.replace(setting, tasks=4)
    [record] = learned.run(short, seeds=(0,))
    assert np.isfinite(record['score']).all(), arm
