"""Search that learns nothing: random points, Sobol's sequence, a grid."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float
from scipy.stats import qmc

from hpo import spaces
from hpo.autorl import asking
from rl import ranges

__all__ = ['Grid', 'Random', 'Sobol', 'at_codes']


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
    space, first = history.space, history.fresh
    sequence = qmc.Sobol(len(space), rng=np.random.default_rng(history.seed))
    # SciPy draws whole powers of two only, without a warning.
    rows = sequence.random_base2((first + count - 1).bit_length())
    return at_codes(space, space.from_unit(rows[first : first + count]))


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
    first = history.fresh
    rows = itertools.islice(itertools.product(*axes), first, first + count)
    found = np.array(list(rows)).reshape(-1, len(axes))
    return at_codes(history.space, found)

  def _codes(self, p: spaces.Parameter) -> list[float]:
    if not isinstance(p, spaces.Float | spaces.Int):
      return [float(index) for index in range(len(p.values))]
    places = p.from_scaled(np.linspace(0, 1, self.resolution))
    places = np.round(places) if isinstance(p, spaces.Int) else places
    return np.unique(places).tolist()


def at_codes(
  space: spaces.Space, codes: Float[np.ndarray, 'n d']
) -> list[asking.Proposal]:
  """Whole runs at some points, whose codes are those of `spaces`."""
  return [asking.Proposal(space.point(row)) for row in codes]
