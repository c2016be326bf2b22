"""Corruptions that put something between the picture and its reader.

Functions take pictures, float32 [n, h, w], generators, each of which may draw
one array with pictures along its first axis, and a strength; results may leave
[0, 1]. `corruptions` has the table.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import scipy.special
from jaxtyping import Float

__all__ = ['dotted_line', 'fog', 'spatter', 'zigzag']

_GRIDS = (2, 3, 5, 9, 17)  # Points along a side, coarse to fine.
_MIN_WIDTH = 0.4  # Pixels: narrower marks would fall between the pixels.
_MIN_WAVE = 5.0  # Pixels: of a shorter zigzag nothing but a band is left.


def fog(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  part: float,
) -> Float[np.ndarray, 'n h w']:
  """Gives a `part` of the light to clouds, each from 0 to 1."""
  count, height, width = images.shape
  values = rngs[0].random((count, sum(grid**2 for grid in _GRIDS)))
  clouds, start = np.zeros(images.shape), 0
  for octave, grid in enumerate(_GRIDS):
    corners = values[:, start : start + grid**2].reshape(count, grid, grid)
    down, across = _blend(height, grid), _blend(width, grid)
    clouds += 0.6**octave * (down @ corners @ across.T)
    start += grid**2
  low = clouds.min((1, 2), keepdims=True)
  # A picture of one pixel has no range; the floor makes its cloud 0.
  span = np.maximum(clouds.max((1, 2), keepdims=True) - low, 1e-6)
  return (1 - part) * images + part * (clouds - low) / span


def spatter(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  part: float,
) -> Float[np.ndarray, 'n h w']:
  """Covers a `part` of the picture by drops of one grey, 0.4 to 1."""
  sigma = max(_MIN_WIDTH, 0.05 * min(images.shape[1:]))
  field = rngs[0].standard_normal(images.shape, np.float32)
  field = scipy.ndimage.gaussian_filter(field, (0, sigma, sigma), mode='wrap')
  field -= field.mean((1, 2), keepdims=True)
  # As above: no deviation in a picture of one pixel.
  field /= np.maximum(field.std((1, 2), keepdims=True), 1e-6)
  threshold = scipy.special.ndtri(1 - part)
  cover = np.clip(0.5 + 3 * (field - threshold), 0, 1)  # Rims are soft.
  grey = 0.4 + 0.6 * rngs[1].random((len(images), 1, 1))
  return (1 - cover) * images + cover * grey


def dotted_line(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  radius: float,
) -> Float[np.ndarray, 'n h w']:
  """Adds dots along a line that passes within 0.2 s of the centre."""
  height, width = images.shape[1:]
  side = min(height, width)
  angle, offset, phase = rngs[0].random((len(images), 3)).T[..., None]
  sigma = math.hypot(_MIN_WIDTH, radius * side)
  apart = max(2.5, 5 * sigma)  # Closer dots would run together.
  reach = math.ceil(math.hypot(height, width) / 2 / apart)
  along = apart * (np.arange(-reach, reach + 1) + phase - 0.5)
  aside = 0.4 * side * (offset - 0.5)
  rows, columns = _turned(along, aside, np.pi * angle)
  return images + 1.5 * _marks(rows, columns, sigma, height, width)


def zigzag(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  radius: float,
) -> Float[np.ndarray, 'n h w']:
  """Adds a line that crosses the picture and swings by 0.15 s on the way."""
  height, width = images.shape[1:]
  side = min(height, width)
  angle, offset, phase = rngs[0].random((len(images), 3)).T[..., None]
  sigma = math.hypot(_MIN_WIDTH, radius * side)
  swing, wave = 0.15 * side, max(_MIN_WAVE, side / 3)
  # Marks closer together than they are wide make a line.
  apart = 0.7 * sigma / math.hypot(1, 4 * swing / wave)
  reach = math.ceil(math.hypot(height, width) / 2 / apart)
  along = apart * np.arange(-reach, reach + 1)[None]
  triangle = 4 * np.abs((along / wave + phase) % 1 - 0.5) - 1
  aside = swing * triangle + 0.3 * side * (offset - 0.5)
  rows, columns = _turned(along, aside, np.pi * angle)
  # In a row of marks 0.7 widths apart, (2 pi)**0.5 / 0.7 = 3.6 marks add up.
  return images + 0.28 * _marks(rows, columns, sigma, height, width)


def _blend(size: int, grid: int) -> Float[np.ndarray, 's g']:
  """Weights of `grid` points along a side in each of its `size` pixels."""
  place = np.linspace(0, grid - 1, size)
  near = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(grid)))
  return near**2 * (3 - 2 * near)  # Smooth where linear weights have a kink.


def _turned(
  along: Float[np.ndarray, '#n k'],
  aside: Float[np.ndarray, 'n #k'],
  angle: Float[np.ndarray, 'n 1'],
) -> tuple[Float[np.ndarray, 'n k'], Float[np.ndarray, 'n k']]:
  """Returns rows and columns, from the centre, of points beside a line."""
  cos, sin = np.cos(angle), np.sin(angle)
  return along * sin + aside * cos, along * cos - aside * sin


def _marks(
  rows: Float[np.ndarray, 'n k'],
  columns: Float[np.ndarray, 'n k'],
  sigma: float,
  height: int,
  width: int,
) -> Float[np.ndarray, 'n h w']:
  """Adds up Gaussian spots of height 1, k in each picture."""
  down, across = (
    np.exp(-0.5 * np.square((_places(size) - points[..., None]) / sigma))
    for points, size in ((rows, height), (columns, width))
  )
  return down.transpose(0, 2, 1) @ across


def _places(size: int) -> Float[np.ndarray, 's']:
  return np.arange(size) - (size - 1) / 2
