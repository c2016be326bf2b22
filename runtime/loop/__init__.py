"""The training loop: an experiment, how long, and how to run it.

`run` trains in a workdir: checkpoints, metrics, signals, resumption. `drive`
is the same loop in memory, for studies, tests and notebooks.
"""

from runtime.loop.driving import Driven, drive
from runtime.loop.experiment import BatchIterator, Evaluator, Experiment
from runtime.loop.running import LoopConfig, Result, run

__all__ = [
  'BatchIterator',
  'Driven',
  'Evaluator',
  'Experiment',
  'LoopConfig',
  'Result',
  'drive',
  'run',
]
