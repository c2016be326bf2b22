"""Scales of numbers: which numbers are equally far apart.

'LINEAR': equal differences. 'LOG': equal ratios. 'REVERSE_LOG': equal ratios of
low + high - x, so that the fine steps are at the upper bound.

Arrays of NumPy and of JAX are mapped alike.
"""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ['SCALES', 'check', 'check_bounds', 'from_scaled', 'to_scaled']

SCALES = ('LINEAR', 'LOG', 'REVERSE_LOG')


def check(name: str, scale: str) -> None:
  """Raises ValueError unless the scale of a parameter is one of `SCALES`."""
  if scale not in SCALES:
    raise ValueError(
      f'the scale of {name!r} must be one of {SCALES}, got {scale!r}'
    )


def check_bounds(
  name: str, low: float | int, high: float | int, scale: str
) -> None:
  """Raises ValueError unless a parameter can have these bounds on a scale."""
  check(name, scale)
  if scale != 'LINEAR' and low <= 0:
    raise ValueError(
      f'parameter {name!r} has the scale {scale}, which needs bounds above 0, '
      f'got low={low}'
    )
  with np.errstate(over='ignore'):
    first, last = np.float64(low), np.float64(high)
    size = last - first if scale == 'LINEAR' else last / first
  if not np.isfinite(size):
    raise ValueError(
      f'the range of {name!r} must have a finite size on its scale {scale}, '
      f'got low={low} high={high}'
    )


def to_scaled(
  x: Float[np.ndarray | Array, '*n'],
  low: float | int,
  high: float | int,
  scale: str,
) -> Float[np.ndarray | Array, '*n']:
  """Numbers to [0, 1]: `low` to 0, `high` to 1; 0.5 if the two are equal."""
  if low == high:
    return _library(x).full(np.shape(x), 0.5)
  if scale == 'LINEAR':
    return (x - low) / (high - low)
  if scale == 'REVERSE_LOG':
    # In this order, so that neither end of a wide range is rounded away.
    return 1 - to_scaled(low + (high - x), low, high, 'LOG')
  return _library(x).log(x / low) / math.log(high / low)


def from_scaled(
  z: Float[np.ndarray | Array, '*n'],
  low: float | int,
  high: float | int,
  scale: str,
) -> Float[np.ndarray | Array, '*n']:
  """The inverse of `to_scaled`."""
  if scale == 'LINEAR':
    return low + z * (high - low)
  if scale == 'REVERSE_LOG':
    return high - (from_scaled(1 - z, low, high, 'LOG') - low)
  return low * _library(z).exp(z * math.log(high / low))


def _library(x: np.ndarray | Array) -> types.ModuleType:
  return jnp if isinstance(x, jax.Array) else np
