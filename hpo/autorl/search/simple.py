"""Search that learns nothing: random points, Sobol's sequence, a grid."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy.stats import qmc

from hpo import spaces
from hpo.autorl import asking
from rl import ranges

__all__ = ['Grid', 'Random', 'Sobol']


@dataclasses.dataclass(frozen=True)
class Random:
  """Uniform points of the unit cube: log-uniform values on a log scale."""

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`."""
    return at_codes(history.space, history.space.sample(history.rng, count))


@dataclasses.dataclass(frozen=True)
class Sobol:
  """Sobol's sequence, scrambled by the seed: evener than random points.

  Reference: Owen (1998), "Scrambling Sobol' and Niederreiter-Xing points".
  """

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`."""
    space = history.space
    sequence = qmc.Sobol(len(space), rng=np.random.default_rng(history.seed))
    if history.records:  # SciPy cannot go forward by 0.
      sequence.fast_forward(len(history.records))
    return at_codes(space, space.from_unit(sequence.random(count)))


@dataclasses.dataclass(frozen=True)
class Grid:
  """All combinations of equally spaced values, the last parameter fastest.

  Attributes:
    resolution: values of a parameter with a range, at equal distances on its
      scale, both ends included; listed parameters have all their values.
  """

  resolution: int = 5

  def __post_init__(self) -> None:
    ranges.check_counts(least=2, resolution=self.resolution)

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`; finished after one pass."""
    axes = [self._codes(p) for p in history.space.parameters]
    first = len(history.records)
    rows = itertools.islice(itertools.product(*axes), first, first + count)
    return at_codes(history.space, list(rows))

  def _codes(self, p: spaces.Parameter) -> list[float]:
    if not isinstance(p, spaces.Float | spaces.Int):
      return [float(index) for index in range(len(p.values))]
    places = p.from_scaled(np.linspace(0, 1, self.resolution))
    places = np.round(places) if isinstance(p, spaces.Int) else places
    return np.unique(places).tolist()


def at_codes(
  space: spaces.Space, codes: Sequence[Sequence[float]]
) -> list[asking.Proposal]:
  """Whole runs at some points.

  Args:
    space: of the points.
    codes: [n, d]; see `spaces`.
  """
  return [asking.Proposal(space.point(np.asarray(row))) for row in codes]
