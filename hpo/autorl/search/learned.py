"""OptFormer as a tuner."""

import dataclasses

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
    trained: the model; by default the one that comes with the package.
    policy: how points are chosen.
    name: of the study, which the model reads.
    metric: name of the score, which the model reads.
  """

  trained: trained_lib.Trained = dataclasses.field(
    default_factory=trained_lib.shipped, repr=False
  )
  policy: suggesting.Policy = suggesting.Policy()
  name: str = ''
  metric: str = ''

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`."""
    key = jax.random.key(history.seed)
    found = suggesting.suggest(
      self.trained,
      studies.Problem(history.space, name=self.name, metric=self.metric),
      history.study.trials,
      jax.random.fold_in(key, len(history.records)),
      count=count,
      policy=self.policy,
    )
    return [asking.Proposal(point) for point in found.points]
