"""OptFormer as a tuner."""

import dataclasses
from collections.abc import Callable

import jax

from hpo import studies
from hpo.autorl import asking
from hpo.optformer import suggesting
from hpo.optformer import trained as trained_lib

__all__ = ['OptFormer']


@dataclasses.dataclass(frozen=True)
class OptFormer:
  """Points that OptFormer suggests; an `asking.Method`.

  Attributes:
    load: reads the model, once for each tuner; by default the one that comes
      with the package.
    policy: how points are chosen.
    name: of the study, which the model reads.
    metric: name of the score, which the model reads.
  """

  load: Callable[[], trained_lib.Trained] = trained_lib.shipped
  policy: suggesting.Policy = suggesting.Policy()
  name: str = ''
  metric: str = ''

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`."""
    key, memory = jax.random.key(history.seed), history.memory
    if 'trained' not in memory:
      memory['trained'] = self.load()
    found = suggesting.suggest(
      memory['trained'],
      studies.Problem(history.space, name=self.name, metric=self.metric),
      history.study.trials,
      jax.random.fold_in(key, len(history.records)),
      count=count,
      policy=self.policy,
    )
    return [asking.Proposal(point) for point in found.points]
