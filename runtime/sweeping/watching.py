"""How a sweep does, for the terminal: a table that renews itself, or lines."""

import pathlib
import shutil
import sys
import time
from collections import Counter
from typing import Any, TextIO

from runtime.record import series, tables, workdirs, writers
from runtime.sweeping import driving

__all__ = ['Watch', 'rows']


def rows(sweep: driving.Sweep, folder: pathlib.Path) -> list[dict[str, Any]]:
  """The runs of a sweep as rows of a table, the running ones up to date.

  Args:
    sweep: to be shown.
    folder: of the sweep.
  """
  return [_row(run, sweep.plan.metric, folder) for run in sweep.runs]


def _row(run: driving.Run, metric: str, folder: pathlib.Path) -> dict[str, Any]:
  row = {'member': run.name, 'state': run.status, 'step': run.step}
  if metric:
    row[metric] = run.value
  if run.status == 'running':
    row |= _live(folder / driving.RUNS / run.name, metric)
  if run.message:
    row['note'] = run.message.splitlines()[0][:60]
  return row


def _live(workdir: pathlib.Path, metric: str) -> dict[str, Any]:
  """Step, metric and minutes left, from what the run has written so far."""
  status = workdirs.read_status(workdir)
  step, total = status.get('step'), status.get('total_steps')
  found: dict[str, Any] = {'step': step and f'{step}/{total}'}
  rate = status.get('steps_per_s')
  if rate:
    found['minutes left'] = (total - step) / rate / 60
  if metric and (workdir / writers.METRICS_FILE).exists():
    _, values = series.series(writers.read_metrics(workdir), metric)
    found[metric] = float(values[-1]) if values.size else None
  return found


class Watch:
  """Shows a sweep while it runs.

  A terminal has a table that renews itself; elsewhere a run that changes its
  state is a line.

  Args:
    sweep: to be shown.
    folder: of the sweep.
    stream: to write to; None: what is stdout now.
    every: seconds between two tables.
  """

  def __init__(
    self,
    sweep: driving.Sweep,
    folder: pathlib.Path,
    *,
    stream: TextIO | None = None,
    every: float = 1.0,
  ) -> None:
    self._sweep, self._folder = sweep, folder
    self._stream = stream or sys.stdout
    self._every, self._shown = every, -float('inf')
    self._height = 0
    self._states: dict[str, tuple[str, int]] = {}

  def show(self, *, last: bool = False) -> None:
    """Shows what is new.

    Args:
      last: whether the sweep has ended.
    """
    if not self._stream.isatty():
      self._lines()
    elif last or time.monotonic() - self._shown >= self._every:
      self._shown = time.monotonic()
      self._table()

  def _lines(self) -> None:
    for run in self._sweep.runs:
      state = (run.status, run.failures)
      if self._states.get(run.name, ('waiting', 0)) != state:
        value = '' if run.value is None else f'  {run.value:.6g}'
        note = f'  {run.message}' if run.message else ''
        print(
          f'{run.name}: {run.status}{value}{note}', file=self._stream,
          flush=True,
        )  # fmt: skip
      self._states[run.name] = state

  def _table(self) -> None:
    """Writes over the last table."""
    size = shutil.get_terminal_size()
    found = rows(self._sweep, self._folder)
    # What runs matters most, then what came last.
    space = max(1, size.lines - 6)
    order = sorted(
      range(len(found)), key=lambda i: (found[i]['state'] != 'running', -i)
    )
    text = tables.table([found[i] for i in sorted(order[:space])])
    lines = [self.summary(), *text.splitlines()]
    up = f'\x1b[{self._height}A' if self._height else ''
    body = '\n'.join(f'{line[: size.columns - 1]}\x1b[K' for line in lines)
    print(f'{up}{body}\x1b[J', file=self._stream, flush=True)
    self._height = len(lines)

  def summary(self) -> str:
    """One line: how many runs are in which state, and the best trial."""
    counts = Counter(run.status for run in self._sweep.runs)
    parts = [f'{count} {state}' for state, count in counts.items()]
    best = self._sweep.best
    if best is not None:
      parts.append(f'best {best.value:.6g} by {best.runs[0].name}')
    return ', '.join(parts)
