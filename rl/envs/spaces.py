"""Spaces of observations and actions: hashable, so static under jit."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, Key, Shaped

__all__ = ['Box', 'Discrete', 'Space', 'pixels']

_LARGEST = 2**31 - 1  # Elements of an array that 32 bits can number.

Bound = float | int | tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Box:
  """Arrays of one shape between bounds.

  Attributes:
    shape: of one observation or action, without lanes.
    low: smallest values; a number, or nested tuples that broadcast to shape.
    high: largest values, alike.
    dtype: a NumPy dtype's name.

  Raises:
    ValueError: if the shape is too large, or a bound does not broadcast to it,
      is NaN, or low > high.
  """

  shape: tuple[int, ...]
  low: Bound
  high: Bound
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    if math.prod(self.shape) > _LARGEST:
      raise ValueError(f'size must be below 2^31, got {self.shape=}')
    for name in ('low', 'high'):
      shape = np.shape(getattr(self, name))
      try:
        fits = np.broadcast_shapes(shape, self.shape) == self.shape
      except ValueError:
        fits = False
      if not fits:
        raise ValueError(
          f'{name} must broadcast to shape, got shape {shape} {self.shape=}'
        )
    if not np.all(np.asarray(self.low) <= np.asarray(self.high)):
      raise ValueError(f'low must be <= high, got {self.low=} {self.high=}')

  @property
  def bounds(self) -> tuple[np.ndarray, np.ndarray]:
    """Low and high as arrays of the box's shape and dtype."""
    low, high = (
      np.broadcast_to(np.asarray(bound, self.dtype), self.shape)
      for bound in (self.low, self.high)
    )
    return low, high

  @property
  def bounded(self) -> bool:
    """Whether all bounds are finite."""
    return bool(np.all(np.isfinite(self.low) & np.isfinite(self.high)))

  def contains(self, value: Any) -> bool:
    """Whether a concrete array has this shape and kind and is within bounds."""
    value = np.asarray(value)
    kind = np.floating if np.issubdtype(self.dtype, np.floating) else np.integer
    if value.shape != self.shape or not np.issubdtype(value.dtype, kind):
      return False
    low, high = self.bounds
    return bool(np.all((value >= low) & (value <= high)))

  def sample(self, key: Key[Array, '']) -> Shaped[Array, '...']:
    """Draws uniformly between the bounds, both included for integers.

    Raises:
      ValueError: if a bound is infinite.
    """
    if not self.bounded:
      raise ValueError(f'only a bounded box can be sampled, got {self}')
    low, high = self.bounds
    if np.issubdtype(self.dtype, np.floating):
      unit = jax.random.uniform(key, self.shape, self.dtype)
      return low + unit * (high - low)
    wide = low.astype(np.int32), high.astype(np.int32) + 1
    return jax.random.randint(key, self.shape, *wide).astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class Discrete:
  """Integers 0..n-1, scalars of int32.

  Raises:
    ValueError: if n < 1.
  """

  n: int

  def __post_init__(self) -> None:
    if self.n < 1:
      raise ValueError(f'n must be positive, got {self.n=}')

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of a scalar."""
    return ()

  @property
  def dtype(self) -> str:
    """A NumPy dtype's name."""
    return 'int32'

  def contains(self, value: Any) -> bool:
    """Whether a concrete value is an integer scalar in 0..n-1."""
    value = np.asarray(value)
    if value.shape != () or not np.issubdtype(value.dtype, np.integer):
      return False
    return bool(0 <= value < self.n)

  @property
  def bounded(self) -> bool:
    """Always: there are finitely many."""
    return True

  def sample(self, key: Key[Array, '']) -> Int[Array, '']:
    """Draws uniformly."""
    return jax.random.randint(key, (), 0, self.n)


Space = Box | Discrete


def pixels(size: int, channels: int = 3) -> Box:
  """The space of square pictures, uint8 [size, size, channels]."""
  return Box((size, size, channels), 0, 255, 'uint8')
