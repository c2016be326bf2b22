"""Any sampler of Optuna as a tuner; needs the extra `optuna`."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from hpo import spaces
from hpo.autorl import asking
from hpo.autorl.search import replay
from runtime import optional

__all__ = ['Optuna', 'codes', 'distribution']


def _optuna() -> types.ModuleType:
  return optional.load('optuna', extra='optuna')


def tpe(seed: int) -> Any:
  """Optuna's tree-structured Parzen estimator."""
  return _optuna().samplers.TPESampler(seed=seed)


@dataclasses.dataclass(frozen=True)
class Optuna:
  """Points of a sampler; an `asking.Method`.

  Attributes:
    sampler: makes the sampler from a seed; it must be deterministic.
  """

  sampler: Callable[[int], Any] = tpe

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`."""
    start = lambda: _Live(history.space, self.sampler(history.seed))
    return replay.propose(history, count, start)


class _Live:
  """A study at work; see `replay.Live`."""

  def __init__(self, space: spaces.Space, sampler: Any) -> None:
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    self._study = optuna.create_study(sampler=sampler, direction='maximize')
    self._space = space
    self._places = {p.name: distribution(p) for p in space.parameters}
    self._trials: dict[int, Any] = {}

  def ask(self, first: int, count: int) -> list[dict[str, spaces.Value]]:
    """See `replay.Live`."""
    found = []
    for number in range(first, first + count):
      trial = self._study.ask(self._places)
      self._trials[number] = trial
      found.append(self._space.point(codes(self._space, trial.params)))
    return found

  def tell(self, record: asking.Record) -> None:
    """See `replay.Live`."""
    trial = self._trials.pop(record.job.id)
    if record.score is None:
      self._study.tell(trial, state=_optuna().trial.TrialState.FAIL)
    else:
      self._study.tell(trial, record.score)


def distribution(p: spaces.Parameter) -> Any:
  """The codes of a parameter for Optuna; listed numbers are places in order."""
  kinds = _optuna().distributions
  if isinstance(p, spaces.Categorical):
    return kinds.CategoricalDistribution(tuple(range(len(p.values))))
  if isinstance(p, spaces.Discrete):
    return kinds.IntDistribution(0, len(p.values) - 1)
  is_whole = isinstance(p, spaces.Int)
  kind = kinds.IntDistribution if is_whole else kinds.FloatDistribution
  return kind(p.low, p.high, log=p.scale == 'LOG')


def codes(
  space: spaces.Space, params: Mapping[str, Any]
) -> Float[np.ndarray, ' d']:
  """The codes of Optuna's values."""
  return np.array([float(params[name]) for name in space.names])
