"""The report of a search: jobs, and the best score over environment steps."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpo.autorl import asking
from runtime.record import pictures as pictures_lib

__all__ = ['draw_incumbent', 'incumbents', 'job_rows']

_SHOWN = 10


def job_rows(tuner: asking.Tuner) -> list[dict[str, Any]]:
  """The best jobs, by score."""
  rank = lambda r: np.inf if r.score is None else -r.score
  return [
    {
      'job': record.job.id,
      'score': record.score,
      'steps': record.step,
      'continues': record.job.parent,
      **record.job.params,
    }
    for record in sorted(tuner.records, key=rank)[:_SHOWN]
  ]


def incumbents(
  records: Sequence[asking.Record], seeds: int
) -> tuple[np.ndarray, np.ndarray]:
  """The best score so far over the environment steps of all jobs.

  Args:
    records: of jobs, with their steps.
    seeds: with which each job ran.

  Returns:
    Steps, and the largest score of the jobs up to them; NaN before the first.
  """
  before = [
    0 if r.job.parent is None else records[r.job.parent].step or 0
    for r in records
  ]
  own = [(r.step or 0) - b for r, b in zip(records, before, strict=True)]
  scores = [np.nan if r.score is None else r.score for r in records]
  return seeds * np.cumsum(own), np.fmax.accumulate(scores)


def draw_incumbent(
  records: Sequence[asking.Record],
  seeds: int,
  path: str | os.PathLike[str],
) -> None:
  """Draws `incumbents`."""
  steps, best = incumbents(records, seeds)
  pictures_lib.quartiles(
    {'best job so far': (steps, best[None])},
    path,
    axes_labels=('environment steps of all jobs', 'score'),
  )
