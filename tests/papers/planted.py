"""Results that were not run, and small runs, for tests of what rows make of them."""

import dataclasses

import numpy as np

from papers import rows, running
from papers import study as study_lib


def results(study, records, seeds=4):
  """Records by arm (and fixed measurement): one, or one per seed."""
  found = {}
  for arm, record in records.items():
    keyed = arm if isinstance(arm, tuple) else (arm, None)
    found[keyed] = record if isinstance(record, list) else [record]
  return study_lib.Results(
    study=study,
    seeds=tuple(range(seeds)),
    records=found,
    settings=dict(study.arms) | dict(study.fixed),
    commits=('0' * 12,),
  )


def noisy(value, spread=0.3, seed=0, seeds=4):
  """A value for each seed around one."""
  return value + spread * np.random.default_rng(seed).standard_normal(seeds)


def verdict(row, found):
  """The verdict of a row about results; its texts and panels are made too."""
  ours, judged = rows.judge(row, found)
  assert not callable(row.explain) or row.explain(found)
  assert row.figure(found)
  assert row.headline in {'', *ours}
  verdicts = [part.verdict for part in judged]
  return rows.claims_lib.conjunction(verdicts)


def publish(system, row, study, folder, seeds=2):
  """Runs a row with another study."""
  return rows.publish(
    dataclasses.replace(row, study=study),
    'tiny',
    system=system,
    root=folder / 'results',
    seeds=seeds,
    options=running.Options(folder=folder / 'runs', log=lambda text: None),
  )
