"""How times and memory grow with a length, for each seed."""

import math
from collections.abc import Mapping

import numpy as np

from benchmarks import growth

__all__ = ['Points', 'crossovers', 'exponents']

Points = Mapping[int, np.ndarray]  # One number per seed, by length.


def exponents(
  points: Points, least: float = 0, most: float = math.inf
) -> list[float]:
  """The exponent of the length for each seed, between two lengths."""
  chosen = {n: values for n, values in points.items() if least <= n <= most}
  return [growth.slope(line) for line in _by_seed(chosen)]


def crossovers(ours: Points, theirs: Points) -> list[float]:
  """The length from which on ours is less; twice the longest if it never is.

  Args:
    ours: numbers at all lengths of `theirs`, or more.
    theirs: numbers of the other form.
  """
  ratios = {n: values / ours[n] for n, values in theirs.items()}
  return [
    growth.crossover(line) or 2.0 * max(theirs) for line in _by_seed(ratios)
  ]


def _by_seed(points: Points) -> list[dict[int, float]]:
  columns = np.stack([*points.values()], axis=1)
  return [dict(zip(points, column, strict=True)) for column in columns]
