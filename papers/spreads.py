"""Differences of means: their spread, intervals, and the seeds that decide."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

__all__ = ['Spread', 'resampled']

_MANY = 100_000  # Seeds that nobody runs.
_RESAMPLES = 10_000
_FEW = 10  # With fewer values, the bootstrap is far too sure.


@dataclasses.dataclass(frozen=True)
class Spread:
  """A difference of means, and how it varies.

  Attributes:
    mean: of the difference.
    parts: variance of one value and number of values, of each noisy side.
  """

  mean: float
  parts: tuple[tuple[float, int], ...]

  @classmethod
  def of(cls, first: np.ndarray, second: np.ndarray, paired: bool) -> 'Spread':
    """Of two samples.

    Args:
      first: values, one per seed; a single one is known without error.
      second: subtracted sample.
      paired: the values belong together in order, such as those of one seed.

    Raises:
      ValueError: for values that are not finite, none, or pairs of different
        numbers.
    """
    if not (first.ndim == second.ndim == 1 and first.size and second.size):
      raise ValueError(
        f'values must be sequences, got {first.shape=} {second.shape=}'
      )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
      raise ValueError(f'values must be finite, got {first=} {second=}')
    if paired:
      if first.size != second.size and 1 not in (first.size, second.size):
        raise ValueError(
          f'pairs need equal numbers, got {first.size=} {second.size=}'
        )
      first, second = first - second, np.zeros(1)
    parts = [(np.var(x, ddof=1), x.size) for x in (first, second) if x.size > 1]
    return cls(float(first.mean() - second.mean()), tuple(parts))

  def interval(self, confidence: float, exact: bool) -> tuple[float, float]:
    """Confidence interval of the mean: Student's or Welch's t-interval.

    Args:
      confidence: probability that the interval covers the true mean.
      exact: nothing is random; otherwise two single values say nothing about
        the spread, and their interval is infinite.
    """
    if not self.parts and not exact:
      return -math.inf, math.inf
    half = 0.0
    if any(variance for variance, _ in self.parts):
      from scipy import stats

      freedom, error = self._freedom()
      half = stats.t.ppf(0.5 + confidence / 2, freedom) * error
    return self.mean - half, self.mean + half

  def _freedom(self, seeds: int | None = None) -> tuple[float, float]:
    """Welch's degrees of freedom, and the standard error of the mean."""
    parts = [(v / (seeds or n), (seeds or n) - 1) for v, n in self.parts]
    variance = sum(v for v, _ in parts)
    freedom = variance**2 / sum(v**2 / n for v, n in parts)
    return freedom, math.sqrt(variance)

  def seeds(
    self, gaps: Sequence[float], confidence: float, power: float
  ) -> int | None:
    """Least number of seeds whose interval leaves all bounds at these distances.

    Args:
      gaps: distances of the mean from the bounds, at least one.
      confidence: of the interval.
      power: least probability that no bound lies in the interval.
    """
    if min(gaps) <= 0 or not any(variance for variance, _ in self.parts):
      return None
    from scipy import stats

    def enough(seeds: int) -> bool:
      freedom, error = self._freedom(seeds)
      limit = stats.t.ppf(0.5 + confidence / 2, freedom)
      missed = stats.t.sf([gap / error - limit for gap in gaps], freedom)
      return 1 - missed.sum() >= power

    few, many = 1, 2
    while not enough(many):
      few, many = many, 2 * many
      if many > _MANY:
        return None
    while many - few > 1:
      middle = (few + many) // 2
      few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def resampled(
  first: np.ndarray, second: np.ndarray, paired: bool, confidence: float
) -> tuple[float, float]:
  """Bootstrap interval of a difference of means, always of the same draws.

  It is too narrow for few values: of 5 normal ones, an interval of 95 % covers the
  mean in 84 % of cases, of 15 in 91 %. For fewer than 10 it is infinite.

  Args:
    first: values, one per seed.
    second: subtracted sample.
    paired: the values belong together in order.
    confidence: probability that the interval covers the true difference.
  """
  if min(x.size for x in (first, second) if x.size > 1) < _FEW:
    return -math.inf, math.inf
  rng = np.random.default_rng(0)

  def means(values: np.ndarray) -> np.ndarray:
    rows = rng.integers(values.size, size=(_RESAMPLES, values.size))
    return values[rows].mean(axis=1)

  if paired:
    found = means(first - second)
  else:
    found = means(first) - means(second)
  tail = (1 - confidence) / 2
  low, high = np.quantile(found, (tail, 1 - tail))
  return float(low), float(high)
