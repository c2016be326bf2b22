"""Scalars of runs over time, from the rows of `metrics.jsonl`.

A row is `{'step': 100, 'train/loss': 2.9, 'eval/valid/accuracy': 0.11}`. Names
of scalars end with the metric. The part before it is the series: `train`, or the
set of an evaluation, such as `valid`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = [
  'AXES',
  'Row',
  'combine',
  'metric_names',
  'names_of',
  'series',
  'split',
  'summary_rows',
]

Row = Mapping[str, Any]

# Columns of a row that say when it was written, and their texts.
AXES = {
  'step': 'step',
  'time/examples': 'examples',
  'time/train_s': 'seconds of training',
  'time/unix_s': 'seconds since 1970',
}


def metric_names(rows: Sequence[Row]) -> list[str]:
  """Lists the metrics of a run in the order of their first appearance.

  Axes of curves, such as `time/examples`, do not count as metrics.

  Args:
    rows: rows of `metrics.jsonl`.

  Returns:
    Names without their series, `loss` for `train/loss` and `eval/valid/loss`;
    a name outside `train/` and `eval/` stays whole, such as `time/step_s`.
  """
  names: dict[str, None] = {}
  for row in rows:
    for name in row:
      if name not in AXES:
        inside = name.startswith(('train/', 'eval/'))
        names[split(name)[1] if inside else name] = None
  return list(names)


def names_of(rows: Sequence[Row], metric: str) -> list[str]:
  """Lists the scalars of a metric, training first."""
  names = dict.fromkeys(name for row in rows for name in row)
  if metric in names:
    return [metric]
  groups = ('train/', 'eval/')
  found = [
    name
    for name in names
    if name.startswith(groups) and split(name)[1] == metric
  ]
  return sorted(found, key=lambda name: name.startswith('eval/'))


def series(
  rows: Sequence[Row], name: str, axis: str = 'step'
) -> tuple[Float[np.ndarray, ' n'], Float[np.ndarray, ' n']]:
  """Returns one scalar over time.

  Args:
    rows: rows of `metrics.jsonl`; those without the scalar are left out, and of
      two at one position the later counts.
    name: full name of the scalar, such as `eval/valid/loss`.
    axis: the unit of time; one of `AXES`.

  Returns:
    Positions, rising, and values, float64; a null in the file is NaN.
  """
  points = {row[axis]: row[name] for row in rows if name in row and axis in row}
  steps = sorted(points)
  values = [np.nan if points[s] is None else points[s] for s in steps]
  return np.array(steps, np.float64), np.array(values, np.float64)


def combine(
  runs: Sequence[Sequence[Row]], name: str, axis: str
) -> tuple[Float[np.ndarray, ' n'], Float[np.ndarray, 'runs n']]:
  """Stacks a scalar of several runs at the steps that all of them have.

  Wall times differ between runs: they are averaged.
  """
  points = [series(rows, name) for rows in runs]
  common = points[0][0]
  for steps, _ in points[1:]:
    common = np.intersect1d(common, steps)
  if not common.size:
    raise ValueError(f'the runs share no step that has {name!r}')
  values = [v[np.isin(steps, common)] for steps, v in points]
  if axis == 'step':
    return common, np.stack(values)
  places = [
    [dict(zip(*series(rows, axis), strict=True)).get(s, np.nan) for s in common]
    for rows in runs
  ]
  return np.mean(places, axis=0), np.stack(values)


def split(name: str) -> tuple[str, str]:
  """Splits `eval/valid/loss` into the series `valid` and the metric `loss`."""
  *before, metric = name.split('/')
  return (before[-1] if before else ''), metric


def summary_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Summarises a run: last, least and greatest value of every scalar.

  Args:
    rows: rows of `metrics.jsonl`.

  Returns:
    One row for each scalar; values that are not finite count for `last` only.
  """
  names = dict.fromkeys(n for row in rows for n in row if n not in AXES)
  lines = []
  for name in names:
    steps, values = series(rows, name)
    finite = values[np.isfinite(values)]
    lines.append(
      {
        'metric': name,
        'step': int(steps[-1]),
        'last': float(values[-1]),
        'least': float(finite.min()) if finite.size else None,
        'greatest': float(finite.max()) if finite.size else None,
      }
    )
  return lines
