"""Distortions of pictures by hands that shake."""

import numpy as np
from jaxtyping import Float

__all__ = ['distorted']

_BENDS = 7  # Places on a side that an elastic distortion moves at will.


def distorted(
  pictures: Float[np.ndarray, 'n h w c'],
  rng: np.random.Generator,
  *,
  elastic: float,
  affine: float,
) -> Float[np.ndarray, 'n h w c']:
  """Turns, stretches, shears, shifts and bends pictures, each in its own way.

  Args:
    pictures: float32; 0 is outside.
    rng: of the distortions.
    elastic: size of the bends in pixels.
    affine: standard deviation of turns (radians), stretches and shears.
  """
  n, h, w, _ = pictures.shape
  turn, shear = rng.normal(0, affine, (2, n))
  stretch = np.exp(rng.normal(0, affine, (2, n)))
  shift = rng.normal(0, 0.2 * affine * h, (n, 2, 1, 1))
  cos, sin = np.cos(turn), np.sin(turn)
  # Turn times shear times stretch.
  matrix = np.array(
    [[cos, shear * cos - sin], [sin, shear * sin + cos]]
  ).transpose(2, 0, 1)
  matrix = matrix * stretch.T[:, None]
  middle = np.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
  grid = np.stack(np.mgrid[:h, :w]) - middle
  source = np.einsum('nij,jhw->nihw', matrix, grid) + middle + shift
  source += elastic * _bends(n, h, w, rng)
  return _sampled(pictures, source.astype(np.float32))


def _bends(
  n: int, h: int, w: int, rng: np.random.Generator
) -> Float[np.ndarray, 'n 2 h w']:
  """Smooth fields whose greatest entry has size 1."""
  places = np.linspace(0, 1, _BENDS)
  bumps = [
    np.exp(-0.5 * ((np.linspace(0, 1, k)[:, None] - places) * _BENDS) ** 2)
    for k in (h, w)
  ]
  moves = rng.normal(size=(n, 2, _BENDS, _BENDS))
  field = bumps[0] @ moves @ bumps[1].T
  return field / np.abs(field).max((2, 3), keepdims=True)


def _sampled(
  pictures: Float[np.ndarray, 'n h w c'],
  source: Float[np.ndarray, 'n 2 h w'],
) -> Float[np.ndarray, 'n h w c']:
  """Pictures at other places, between four pixels; 0 outside."""
  n, h, w, c = pictures.shape
  flat = np.pad(pictures, ((0, 0), (1, 2), (1, 2), (0, 0))).reshape(-1, c)
  y = np.clip(source[:, 0] + 1, 0, h + 1)
  x = np.clip(source[:, 1] + 1, 0, w + 1)
  i, j = y.astype(np.int32), x.astype(np.int32)
  y, x = (y - i)[..., None], (x - j)[..., None]
  picture = np.arange(n, dtype=np.int32)[:, None, None] * (h + 3)
  at = (picture + i) * (w + 3) + j
  above, below = ((1 - x) * flat[k] + x * flat[k + 1] for k in (at, at + w + 3))
  return (1 - y) * above + y * below
