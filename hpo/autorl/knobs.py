"""Settings that are learnt: numbers in a range, as free parameters.

A knob is a bijection from the real line to an open range, through a sigmoid. An
optimiser moves the free parameter, and the setting never leaves its range.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hpo import scales

__all__ = ['Knob', 'initial', 'values']


@dataclasses.dataclass(frozen=True)
class Knob:
  """A learnt setting.

  Attributes:
    name: of the setting.
    start: its first value, inside the range.
    low: bound below all values.
    high: bound above all values.
    scale: as of `hpo.scales`: where a free step moves the setting equally far.

  Raises:
    ValueError: if the start lies outside, or the scale does not fit the bounds.
  """

  name: str
  start: float
  low: float = 0.0
  high: float = 1.0
  scale: str = 'LINEAR'

  def __post_init__(self) -> None:
    scales.check_bounds(self.name, self.low, self.high, self.scale)
    if not self.low < self.start < self.high:
      raise ValueError(
        f'start of {self.name!r} must lie between low and high, got '
        f'{self.start=} {self.low=} {self.high=}'
      )

  @property
  def free(self) -> float:
    """The free parameter at the start."""
    unit = self.unit(self.start)
    return math.log(unit / (1 - unit))

  def unit(self, value: float) -> float:
    """A value's place in the range: 0 at `low` or below, 1 at `high` or above."""
    bounds = self.low, self.high, self.scale
    inside = np.clip(np.array([value], np.float64), self.low, self.high)
    return float(scales.to_scaled(inside, *bounds)[0])

  def value(self, free: Float[Array, '*h']) -> Float[Array, '*h']:
    """The setting of a free parameter."""
    low, high = self.low, self.high
    if self.scale == 'LINEAR':
      return low + (high - low) * jax.nn.sigmoid(free)
    is_reverse = self.scale == 'REVERSE_LOG'
    unit = jax.nn.sigmoid(-free if is_reverse else free)
    found = low * jnp.exp(math.log(high / low) * unit)
    return low + high - found if is_reverse else found


def initial(
  knobs: Sequence[Knob], shape: tuple[int, ...] = ()
) -> dict[str, Float[Array, '*h']]:
  """The free parameters of all knobs at the start, by name.

  Raises:
    ValueError: if two knobs have one name.
  """
  names = [knob.name for knob in knobs]
  if len(set(names)) < len(names):
    raise ValueError(f'knobs must have different names, got {names}')
  return {knob.name: jnp.full(shape, knob.free) for knob in knobs}


def values(
  knobs: Sequence[Knob], free: Mapping[str, Float[Array, '*h']]
) -> dict[str, Float[Array, '*h']]:
  """The settings of free parameters, by name."""
  return {knob.name: knob.value(free[knob.name]) for knob in knobs}
