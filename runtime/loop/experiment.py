"""The interface of trainers and loop: state, step, data, evaluators."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import jax
import numpy as np
from clu import metrics as clu_metrics

from runtime.config import errors
from runtime.record.tables import Row

__all__ = ['BatchIterator', 'Draw', 'Evaluator', 'Experiment', 'Finished']

State = TypeVar('State')
Batch = Mapping[str, np.ndarray]
Evaluator = Callable[[Any], Mapping[str, float]]
Draw = Callable[[pathlib.Path], object]


class BatchIterator(Protocol):
  """An endless stream of batches whose position can be saved (grain's form)."""

  def __next__(self) -> Batch:
    """This process's share of the next global batch."""

  def get_state(self) -> dict[str, Any]:
    """The position, fit for JSON and the same on every process."""

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a saved position."""


@dataclasses.dataclass(frozen=True)
class Finished(Generic[State]):
  """A run at its end, as its report sees it.

  Attributes:
    state: the last state, or that of a restored checkpoint.
    rows: of `metrics.jsonl`, on process 0; empty on others.
    seconds: time in training; see `Result`.
    tables: the final ones, once they are known.
  """

  state: State
  rows: Sequence[Row]
  seconds: float
  tables: Mapping[str, Sequence[Row]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[State]):
  """Everything that a trainer gives to the loop.

  Attributes:
    init: makes the initial state; traced, so pure.
    step: (state, batch) -> (state, metrics of this batch); traced, so pure.
      Randomness comes from a key in the state, folded in with its step.
    shardings: tree of `NamedSharding` with the structure of the state.
    batches: the training data.
    evaluators: name -> function of the state; run at the evaluation interval.
    on_request: evaluators that run only when a user asks for them by name.
    scores: names of the metrics of each evaluator, as far as they are known
      before it has run. Only these metrics may rank checkpoints.
    mesh: the devices.
    batch_size: examples per step, over all devices.
    num_examples: size of the training set, if known.
    activation_bytes: estimate of what one step keeps for its backward pass,
      over all devices; None: not estimated.
    population_bytes: of the parameters of all members that one step evaluates,
      over all devices; 0: there is no population beside the state.
    params: picks the parameters out of a state, for the overview.
    inheritable: whether another run may start from the parameters; `--init_from`
      is refused elsewhere, as in tuners, whose trials have their own.
    refresh: (state) -> state, compiled apart and run before every
      `refresh_every`-th step but the first. It serves changes that are rare and
      would slow down the program of the step. Traced, so pure.
    refresh_every: interval of `refresh` in steps; None: never.
    on_metrics: told the training metrics of every row that is written.
    observe: told the state before each batch is drawn. It serves batches that
      depend on the state, such as the steps of an actor with these parameters.
      The step takes over the state's buffers: keep copies.
    tables: the final tables by file name, as rows of a table. All processes
      call it, so it may evaluate.
    files: by file name with its suffix, functions that write to a path, such as
      what was found, for programs. All processes call it, so it may gather
      arrays; process 0 writes.
    pictures: the same of pictures, which need matplotlib.
  """

  init: Callable[[], State]
  step: Callable[[State, Any], tuple[State, clu_metrics.Collection]]
  shardings: Any
  batches: BatchIterator
  mesh: jax.sharding.Mesh
  batch_size: int
  num_examples: int | None = None
  evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
  on_request: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
  scores: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  activation_bytes: Callable[[], int] | None = None
  population_bytes: int = 0
  params: Callable[[State], Any] = lambda state: state
  inheritable: bool = True
  refresh: Callable[[State], State] | None = None
  refresh_every: int | None = None
  on_metrics: Callable[[Mapping[str, float]], None] | None = None
  observe: Callable[[State], None] | None = None
  tables: Callable[[Finished[State]], Mapping[str, Sequence[Row]]] = (
    lambda run: {}
  )
  files: Callable[[Finished[State]], Mapping[str, Draw]] = lambda run: {}
  pictures: Callable[[Finished[State]], Mapping[str, Draw]] = lambda run: {}

  def evaluate(self, state: State) -> dict[str, float]:
    """Scores of all evaluators, as 'eval/<evaluator>/<metric>'."""
    return {
      f'eval/{name}/{key}': float(value)
      for name, evaluate in self.evaluators.items()
      for key, value in evaluate(state).items()
    }

  def check_metric(
    self,
    name: str | None,
    found: Collection[str] | None = None,
    *,
    setting: str = 'best_metric',
  ) -> None:
    """Checks the name of the metric that ranks checkpoints, or members.

    Args:
      name: such as 'eval/valid/loss'; None: nothing is ranked.
      found: names that an evaluation gave; None: there was none yet.
      setting: what the user named it with.

    Raises:
      ConfigError: if no evaluator, or not this evaluation, gives the metric.
    """
    if name is None or (found is not None and name in found):
      return
    _, _, rest = name.partition('eval/')
    evaluator, _, metric = rest.rpartition('/')
    declared = evaluator in self.evaluators and evaluator in self.scores
    if declared and metric in self.scores[evaluator]:
      return  # An evaluation may lack it, such as one of no sound member.
    known = found
    if found is None:
      if evaluator in self.evaluators and not declared:
        return
      known = [
        f'eval/{one}/{score}'
        for one in self.evaluators
        for score in self.scores.get(one, ('...',))
      ]
    raise errors.ConfigError(
      f'{setting} must be one of {sorted(known)}, got {name!r}'
    )
