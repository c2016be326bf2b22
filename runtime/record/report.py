"""The report of a run: its rows as tables and curves."""

import os
import pathlib
import shlex
from collections.abc import Sequence

from runtime.record import pictures as pictures_lib
from runtime.record import series as series_lib
from runtime.record import tables

__all__ = ['how_to_continue', 'run_report']


def how_to_continue(
  program: str, argv: Sequence[str], *, inheritable: bool = True
) -> str:
  """Tells how to train a finished run for longer.

  Args:
    program: command that starts the binary, such as 'python -m
      performer.train'.
    argv: its command line, program first.
    inheritable: whether another run may start from the parameters.

  Returns:
    Lines for the terminal.
  """
  again = ' '.join([program, shlex.join(argv[1:])])
  schedule = (
    '. A learning rate whose schedule has its own length stays where it ended; '
    '--init_from starts a new schedule'
  )
  return (
    f'To train longer, give it more STEPS{schedule if inheritable else ""}:\n'
    f"  {again} --gin_param='STEPS = ...' --allow_config_change"
  )


def run_report(
  rows: Sequence[series_lib.Row],
  folder: str | os.PathLike[str],
  *,
  name: str,
  pictures: bool = True,
) -> list[pathlib.Path]:
  """Writes the common part of reports: all rows, a summary and curves.

  Args:
    rows: of `metrics.jsonl`.
    folder: where to write; made if missing.
    name: of the run.
    pictures: whether to draw too; `can_draw()` draws only if that is possible.

  Returns:
    The files that were written.

  Raises:
    ValueError: if there are no rows.
    ImportError: if pictures are asked for without matplotlib.
  """
  if not rows:
    raise ValueError(f'a report needs rows, got none of {name}')
  folder = pathlib.Path(folder)
  written = [tables.write_csv(rows, folder / 'metrics.csv')]
  written += tables.write_table(
    series_lib.summary_rows(rows), folder / 'summary'
  )
  if not pictures:
    return written
  runs = {name: [rows]}
  names = series_lib.metric_names(rows)
  learning = [name for name in names if '/' not in name]
  for kind, chosen, axis in (
    ('curves', learning, 'step'),
    ('curves_by_examples', learning, 'time/examples'),
    ('curves_by_seconds', learning, 'time/train_s'),
    ('time', [name for name in names if name not in learning], 'step'),
  ):
    if chosen and any(axis in row for row in rows):
      path = folder / f'{kind}.png'
      written.append(pictures_lib.curves(runs, chosen, path, axis=axis))
  return written
