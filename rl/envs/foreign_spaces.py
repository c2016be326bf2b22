"""Spaces of Gymnasium and gymnax as our own, by their attributes."""

from typing import Any

import numpy as np

from rl.envs import spaces

__all__ = ['convert']


def convert(space: Any) -> spaces.Space:
  """The same space in our terms; float64 becomes float32.

  Args:
    space: a Box (`low`, `high`, `shape`, `dtype`) or a Discrete (`n`).

  Raises:
    ValueError: if it is neither, or counts from another number than 0.
  """
  if hasattr(space, 'n') and np.ndim(space.n) == 0 and space.shape == ():
    if int(getattr(space, 'start', 0)) != 0:
      raise ValueError(f'a discrete space must start at 0, got {space}')
    return spaces.Discrete(int(space.n))
  if not (hasattr(space, 'low') and hasattr(space, 'high')):
    raise ValueError(f'only Box and Discrete are supported, got {space}')
  dtype = np.dtype(space.dtype).name
  dtype = 'float32' if dtype == 'float64' else dtype
  shape = tuple(int(side) for side in space.shape)
  low, high = (_bound(x, dtype) for x in (space.low, space.high))
  return spaces.Box(shape, low, high, dtype)


def _bound(bound: Any, dtype: str) -> spaces.Bound:
  """A number if all are the same, else nested tuples."""
  array = np.asarray(bound, np.float64).astype(dtype)
  if array.size and (array == array.flat[0]).all():
    return array.flat[0].item()
  return _nested(array.tolist())


def _nested(values: Any) -> Any:
  if isinstance(values, list):
    return tuple(_nested(value) for value in values)
  return values
