"""Verdicts about claims, computed from one number per seed.

A claim holds or fails only if a confidence interval says so; too few seeds, or
too noisy ones, leave it open.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ['Verdict', 'interval', 'verdict', 'verdict_close']

Verdict = Literal['holds', 'fails', 'inconclusive']


def _welch(
  better: np.ndarray, worse: np.ndarray, confidence: float
) -> tuple[float, float]:
  """Welch's interval; a single value counts as known without error."""
  from scipy import stats

  parts = [
    (np.var(x, ddof=1) / x.size, x.size - 1)
    for x in (better, worse)
    if x.size > 1
  ]
  if not parts:
    return -math.inf, math.inf
  difference = float(better.mean() - worse.mean())
  variance = sum(v for v, _ in parts)
  if variance == 0:
    return difference, difference
  freedom = variance**2 / sum(v**2 / n for v, n in parts)
  half = stats.t.ppf(0.5 + confidence / 2, freedom) * math.sqrt(variance)
  return difference - half, difference + half


def interval(
  first: npt.ArrayLike,
  second: npt.ArrayLike,
  *,
  paired: bool = False,
  confidence: float = 0.95,
) -> tuple[float, float]:
  """Confidence interval of the difference of two means.

  Welch's two-sided t-interval (unequal variances), or the t-interval of the
  differences for pairs. A sequence of one value is taken as exact, as for a
  baseline without a seed; two of them give no information about spread and an
  infinite interval.

  Args:
    first: values, one per seed.
    second: values to subtract.
    paired: the values belong together in order, such as those of one seed.
    confidence: probability that the interval covers the true difference.

  Returns:
    Lower and upper end.

  Raises:
    ValueError: for no values, values that are not finite, pairs of different
      numbers, or a confidence outside (0, 1).
  """
  a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if not (a.ndim == b.ndim == 1 and a.size and b.size):
    raise ValueError(f'values must be two sequences, got {a.shape=} {b.shape=}')
  if not (np.isfinite(a).all() and np.isfinite(b).all()):
    raise ValueError(f'values must be finite, got {first=} {second=}')
  if not 0 < confidence < 1:
    raise ValueError(f'confidence must be in (0, 1), got {confidence=}')
  if not paired:
    return _welch(a, b, confidence)
  if a.size != b.size:
    raise ValueError(f'pairs need equal numbers, got {a.size=} {b.size=}')
  if a.size == 1:
    return -math.inf, math.inf
  return _welch(a - b, np.zeros(1), confidence)


def verdict(
  better: npt.ArrayLike,
  worse: npt.ArrayLike,
  *,
  higher_is_better: bool,
  margin: float = 0.0,
  paired: bool = False,
  confidence: float = 0.95,
) -> Verdict:
  """Decides whether one method is better than another.

  Args:
    better: values of the method that should win, one per seed.
    worse: values of the other.
    higher_is_better: as for accuracy; False as for a loss.
    margin: by how much it must win.
    paired: as for `interval`.
    confidence: as for `interval`.

  Returns:
    `holds` if the whole interval of the advantage lies above the margin,
    `fails` if it lies below, else `inconclusive`.

  Raises:
    ValueError: as `interval`.
  """
  low, high = interval(better, worse, paired=paired, confidence=confidence)
  if not higher_is_better:
    low, high = -high, -low
  if low > margin:
    return 'holds'
  return 'fails' if high < margin else 'inconclusive'


def verdict_close(
  first: npt.ArrayLike,
  second: npt.ArrayLike,
  *,
  tolerance: float,
  paired: bool = False,
  confidence: float = 0.95,
) -> Verdict:
  """Decides whether two methods agree.

  Two one-sided t-tests (Schuirmann 1987) at level `1 - confidence`: they agree
  if the interval at confidence `2 * confidence - 1` lies inside the tolerance.

  Args:
    first: values of one method, one per seed.
    second: values of the other.
    tolerance: greatest difference of means that counts as agreement.
    paired: as for `interval`.
    confidence: one minus the level of each test; above one half.

  Returns:
    `holds`, `fails` if the interval lies outside, else `inconclusive`.

  Raises:
    ValueError: as `interval`, or for a tolerance that is not positive.
  """
  if not tolerance > 0 or not 0.5 < confidence < 1:
    raise ValueError(
      'tolerance must be positive and confidence in (0.5, 1), got '
      f'{tolerance=} {confidence=}'
    )
  width = 2 * confidence - 1
  low, high = interval(first, second, paired=paired, confidence=width)
  if -tolerance < low and high < tolerance:
    return 'holds'
  outside = high < -tolerance or low > tolerance
  return 'fails' if outside else 'inconclusive'
