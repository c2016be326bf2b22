"""How well a model imitates: its loss beside what is possible.

Both references are in nats per parameter token, as the metric `param_loss` is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpo import studies
from hpo.optformer import quantizing
from hpo.optformer.behaviours import floors

__all__ = ['References', 'references']


class References(NamedTuple):
  """Losses with which the loss of a model is compared.

  Attributes:
    floor: loss of the algorithm itself, which no model can beat on average;
      None if it has no closed form.
    uniform: loss of a model that knows nothing but the legal tokens.
  """

  floor: float | None
  uniform: float

  def closed(self, loss: float) -> float | None:
    """The share of the gap between the two that a loss has closed."""
    if self.floor is None:
      return None
    return (self.uniform - loss) / (self.uniform - self.floor)


def references(
  found: Sequence[studies.Study], bins: int = quantizing.NUM_BINS
) -> References:
  """The references of studies, such as those of a split.

  Args:
    found: of algorithms with published settings, all trials completed.
    bins: Q.
  """
  uniform, tokens, lowest = 0.0, 0, 0.0
  is_known = True
  for study in found:
    counts = quantizing.legal_counts(study.problem.space.parameters, bins)
    uniform += len(study) * np.log(counts).sum()
    tokens += study.codes.size
    floor = floors.floor(study, bins)
    is_known &= floor is not None
    lowest += 0.0 if floor is None else floor.sum()
  return References(lowest / tokens if is_known else None, uniform / tokens)
