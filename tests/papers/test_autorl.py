"""AutoRL's rows: what is compared, and what planted numbers must be judged."""

import dataclasses

import numpy as np
import pytest

from hpo.autorl.population import pbt
from hpo.autorl.search import simple
from papers import rows
from papers.autorl import populations, searches
from tests.papers import planted

SYSTEM = rows.find()['autorl']


def test_arms_of_a_row_spend_as_many_steps():
  for name in ('pbt', 'tuning-ppo'):
    arms = SYSTEM.rows[name].at_scale('tiny').arms
    assert len({setting.steps for setting in arms.values()}) == 1
  steps = populations.Setting(pbt.PBT, 8).steps
  assert steps == 8 * 30 * 4096


def _found(study, means):
  """Sixteen records of each arm, around its mean."""
  curve = np.linspace(0.1, 1.0, 3)
  rest = {'best': curve, 'copies': 0.2, 'learning_rate': curve}
  rest['entropy_cost'] = curve
  records = {
    arm: [
      {'test': test} | rest
      for test in planted.noisy(mean, spread=20.0, seed=j, seeds=16)
    ]
    for j, (arm, mean) in enumerate(means.items())
  }
  return planted.results(study, records, seeds=16)


@pytest.mark.parametrize(
  ('means', 'verdict'),
  [
    ({'random, 8': 390.0, 'PBT, 8': 450.0}, 'holds'),
    ({'random, 8': 450.0, 'PBT, 8': 390.0}, 'fails'),
    ({'random, 8': 450.0, 'PBT, 8': 450.1}, 'inconclusive'),
  ],
)
def test_the_row_of_pbt(means, verdict):
  row = SYSTEM.rows['pbt']
  found = _found(row.at_scale('tiny'), means)
  assert planted.verdict(row, found) == verdict


@pytest.mark.slow
def test_runs_have_what_rows_read():
  setting = populations.Setting(pbt.PBT, 2, rounds=2)
  one, two = populations.run(setting, seeds=(0, 1))
  assert set(one) >= {'test', 'best', 'copies', 'learning_rate', 'entropy_cost'}
  assert len(one['best']) == len(one['learning_rate']) == 2
  assert one['test'] != two['test']
  search = dataclasses.replace(searches.Setting(simple.Random()), trials=2)
  record = searches.run(search, seed=0)
  assert len(record['best']) == len(record['seconds']) == 2
