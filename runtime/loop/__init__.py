"""The training loop: an experiment, how long, and how to run it.

`run` trains in a workdir: checkpoints, metrics, signals, resumption. `drive`
is the same loop in memory, for studies, tests and notebooks.
"""

from runtime.loop.driving import Driven, drive
from runtime.loop.experiment import (
  BatchIterator,
  Draw,
  Evaluator,
  Experiment,
  Finished,
)
from runtime.loop.running import LoopConfig, Result, run

__all__ = [
  'BatchIterator',
  'Draw',
  'Driven',
  'Evaluator',
  'Experiment',
  'Finished',
  'LoopConfig',
  'Result',
  'drive',
  'run',
]
