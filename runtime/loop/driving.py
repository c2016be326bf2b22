"""The training loop in memory: no files, no signals, no intervals to configure.

Studies, tests and notebooks use it. Every step gives the same numbers as `run`
gives in a workdir.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar

import numpy as np

from runtime.loop.experiment import Experiment
from runtime.loop.program import Program
from runtime.record import metrics as metrics_lib

__all__ = ['Driven', 'drive']

State = TypeVar('State')
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Driven(Generic[State]):
  """The result of a run in memory.

  Attributes:
    state: the last one.
    step: number of finished steps.
    rows: one per record, as in `metrics.jsonl`: 'step', 'train/<metric>' over
      the steps since the record before, 'eval/<set>/<metric>'.
  """

  state: State
  step: int
  rows: list[Row]

  def column(self, name: str) -> np.ndarray:
    """One scalar of all rows, float64; NaN where a row lacks it."""
    return np.array([row.get(name, np.nan) for row in self.rows], np.float64)

  def last(self, name: str) -> float:
    """One scalar of the last row."""
    return self.rows[-1][name]


def drive(
  experiment: Experiment[State],
  steps: int,
  records: int | Collection[int] = 1,
  *,
  until: Callable[[Row], bool] | None = None,
  state: State | None = None,
) -> Driven[State]:
  """Trains in memory, as `run` does in a workdir.

  Args:
    experiment: experiment to train; `refresh`, `observe` and the evaluators are
      called as in `run`.
    steps: number of steps.
    records: how many rows at equal distances, the last one at the end; or the
      steps after which there is a row, 0 for the state before the first.
    until: function of each row; if it returns True, the run ends there.
    state: state to continue from, as step 0; its buffers are taken over.
      None: a new state.

  Returns:
    The last state and the rows.

  Raises:
    ValueError: if `steps` is negative, or a record lies outside the run.
    NonFiniteError: if a step gave a metric that is not finite.
  """
  due = _due(steps, records)
  program = Program(experiment)
  metrics = metrics_lib.StepMetrics(program.packing)
  state = program.init() if state is None else state
  rows = []
  for step in range(steps + 1):
    if step:
      state, batch = program.prepare(state, step - 1)
      state, vector = program.step(state, batch)
      metrics.add(step, vector)
    if step in due:
      trained = {f'train/{k}': v for k, v in metrics.pop().items()}
      rows.append({'step': step} | trained | experiment.evaluate(state))
      if until is not None and until(rows[-1]):
        break
  metrics.drain()
  return Driven(state, step, rows)


def _due(steps: int, records: int | Collection[int]) -> frozenset[int]:
  """The steps after which there is a row."""
  if steps < 0:
    raise ValueError(f'steps must not be negative, got {steps=}')
  if not isinstance(records, int):
    due = frozenset(records)
  elif 1 <= records <= max(steps, 1):
    ends = np.linspace(0, steps, records + 1).round().astype(int)
    due = frozenset(ends[1:].tolist())
  else:
    raise ValueError(
      f'there must be 1 to {steps=} equally spaced records, got {records}'
    )
  outside = sorted(step for step in due if not 0 <= step <= steps)
  if outside:
    raise ValueError(f'records lie outside the {steps} steps: {outside}')
  return due
