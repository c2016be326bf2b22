"""Writes metrics to `metrics.jsonl`, TensorBoard and the terminal."""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import TextIO

import jax
from absl import logging
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

__all__ = ['MetricWriter', 'Progress', 'format_duration', 'read_metrics']

METRICS_FILE = 'metrics.jsonl'


class MetricWriter:
  """Writes rows of scalars; on process 0 only.

  A row is one line of JSON, `{"step": 100, "train/loss": 2.9, ...}`. A scalar
  that is not finite is written as null. TensorBoard gets the same rows: its
  files are written anew when a run continues, as they cannot be cut.
  """

  def __init__(self, workdir: str | os.PathLike, *, step: int, offset: int):
    """Opens the files of a run that continues after `step`.

    Args:
      workdir: folder of the run.
      step: the last step whose rows stay; later ones are dropped.
      offset: length in bytes that `metrics.jsonl` had at that step.

    Raises:
      ValueError: naming a line that is not a row.
    """
    self._file = self._events = None
    if jax.process_index() != 0:
      return
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / METRICS_FILE
    kept = _whole_rows(path.read_bytes()[:offset] if path.exists() else b'')
    if len(kept) < offset:
      logging.warning(
        '%s is shorter than it was at step %d: rows were lost', path, step
      )
    rows = _parsed(kept, path)
    self._file = open(path, 'ab')  # noqa: SIM115
    self._file.truncate(len(kept))
    for old in folder.glob('events.out.tfevents.*'):
      old.unlink()
    # Not a SummaryWriter: rows would wait in its queue when the process dies.
    self._events = EventsWriter(str(folder / 'events'))
    for row in rows:
      self._add_events(row)
    self._events.flush()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Appends one row; a process that is killed then loses none."""
    if self._file is None:
      return
    row = {'step': step}
    row |= {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps(row, allow_nan=False).encode() + b'\n')
    self._file.flush()
    self._add_events(row)
    self._events.flush()

  def _add_events(self, row: Mapping[str, float | None]) -> None:
    values = [
      summary_pb2.Summary.Value(
        tag=name, simple_value=math.nan if value is None else value
      )
      for name, value in row.items()
      if name != 'step'
    ]
    self._events.write_event(
      event_pb2.Event(
        step=row['step'],
        wall_time=row.get('time/unix_s', 0.0),
        summary=summary_pb2.Summary(value=values),
      )
    )

  def offset(self) -> int:
    """Length of `metrics.jsonl` in bytes, with all rows safely on disk."""
    if self._file is None:
      return 0
    os.fsync(self._file.fileno())
    return self._file.tell()

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._file is not None:
      self._file.close()
      self._events.close()


def _whole_rows(text: bytes) -> bytes:
  """Content up to the last complete row; a kill may cut a row in two."""
  return text[: text.rfind(b'\n') + 1]


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, float]]:
  """Reads the rows of `metrics.jsonl`.

  A last row that was cut off is left out, with a warning.

  Raises:
    ValueError: naming the line that is not a row.
  """
  path = pathlib.Path(workdir) / METRICS_FILE
  text = path.read_bytes()
  whole = _whole_rows(text)
  if whole != text:
    logging.warning('%s ends in the middle of a row; it is dropped', path)
  return _parsed(whole, path)


def _parsed(whole: bytes, path: pathlib.Path) -> list[dict[str, float]]:
  """The rows of a text; ValueError names a line that is none."""
  rows = []
  for number, line in enumerate(whole.splitlines(), 1):
    try:
      rows.append(json.loads(line))
    except ValueError as error:
      raise ValueError(f'{path}:{number}: not a row of JSON: {error}') from None
  return rows


def format_duration(seconds: float) -> str:
  """Seconds as `42s`, `3m05s` or `2h07m`."""
  whole = round(seconds)
  if whole < 60:
    return f'{whole}s'
  if whole < 3600:
    return f'{whole // 60}m{whole % 60:02d}s'
  return f'{whole // 3600}h{whole % 3600 // 60:02d}m'


class Progress:
  """One line on the terminal: step, rate, time left and the main metrics.

  On a terminal the line is rewritten in place; in a log file a new line is
  printed at most every `log_seconds`.
  """

  def __init__(self, total_steps: int, stream: TextIO | None = None):
    self._total = total_steps
    self._stream = sys.stderr if stream is None else stream
    self._live = self._stream.isatty()
    self._last = -math.inf
    self._width = 0
    self.log_seconds = 5.0

  def show(
    self, step: int, step_s: float | None, values: Mapping[str, float]
  ) -> None:
    """Shows the state after `step` steps.

    Args:
      step: finished steps.
      step_s: seconds per step; None: not known yet, as before the second one.
      values: the main metrics.
    """
    now = time.monotonic()
    due = self._live or now - self._last >= self.log_seconds
    if jax.process_index() != 0 or not (due or step == self._total):
      return
    self._last = now
    parts = [f'step {step}/{self._total}']
    if step_s:
      left = format_duration((self._total - step) * step_s)
      parts += [f'{1 / step_s:.3g} steps/s', f'{left} left']
    parts += [f'{name} {value:.4g}' for name, value in values.items()]
    self._print('  '.join(parts), end='\r' if self._live else '\n')

  def note(self, text: str) -> None:
    """Prints a message on a line of its own."""
    if jax.process_index() == 0:
      self._print(text, end='\n')

  def close(self) -> None:
    """Leaves the live line standing."""
    if self._live and self._width and jax.process_index() == 0:
      print(file=self._stream, flush=True)
    self._width = 0

  def _print(self, text: str, end: str) -> None:
    # Blanks cover the rest of a longer live line.
    padded = text.ljust(self._width) if self._live else text
    self._width = len(text) if end == '\r' else 0
    print(padded, end=end, file=self._stream, flush=True)
