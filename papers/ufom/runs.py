"""Runs of the trainer of UFOM on a cost axis."""

import math
from typing import Any

import numpy as np

from hpo.ufom import training as ufom_training
from papers import claims, training
from runtime import loop


def cheapest(costs: claims.Table, but: str) -> str:
  """The arm with the least mean cost, `but` one."""
  return min(
    (arm for arm in costs if arm != but), key=lambda arm: np.mean(costs[arm])
  )


def learn(
  trainer: ufom_training.Trainer,
  *,
  seed: int,
  steps: int,
  records: int,
  judge: str = 'test',
  until: float = math.inf,
) -> tuple[dict[str, Any], Any]:
  """Trains for a number of outer steps.

  Args:
    trainer: trainer to run.
    seed: of the start, tasks and xi.
    steps: outer steps.
    records: number of evaluations of theta, at equal distances; the last at the
      end.
    judge: name of the evaluator.
    until: gradients after which the next record is the last.

  Returns:
    By name, the gradient evaluations spent and the scores at every record, the
    mean q of the run, and D / V at the end for adaptive q; and the last state.
  """
  with training.opened(trainer, seed=seed, judges=[judge]) as experiment:
    driven = loop.drive(
      experiment,
      steps,
      records,
      until=lambda row: row['train/gradients'] >= until,
    )
  last = driven.rows[-1]
  record = {
    name.split('/')[-1]: driven.column(name)
    for name in last
    if name == 'train/gradients' or name.startswith('eval/')
  }
  since = np.diff(driven.column('step'), prepend=0)
  record['q'] = np.average(driven.column('train/q'), weights=since)
  if 'train/D_hat' in last:
    record['ratio'] = last['train/D_hat'] / last['train/V_hat']
  return record, driven.state
