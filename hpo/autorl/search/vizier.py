"""Any designer of Vizier as a tuner; needs the extra `vizier`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from hpo import spaces, studies
from hpo.autorl import asking
from hpo.autorl.search import replay
from hpo.optformer import vizier as vizier_lib
from runtime import optional

__all__ = ['Vizier', 'eagle']


def eagle(statement: Any, seed: int) -> Any:
  """Vizier's firefly algorithm."""
  folder = 'vizier._src.algorithms.designers.eagle_strategy'
  module = optional.load(f'{folder}.eagle_strategy', extra='vizier')
  return module.EagleStrategyDesigner(statement, seed=seed)


@dataclasses.dataclass(frozen=True)
class Vizier:
  """Points of a designer; an `asking.Method`.

  Attributes:
    designer: makes the designer from a problem statement and a seed; it must be
      deterministic.
  """

  designer: Callable[[Any, int], Any] = eagle

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`."""
    problem = studies.Problem(history.space)
    statement = vizier_lib.to_statement(problem)
    start = lambda: _Live(
      self.designer(statement, history.seed), vizier_lib.metric_name(problem)
    )
    return replay.propose(history, count, start)


class _Live:
  """A designer at work; see `replay.Live`."""

  def __init__(self, designer: Any, metric: str) -> None:
    self._designer, self._metric = designer, metric
    self._active: dict[int, Any] = {}
    self._done: list[Any] = []

  def ask(self, first: int, count: int) -> list[dict[str, spaces.Value]]:
    """See `replay.Live`."""
    vza = optional.load('vizier.algorithms', extra='vizier')
    vz = optional.load('vizier.pyvizier', extra='vizier')
    active = vza.ActiveTrials(list(self._active.values()))
    self._designer.update(vza.CompletedTrials(self._done), active)
    self._done = []
    found = [vizier_lib.to_point(one) for one in self._designer.suggest(count)]
    for number, point in enumerate(found, first):
      self._active[number] = vz.Trial(id=number + 1, parameters=point)
    return found

  def tell(self, record: asking.Record) -> None:
    """See `replay.Live`."""
    vz = optional.load('vizier.pyvizier', extra='vizier')
    trial = self._active.pop(record.job.id)
    if record.score is None:
      trial.complete(vz.Measurement(), infeasibility_reason='failed')
    else:
      trial.complete(vz.Measurement(metrics={self._metric: record.score}))
    self._done.append(trial)
