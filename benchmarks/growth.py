"""Growth of times with a length, and where one curve crosses another."""

import math
from collections.abc import Mapping

import numpy as np


def slope(points: Mapping[float, float]) -> float:
  """Exponent p of value ~ x^p, by least squares on logarithms.

  Raises:
    ValueError: for fewer than two points.
  """
  if len(points) < 2:
    raise ValueError(f'a slope needs two points or more, got {points=}')
  x, y = zip(*points.items(), strict=True)
  return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def crossover(speedups: Mapping[float, float]) -> float | None:
  """The length from which on ours is faster, up to the longest measured.

  Interpolates the logarithm of the speed-up linearly in log L.

  Args:
    speedups: by length, the peer's time over ours.

  Returns:
    The length; the least one measured if ours is faster everywhere; None if it
    is not faster at the longest.
  """
  lengths = sorted(speedups)
  if not lengths or speedups[lengths[-1]] < 1:
    return None
  behind = [i for i, length in enumerate(lengths) if speedups[length] < 1]
  if not behind:
    return float(lengths[0])
  ends = lengths[behind[-1] : behind[-1] + 2]
  low, high = (math.log(speedups[length]) for length in ends)
  start, end = map(math.log, ends)
  return math.exp(start - low * (end - start) / (high - low))
