"""Runs studies: finished runs are kept, so that interrupted rows continue.

A finished run is a JSON file in `runs/papers`, named by the digest of its whole
configuration: function, settings, seed and position. Rows that need the same run
share it.
"""

import dataclasses
import datetime
import io
import itertools
import json
import os
import pathlib
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np

from papers import describing
from papers import study as study_lib
from runtime.devices import memory
from runtime.record import provenance
from runtime.sweeping import pool as pool_lib

__all__ = ['FOLDER', 'Options', 'run']

FOLDER = pathlib.Path('runs/papers')
# Calls of each worker, if there are so many runs: a process that does several
# reads and traces a program once.
_TURNS = 16
# Runs of a call: as many may be lost when it is stopped, or when one of them fails.
_MOST_RUNS = 8
Batch = dict[pathlib.Path, study_lib.Cell]  # Cells of one call, by their file.


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings of a call.

  Attributes:
    folder: of finished runs.
    workers: number of runs at a time, in processes of their own, each of which
      does up to eight neighbours if there are many; 1, without Ray: in this
      process, one after another.
    ray_address: HOST:PORT of a Ray cluster that does the runs, or 'local'; None:
      this machine does.
    fresh: also repeat finished runs.
    log: told of progress.
  """

  folder: pathlib.Path = FOLDER
  workers: int = 1
  ray_address: str | None = None
  fresh: bool = False
  log: Callable[[str], None] = print


def run(
  study: study_lib.Study, seeds: Sequence[int] | None, options: Options
) -> study_lib.Results:
  """Runs the missing cells of a study.

  Args:
    study: study to run.
    seeds: of the runs that are reported; None where nothing is random.
    options: options of the runs.

  Returns:
    All results.

  Raises:
    ValueError: if seeds do not fit the study, settings cannot be described, or
      this is no checkout, as runs name their commit.
  """
  if (seeds is None) != (study.seeds is None):
    raise ValueError(f'seeds do not fit: {seeds=}, the study has {study.seeds}')
  tried, spent = _try(study, options)
  settings = dict(study.arms)
  for arm, scores in tried.items():
    best = max(scores, key=scores.__getitem__)
    settings[arm] = study.trials.options(study.arms[arm])[best]
  cells = study.cells(settings, seeds)
  flat = [(key, cell) for key, found in cells.items() for cell in found]
  saved = _finish(study, [cell for _, cell in flat], options)
  records: dict[tuple[str, Any], list[study_lib.Record]] = {}
  for (key, _), one in zip(flat, saved, strict=True):
    records.setdefault(key, []).append(one['record'])
  newest_first = sorted(spent + saved, key=lambda one: -one['time'])
  commits = dict.fromkeys(one['commit'] for one in newest_first)
  newest = datetime.datetime.fromtimestamp(
    newest_first[0]['time'], datetime.UTC
  )
  return study_lib.Results(
    study=study,
    seeds=None if seeds is None else tuple(seeds),
    records=records,
    settings=settings | study.fixed,
    tried=tried,
    minutes=sum(one['minutes'] for one in newest_first),
    commits=tuple(commits)[::-1],
    date=newest.date().isoformat(),
  )


def _try(
  study: study_lib.Study, options: Options
) -> tuple[dict[str, dict[Any, float]], list[dict[str, Any]]]:
  """Mean scores of trials, by arm and value; and their runs."""
  trials = study.trials
  if trials is None or len(trials.values) < 2:
    return {}, []
  shortened = {
    f'{arm}, trial of {trials.field}={value}': trials.shorten(option)
    for arm, settings in study.arms.items()
    for value, option in trials.options(settings).items()
  }
  # Trials choose for one position, and fixed measurements have no part in them.
  alone = dataclasses.replace(study, fixed={})
  cells = alone.cells(shortened, trials.seeds).values()
  saved = _finish(study, [*itertools.chain(*cells)], options)
  scores = np.array([trials.score(one['record']) for one in saved])
  means = scores.reshape(len(study.arms), len(trials.values), -1).mean(-1)
  return {
    arm: dict(zip(trials.values, map(float, row), strict=True))
    for arm, row in zip(study.arms, means, strict=True)
  }, saved


def _configuration(cell: study_lib.Cell) -> dict[str, Any]:
  """All settings that determine the result of a run."""
  parts = {'run': cell.run, 'settings': cell.settings}
  parts |= {'seed': cell.seed, 'at': cell.at}
  return {k: describing.describe(v, k) for k, v in parts.items()}


def _finish(
  study: study_lib.Study, cells: Sequence[study_lib.Cell], options: Options
) -> list[dict[str, Any]]:
  """The saved result of each cell, after the missing ones have run."""
  configurations = [_configuration(cell) for cell in cells]
  paths = [
    options.folder / f'{describing.digest(c)}.json' for c in configurations
  ]
  known = dict(zip(paths, configurations, strict=True))
  missing = {
    path: cell
    for path, cell in zip(paths, cells, strict=True)
    if options.fresh or not path.exists()
  }
  batches = _batches(study, missing)
  commit = provenance.short_commit() if batches else ''
  start = time.monotonic()
  finished = _execute(study, batches, options)
  for number, (batch, records, seconds) in enumerate(finished, 1):
    for path, record in zip(batch, records, strict=True):
      saved = {'configuration': known[path], 'record': record, 'commit': commit}
      saved |= {'time': time.time(), 'minutes': seconds / 60 / len(batch)}
      _write(path, saved)
    each = (time.monotonic() - start) / number
    options.log(
      f'[{number}/{len(batches)}] '
      f'{_label(batch.values())}: {seconds:.1f} s, '
      f'about {each * (len(batches) - number) / 60:.1f} minutes left'
    )
  return [_read(path) for path in paths]


def _read(path: pathlib.Path) -> dict[str, Any]:
  """A finished run."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(
      f'{path} is damaged ({error}): remove it, and the run is repeated'
    ) from None


def _label(cells: Iterable[study_lib.Cell]) -> str:
  """The cells of one call, of which there may be dozens."""
  first, *others = (cell.label for cell in cells)
  return f'{first} to {others[-1]}' if others else first


def _batches(
  study: study_lib.Study, missing: Mapping[pathlib.Path, study_lib.Cell]
) -> list[Batch]:
  """Groups the missing runs into calls of the study's function."""
  groups: dict[str, Batch] = {}
  for path, cell in missing.items():
    key = path.name
    if study.together and cell.seed is not None:
      other = dataclasses.replace(cell, seed=None)
      key = describing.digest(_configuration(other))
    groups.setdefault(key, {})[path] = cell
  return list(groups.values())


def _execute(
  study: study_lib.Study, batches: Sequence[Batch], options: Options
) -> Iterator[tuple[Batch, list[study_lib.Record], float]]:
  """Calls the study's function; batches come as they finish."""
  if options.workers == 1 and options.ray_address is None:
    for batch in batches:
      yield batch, *_call(study.together, list(batch.values()))
    return
  with pool_lib.make(options.workers, ray_address=options.ray_address) as pool:
    size = min(max(len(batches) // (_TURNS * pool.workers), 1), _MOST_RUNS)
    turns = [batches[i : i + size] for i in range(0, len(batches), size)]
    calls = {
      number: (_call_sent, _sent(study.together, [[*b.values()] for b in turn]))
      for number, turn in enumerate(turns)
    }
    # A process that is killed, such as for memory, costs one more try.
    for number, found in pool_lib.results(pool, calls, retries=1):
      for batch, (records, seconds) in zip(turns[number], found, strict=True):
        yield batch, records, seconds


class _Pickler(cloudpickle.Pickler):
  """Sends what settings hold: closures, such as those of optax and Flax, too."""

  def reducer_override(self, obj: Any) -> Any:
    """Sends functions of JAX by name: pickle looks for them in a wrong module."""
    for module in (jnp, jax.nn):
      name = getattr(obj, '__name__', '')
      if callable(obj) and getattr(module, str(name), None) is obj:
        return getattr, (module, name)
    return super().reducer_override(obj)


def _sent(*values: Any) -> bytes:
  """Values as another process reads them."""
  file = io.BytesIO()
  _Pickler(file).dump(values)
  return file.getvalue()


def _call_sent(values: bytes) -> list[tuple[list[study_lib.Record], float]]:
  together, turn = pickle.loads(values)
  return [_call(together, cells) for cells in turn]


def _call(
  together: bool, cells: list[study_lib.Cell]
) -> tuple[list[study_lib.Record], float]:
  """Records of cells that differ in their seeds, and seconds."""
  first, start = cells[0], time.monotonic()
  options = {} if first.at is None else {'at': first.at}
  if together and first.seed is not None:
    options['seeds'] = tuple(cell.seed for cell in cells)
  elif first.seed is not None:
    options['seed'] = first.seed
  try:
    found = first.run(first.settings, **options)
  except Exception as error:
    error.add_note(f'in the run {_label(cells)}')
    raise
  records = list(found) if 'seeds' in options else [found]
  memory.forget_programs()
  return records, time.monotonic() - start


def _write(path: pathlib.Path, saved: Mapping[str, Any]) -> None:
  """Writes a file as a whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix(f'.{os.getpid()}.tmp')
  temporary.write_text(json.dumps(saved, default=_listed), encoding='utf-8')
  temporary.replace(path)


def _listed(value: Any) -> Any:
  """Arrays and their scalars as lists and numbers."""
  if hasattr(value, 'tolist'):
    return value.tolist()
  raise TypeError(f'a record holds numbers and lists, got {type(value)}')
