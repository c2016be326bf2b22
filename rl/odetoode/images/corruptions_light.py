"""Corruptions that change the light of a pixel and leave it in its place.

Functions take pictures, float32 [n, h, w], generators, each of which may draw
one array with pictures along its first axis, and a strength; results may leave
[0, 1]. `corruptions` has the table.
"""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

__all__ = [
  'brightness',
  'canny_edges',
  'impulse_noise',
  'shot_noise',
  'stripe',
]

# Contours: of the steepest slope in the picture, what starts one and what may
# continue one.
_STRONG, _WEAK = 0.4, 0.2
_SECTORS = ((0, 1), (1, 1), (1, 0), (1, -1))  # Row and column steps, by pi/4.
_TAN = 0.4142135623730951  # tan(pi/8), half a sector.


def shot_noise(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  photons: float,
) -> Float[np.ndarray, 'n h w']:
  """Counts photons: Poisson with mean `photons` x, divided by `photons`."""
  # By the inverse distribution function: one uniform number per pixel, unlike
  # NumPy's own, where the count of one pixel shifts the draws of the next.
  uniform = rngs[0].random(images.shape)
  counts = np.zeros(images.shape, np.float32)
  lit = np.flatnonzero(images)
  mean = images.ravel()[lit].astype(np.float64) * photons
  rest = uniform.ravel()[lit]
  term, count = np.exp(-mean), 0
  # Above the mean by 12 deviations nothing is left but rounding.
  for count in range(int(photons + 12 * photons**0.5) + 12):
    rest = rest - term
    going = rest >= 0
    counts.ravel()[lit[~going]] = count
    lit, mean, rest = lit[going], mean[going], rest[going]
    term = term[going] * mean / (count + 1)
  counts.ravel()[lit] = count
  return counts / np.float32(photons)


def impulse_noise(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  part: float,
) -> Float[np.ndarray, 'n h w']:
  """Makes a part of the pixels ink or paper, at even odds."""
  uniform = rngs[0].random(images.shape)
  salted = np.where(uniform < part / 2, np.float32(1), images)
  return np.where(uniform >= 1 - part / 2, np.float32(0), salted)


def brightness(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  gain: float,
) -> Float[np.ndarray, 'n h w']:
  """Adds light everywhere."""
  del rngs
  return images + np.float32(gain)


def stripe(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  width: float,
) -> Float[np.ndarray, 'n h w']:
  """Inverts a band at the left and one at the right, each `width` w wide."""
  del rngs
  columns = images.shape[2]
  band = max(1, round(width * columns))
  place = np.arange(columns)
  inside = (place >= band) & (place < columns - band)
  return np.where(inside, images, 1 - images)


def canny_edges(
  images: Float[np.ndarray, 'n h w'],
  rngs: Sequence[np.random.Generator],
  blur: float,
) -> Float[np.ndarray, 'n h w']:
  """Draws contours: crests of the slope, strong or joined to strong ones."""
  del rngs
  sigma = blur * min(images.shape[1:])
  # The pixels beside a symmetric edge are equally steep. Slopes are found in
  # double and compared in single precision, or rounding would choose.
  smooth = scipy.ndimage.gaussian_filter(
    images, (0, sigma, sigma), output=np.float64, mode='constant'
  )
  down, across = _slope(smooth, 1, 2), _slope(smooth, 2, 1)
  slope = np.sqrt(down**2 + across**2).astype(np.float32)
  # The floor keeps rounding in an empty picture from being a contour.
  steepest = np.maximum(slope.max((1, 2), keepdims=True), 1e-3)
  crest = _crests(slope, down, across)
  weak = crest & (slope >= _WEAK * steepest)
  strong = crest & (slope >= _STRONG * steepest)
  # Pieces join along all eight directions of a picture, not between pictures.
  joins = np.zeros((3, 3, 3), bool)
  joins[1] = True
  pieces, count = scipy.ndimage.label(weak, joins)
  kept = np.zeros(count + 1, bool)
  kept[pieces[strong]] = True
  return kept[pieces].astype(np.float32)


def _slope(
  images: Float[np.ndarray, 'n h w'], along: int, beside: int
) -> Float[np.ndarray, 'n h w']:
  """Differences along one axis, smoothed along the other (Sobel)."""
  # SciPy's function of that name would smooth from picture to picture, too.
  change = scipy.ndimage.correlate1d(images, [-1, 0, 1], along)
  return scipy.ndimage.correlate1d(change, [1, 2, 1], beside)


def _crests(
  slope: Float[np.ndarray, 'n h w'],
  down: Float[np.ndarray, 'n h w'],
  across: Float[np.ndarray, 'n h w'],
) -> Bool[np.ndarray, 'n h w']:
  """Finds pixels no less steep than both neighbours up and down the slope."""
  height, width = slope.shape[1:]
  flat = np.abs(down) <= _TAN * np.abs(across)
  steep = np.abs(across) <= _TAN * np.abs(down)
  falling = down * across > 0
  sector = np.select([flat, steep, falling], [0, 2, 1], 3)
  padded = np.pad(slope, ((0, 0), (1, 1), (1, 1)))
  crest = np.zeros(slope.shape, bool)
  for number, (row, column) in enumerate(_SECTORS):
    ahead, behind = (
      padded[:, 1 + r : 1 + r + height, 1 + c : 1 + c + width]
      for r, c in ((row, column), (-row, -column))
    )
    # One of two equal neighbours is the crest, so that lines are thin.
    crest |= (sector == number) & (slope >= ahead) & (slope > behind)
  return crest
