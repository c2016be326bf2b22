"""Experiments of trainers, as studies run them."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

from runtime import loop
from runtime import trainer as trainer_lib
from runtime.devices import mesh as mesh_lib

__all__ = ['driven', 'judged', 'opened']


@contextlib.contextmanager
def opened(
  trainer: trainer_lib.Trainer, *, seed: int, judges: Collection[str] = ()
) -> Iterator[loop.Experiment[Any]]:
  """Opens an experiment on all devices, with the evaluators that are named."""
  mesh = mesh_lib.MeshConfig().make()
  with trainer.experiment(seed=seed, mesh=mesh) as experiment:
    chosen = {name: experiment.evaluators[name] for name in judges}
    yield dataclasses.replace(experiment, evaluators=chosen)


def driven(
  trainer: trainer_lib.Trainer,
  *,
  seed: int,
  steps: int,
  records: int | Collection[int] = 1,
  judges: Collection[str] = (),
) -> loop.Driven[Any]:
  """Trains; arguments as those of `opened` and of `loop.drive`."""
  with opened(trainer, seed=seed, judges=judges) as experiment:
    return loop.drive(experiment, steps, records)


def judged(
  trainer: trainer_lib.Trainer,
  *,
  seed: int,
  steps: int,
  records: int | Collection[int] = 1,
  judges: Collection[str] = (),
  change: Callable[[Any], Any] | None = None,
) -> tuple[loop.Driven[Any], dict[str, float]]:
  """Trains, and judges the last state only.

  Args:
    trainer: trainer to run.
    seed: of the run.
    steps: as for `loop.drive`, like `records`.
    records: rows of the run.
    judges: names of evaluators.
    change: makes the first state of the usual one.

  Returns:
    The run, and the scores of its last state.
  """
  with opened(trainer, seed=seed, judges=judges) as experiment:
    silent = dataclasses.replace(experiment, evaluators={})
    if change is not None:
      init = lambda: change(experiment.init())
      silent = dataclasses.replace(silent, init=init)
    driven = loop.drive(silent, steps, records)
    return driven, experiment.evaluate(driven.state)
