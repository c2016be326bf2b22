"""Trainers, and the root of every configuration.

A trainer is a set of settings. Its one method opens an experiment: it builds
states, steps and evaluators, starts simulators and workers, and closes them
when the `with` block ends:

```python
with trainer.experiment(seed=0, mesh=mesh.MeshConfig().make()) as experiment:
  driven = loop.drive(experiment, steps=1000, records=10)
```

`train` does the same in a workdir, and ends with a report.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Protocol, TypeVar

import jax
from absl import logging

from runtime import context as context_lib
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib
from runtime.record import pictures as pictures_lib
from runtime.record import report as report_lib
from runtime.record import tables, writers

__all__ = ['Trainer', 'train', 'write_report']

State = TypeVar('State')


class Trainer(Protocol[State]):
  """The settings of something that can be trained."""

  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> contextlib.AbstractContextManager[loop_lib.Experiment[State]]:
    """Opens the experiment; whatever it started is closed at the end.

    Args:
      seed: of all randomness.
      mesh: the devices.

    Raises:
      ValueError: if parts do not fit each other; names the values and the rule.
    """
    ...


def train(
  *,
  workdir: str,
  trainer: Trainer[State],
  loop: loop_lib.LoopConfig,
  seed: int = 0,
  mesh: mesh_lib.MeshConfig = mesh_lib.MeshConfig(),
  context: context_lib.RunContext = context_lib.RunContext(),
) -> loop_lib.Result[State]:
  """Trains in a workdir, or continues there, and writes a report.

  Args:
    workdir: folder of the run.
    trainer: settings of the model and its training.
    loop: duration and intervals.
    seed: of all randomness.
    mesh: how devices share the work.
    context: results of the command line.

  Returns:
    The last state and how the run ended.

  Raises:
    ValueError: if parts do not fit each other; names the values and the rule.
  """
  with trainer.experiment(seed=seed, mesh=mesh.make()) as experiment:
    if context.init_from and not experiment.inheritable:
      raise ValueError(
        f'{type(trainer).__name__} cannot start from the parameters of another '
        f'run: leave out --init_from={context.init_from}'
      )
    result = loop_lib.run(
      experiment, loop, workdir=workdir, seed=seed, context=context
    )
    if result.finished:
      write_report(experiment, result, workdir)
      if context.argv and jax.process_index() == 0:
        print(
          report_lib.how_to_continue(
            context.program, context.argv, inheritable=experiment.inheritable
          )
        )
    return result


def write_report(
  experiment: loop_lib.Experiment[State],
  result: loop_lib.Result[State],
  workdir: str | os.PathLike[str],
  *,
  folder: str | os.PathLike[str] | None = None,
) -> None:
  """Prints the final tables and writes `workdir/report/`.

  All processes must call it; process 0 prints and writes. A part that fails is
  named in a warning, and the others are still written: a report never costs
  the result of a run.

  Args:
    experiment: still open.
    result: of its run.
    workdir: folder of the run, with `metrics.jsonl`.
    folder: where to write; None: `workdir/report`.
  """
  rows = []
  if jax.process_index() == 0:
    rows = [
      row for row in writers.read_metrics(workdir) if row['step'] <= result.step
    ]
  run = loop_lib.Finished(result.state, rows, result.seconds)
  files, pictures = {}, {}
  with _told('the tables'):
    run = dataclasses.replace(run, tables=experiment.tables(run))
  with _told('the files'):
    files = experiment.files(run)
  with _told('the pictures'):
    pictures = experiment.pictures(run)
  if jax.process_index() != 0:
    return
  if not rows:
    logging.warning('no report: there are no steps in %s', workdir)
    return
  folder = pathlib.Path(workdir, 'report') if folder is None else folder
  folder = pathlib.Path(folder)
  for name, table in run.tables.items():
    with _told(f'the table {name}'):
      tables.write_table(table, folder / name)
      print(f'\n{tables.table(table)}', end='')
  can_draw = pictures_lib.can_draw()
  if not can_draw:
    logging.warning('install the extra `report` (matplotlib) to get pictures')
  with _told('the curves'):
    report_lib.run_report(
      rows, folder, name=pathlib.Path(workdir).name, pictures=can_draw
    )
  for name, write in (files | (pictures if can_draw else {})).items():
    with _told(f'the file {name}'):
      write(folder / name)
  print(f'\nCurves and tables: {folder}')


@contextlib.contextmanager
def _told(part: str) -> Iterator[None]:
  """Turns the failure of one part of a report into a warning."""
  try:
    yield
  # Any error: the run is over and safe, and its report is a convenience.
  except Exception as error:
    logging.warning(
      'the report lacks %s: %s: %s', part, type(error).__name__, error
    )
