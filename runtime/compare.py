"""Compares runs: their configurations, curves and last scores.

python -m runtime.compare runs/a runs/a-seed1 runs/b runs/b-seed1

Runs that differ only in their seed are one group: a curve is the median of a
group with a band from its least to its greatest value, a score is its mean with
a 95 % interval. Written to `--out`: `curves.png`, `scores.csv` and `scores.md`.
"""

import argparse
import difflib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtime import commands, paths, restored
from runtime.record import pictures as pictures_lib
from runtime.record import series as series_lib
from runtime.record import tables, writers

__all__ = ['differences', 'groups', 'main', 'score_rows', 'write']

Groups = Mapping[str, Sequence[pathlib.Path]]


def groups(workdirs: Sequence[str]) -> dict[str, list[pathlib.Path]]:
  """Groups the runs that differ only in their seed.

  Args:
    workdirs: folders of runs.

  Returns:
    The folders of each group, by the name of its first folder.

  Raises:
    ValueError: if a folder holds no run, or two hold the same one.
  """
  found: dict[str, list[pathlib.Path]] = {}
  seen: dict[restored.Configuration, pathlib.Path] = {}
  for folder in map(paths.local, workdirs):
    config = restored.configuration(folder)
    if config in seen:
      raise ValueError(
        f'{seen[config]} and {folder} have the same configuration and seed '
        f'{config.seed}, which count once: leave one out'
      )
    seen[config] = folder
    found.setdefault(config.text, []).append(folder)
  return {str(members[0]): members for members in found.values()}


def differences(found: Groups) -> str:
  """Lines of each configuration that differ from the first group's."""
  first, *others = found
  text = {name: restored.configuration(found[name][0]).text for name in found}
  parts = []
  for other in others:
    lines = difflib.unified_diff(
      text[first].splitlines(), text[other].splitlines(),
      first, other, lineterm='', n=0,
    )  # fmt: skip
    parts += [line for line in lines if not line.startswith('@@')]
  return '\n'.join(parts)


def score_rows(found: Groups) -> list[dict[str, Any]]:
  """The last value of every evaluated metric: mean and interval of a group.

  Intervals are Student's, with 95 % confidence; one run has none. A run that ends
  in NaN makes the mean of its group NaN.
  """
  runs = {n: [writers.read_metrics(f) for f in m] for n, m in found.items()}
  names = dict.fromkeys(
    name
    for members in runs.values()
    for rows in members
    for row in rows
    for name in row
    if name.startswith('eval/')
  )
  return [
    {'metric': name.removeprefix('eval/'), 'runs': group} | _interval(last)
    for name in names
    for group, members in runs.items()
    if (last := _last(members, name))
  ]


def _last(
  members: Sequence[Sequence[series_lib.Row]], name: str
) -> list[float]:
  """The last value of each run that has the metric."""
  values = [series_lib.series(rows, name)[1] for rows in members]
  return [float(of_run[-1]) for of_run in values if of_run.size]


def _interval(values: Sequence[float]) -> dict[str, Any]:
  count, mean = len(values), float(np.mean(values))
  if count == 1:
    return {'seeds': 1, 'mean': mean, 'low': None, 'high': None}
  from scipy import stats

  error = np.std(values, ddof=1) / np.sqrt(count)
  half = float(stats.t.ppf(0.975, count - 1) * error)
  return {
    'seeds': count,
    'mean': mean,
    'low': mean - half,
    'high': mean + half,
  }


def _draw(found: Groups, axis: str, path: pathlib.Path) -> None:
  runs = {n: [writers.read_metrics(f) for f in m] for n, m in found.items()}
  everything = [row for m in runs.values() for rows in m for row in rows]
  metrics = [n for n in series_lib.metric_names(everything) if '/' not in n]
  pictures_lib.curves(runs, metrics, path, axis=axis)


def write(found: Groups, out: pathlib.Path, *, axis: str = 'step') -> None:
  """Prints how groups differ and score, and writes tables and curves.

  Args:
    found: folders of each group, by its name.
    out: folder to write.
    axis: of the curves; one of `series.AXES`.
  """
  rows = score_rows(found)
  tables.write_table(rows, out / 'scores')
  print(f'{differences(found)}\n\n{tables.table(rows)}')
  if pictures_lib.can_draw():
    _draw(found, axis, out / 'curves.png')
  print(f'Curves and tables: {out}')


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = commands.parser(__doc__)
  parser.add_argument('workdirs', nargs='+', help='folders of runs')
  parser.add_argument('--out', default='runs/compare', help='folder to write')
  parser.add_argument(
    '--axis', default='step', choices=series_lib.AXES, help='of the curves'
  )
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command.

  Args:
    argv: arguments of the command; None: those of the process.
  """
  options = _arguments(argv)
  write(groups(options.workdirs), paths.local(options.out), axis=options.axis)


if __name__ == '__main__':
  commands.run(main)
