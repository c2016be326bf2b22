"""Corruptions that take each pixel from elsewhere in the picture.

Functions take pictures, float32 [n, h, w], generators, each of which may draw
one array with pictures along its first axis, and a strength. `corruptions` has
the table.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Float

__all__ = [
  'glass_blur',
  'motion_blur',
  'rotate',
  'scale',
  'shear',
  'translate',
]


def shear(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  slope: float,
) -> Float[np.ndarray, 'n h w']:
  """Slides each row by `slope` times its height above the centre."""
  slopes = slope * _signs(rngs[0], len(images))
  ones, zeros = np.ones(len(images)), np.zeros(len(images))
  return _affine(images, [[ones, zeros], [slopes, ones]])


def scale(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  factor: float,
) -> Float[np.ndarray, 'n h w']:
  """Shrinks to `factor` of the size, about the centre."""
  del rngs
  inverse, zeros = np.full(len(images), 1 / factor), np.zeros(len(images))
  return _affine(images, [[inverse, zeros], [zeros, inverse]])


def rotate(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  angle: float,
) -> Float[np.ndarray, 'n h w']:
  """Turns by `angle` to the one or the other side."""
  angles = angle * _signs(rngs[0], len(images))
  cos, sin = np.cos(angles), np.sin(angles)
  return _affine(images, [[cos, -sin], [sin, cos]])


def translate(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  distance: float,
) -> Float[np.ndarray, 'n h w']:
  """Moves by `distance` s in any direction."""
  angles = 2 * np.pi * rngs[0].random(len(images))
  step = distance * min(images.shape[1:])
  ones, zeros = np.ones(len(images)), np.zeros(len(images))
  shift = (step * np.sin(angles), step * np.cos(angles))
  return _affine(images, [[ones, zeros], [zeros, ones]], shift)


def glass_blur(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  reach: float,
) -> Float[np.ndarray, 'n h w']:
  """Takes each pixel from up to `reach` s away in both directions."""
  count, height, width = images.shape
  reach = reach * min(height, width)
  steps = reach * (2 * rngs[0].random((count, 2, height, width)) - 1)
  rows = np.arange(height)[:, None] + steps[:, 0]
  columns = np.arange(width) + steps[:, 1]
  smooth = _blur(images, reach / 3)
  return _blur(_sample(smooth, rows, columns), reach / 3)


def motion_blur(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  length: float,
) -> Float[np.ndarray, 'n h w']:
  """Averages along a centred line of length `length` s."""
  height, width = images.shape[1:]
  length = length * min(height, width)
  radius = math.ceil(length / 2)
  kernels = _line_kernels(np.pi * rngs[0].random(len(images)), length, radius)
  around = ((0, 0), (radius, radius), (radius, radius))
  padded = np.pad(images, around)
  result = np.zeros_like(images)
  for row in range(2 * radius + 1):
    for column in range(2 * radius + 1):
      moved = padded[:, row : row + height, column : column + width]
      result += kernels[:, row, column, None, None] * moved
  return result


def _line_kernels(
  angles: Float[np.ndarray, 'n'], length: float, radius: int
) -> Float[np.ndarray, 'n k k']:
  """Spreads the weight 1 along a line through the centre of k x k cells."""
  places = np.linspace(-length / 2, length / 2, 4 * radius + 1)
  cells = np.arange(-radius, radius + 1)
  # A point is shared among the four cells around it.
  row, column = (
    np.maximum(0, 1 - np.abs(cells - along[:, None, None] * places[:, None]))
    for along in (np.sin(angles), np.cos(angles))
  )  # Both [n, places, cells].
  kernels = row.transpose(0, 2, 1) @ column / len(places)
  return kernels.astype(np.float32)


def _signs(rng: np.random.Generator, count: int) -> Float[np.ndarray, 'n']:
  return np.where(rng.random(count) < 0.5, -1.0, 1.0)


def _blur(
  images: Float[np.ndarray, 'n h w'], sigma: float
) -> Float[np.ndarray, 'n h w']:
  return scipy.ndimage.gaussian_filter(
    images, (0, sigma, sigma), mode='constant'
  )


def _affine(
  images: Float[np.ndarray, 'n h w'],
  inverse: Sequence[Sequence[Float[np.ndarray, 'n']]],
  shift: Sequence[Float[np.ndarray, '#n']] = (np.zeros(1), np.zeros(1)),
) -> Float[np.ndarray, 'n h w']:
  """Applies a linear map about the centre, then a shift.

  Args:
    images: the pictures.
    inverse: 2 x 2 coefficients of the inverse of the map on (row, column).
    shift: of rows and of columns, in pixels.
  """
  height, width = images.shape[1:]
  centre = ((height - 1) / 2, (width - 1) / 2)
  shift = [part[:, None, None] for part in shift]
  row = np.arange(height)[:, None] - centre[0] - shift[0]
  column = np.arange(width) - centre[1] - shift[1]
  rows, columns = (
    a[:, None, None] * row + b[:, None, None] * column + middle
    for (a, b), middle in zip(inverse, centre, strict=True)
  )
  return _sample(images, rows, columns)


def _sample(
  images: Float[np.ndarray, 'n h w'],
  rows: Float[np.ndarray, 'n h w'],
  columns: Float[np.ndarray, 'n h w'],
) -> Float[np.ndarray, 'n h w']:
  """Reads pictures between pixels, bilinearly; 0 outside."""
  count, height, width = images.shape
  padded = np.pad(images, ((0, 0), (1, 1), (1, 1))).ravel()
  row, row_part = _split(rows, height)
  column, column_part = _split(columns, width)
  first = np.arange(count)[:, None, None] * (height + 2) + row
  index = first * (width + 2) + column
  upper, lower = (
    (1 - column_part) * padded[start] + column_part * padded[start + 1]
    for start in (index, index + width + 2)
  )
  return (1 - row_part) * upper + row_part * lower


def _split(
  places: Float[np.ndarray, 'n h w'], size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Splits places into an index with a border of 1 and a part in [0, 1]."""
  inside = np.clip(places, -1, size) + 1
  index = np.minimum(inside.astype(np.int64), size)
  return index, (inside - index).astype(np.float32)
