"""Experiments of trainers, as studies run them."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

from runtime import loop
from runtime import trainer as trainer_lib
from runtime.devices import mesh as mesh_lib

__all__ = ['driven', 'opened']


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
