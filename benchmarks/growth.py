"""How times grow with a length, and where one curve crosses another."""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ['crossover', 'slope']


def slope(lengths: Sequence[int], values: Sequence[float]) -> float:
  """Exponent p of value ~ L^p, by least squares on logarithms.

  Raises:
    ValueError: for fewer than two lengths.
  """
  if len(lengths) < 2 or len(lengths) != len(values):
    raise ValueError(
      f'a slope needs two points or more, got {lengths=} {values=}'
    )
  return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def crossover(
  lengths: Sequence[int], speedups: Sequence[float]
) -> float | None:
  """The length from which on ours is faster, up to the longest measured.

  Interpolates the logarithm of the speed-up linearly in log L.

  Args:
    lengths: rising.
    speedups: the peer's time over ours at each.

  Returns:
    The length; the least one measured if ours is faster everywhere; None if it
    is not faster at the longest.

  Raises:
    ValueError: if the lengths do not rise, or numbers differ.
  """
  if len(lengths) != len(speedups) or list(lengths) != sorted(set(lengths)):
    raise ValueError(f'lengths must rise, got {lengths=} {speedups=}')
  if not lengths or speedups[-1] < 1:
    return None
  behind = [i for i, ratio in enumerate(speedups) if ratio < 1]
  if not behind:
    return float(lengths[0])
  i = behind[-1]
  low, high = math.log(speedups[i]), math.log(speedups[i + 1])
  start, end = math.log(lengths[i]), math.log(lengths[i + 1])
  return math.exp(start - low * (end - start) / (high - low))
