"""Changes of small pictures that should not change what an agent does.

An augmentation is a function of a key and one picture [h, w, c], of any dtype that
pictures come in; the result has the same shape, dtype and range.

References: Raileanu et al. (2020), arXiv:2006.12862, Appendix; Laskin et al. (2020),
  arXiv:2004.14990.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

__all__ = [
  'Augmentation',
  'color_jitter',
  'crop',
  'cutout',
  'flip',
  'grayscale',
  'identity',
  'rotate',
]

Picture = Shaped[Array, 'h w c']
Augmentation = Callable[[Key[Array, ''], Picture], Picture]


def _unit(picture: Picture) -> Float[Array, 'h w c']:
  """In [0, 1]."""
  largest = 255 if picture.dtype == jnp.uint8 else 1
  return picture.astype(jnp.float32) / largest


def _like(unit: Float[Array, 'h w c'], picture: Picture) -> Picture:
  """Numbers in [0, 1] as the picture has them."""
  unit = jnp.clip(unit, 0, 1)
  if picture.dtype == jnp.uint8:
    return jnp.round(255 * unit).astype(jnp.uint8)
  return unit.astype(picture.dtype)


def identity(key: Key[Array, ''], picture: Picture) -> Picture:
  """The picture itself: an arm without augmentation."""
  del key
  return picture


def crop(key: Key[Array, ''], picture: Picture) -> Picture:
  """Shifts by up to an eighth of each side, at least one pixel.

  The picture is continued by its edge, and a window of its size is drawn.
  """
  height, width, channels = picture.shape
  most = max(1, height // 8), max(1, width // 8)
  wide = jnp.pad(picture, [(m, m) for m in most] + [(0, 0)], 'edge')
  corner = [
    jax.random.randint(k, (), 0, 2 * m + 1)
    for k, m in zip(jax.random.split(key), most, strict=True)
  ]
  return jax.lax.dynamic_slice(wide, (*corner, 0), (height, width, channels))


def cutout(key: Key[Array, ''], picture: Picture) -> Picture:
  """Covers a rectangle by one random colour; a quarter to a half of each side."""
  height, width, channels = picture.shape
  color_key, *keys = jax.random.split(key, 5)
  inside = []
  for size, k, j in ((height, *keys[:2]), (width, *keys[2:])):
    length = jax.random.randint(k, (), max(1, size // 4), size // 2 + 1)
    start = jax.random.randint(j, (), 0, size - length + 1)
    place = jnp.arange(size)
    inside.append((place >= start) & (place < start + length))
  mask = (inside[0][:, None] & inside[1])[..., None]
  color = jax.random.uniform(color_key, (channels,))
  return _like(jnp.where(mask, color, _unit(picture)), picture)


def color_jitter(key: Key[Array, ''], picture: Picture) -> Picture:
  """Changes contrast and adds a colour.

  Differences from the mean colour are multiplied by U(0.6, 1.4), and each channel
  is shifted by U(-0.3, 0.3).
  """
  contrast_key, shift_key = jax.random.split(key)
  x = _unit(picture)
  mean = jnp.mean(x, (0, 1), keepdims=True)
  contrast = jax.random.uniform(contrast_key, minval=0.6, maxval=1.4)
  shift = jax.random.uniform(shift_key, (x.shape[-1],), minval=-0.3, maxval=0.3)
  return _like(mean + contrast * (x - mean) + shift, picture)


def grayscale(key: Key[Array, ''], picture: Picture) -> Picture:
  """The mean over the channels, in all of them."""
  del key
  mean = jnp.mean(_unit(picture), -1, keepdims=True)
  return _like(jnp.broadcast_to(mean, picture.shape), picture)


def flip(key: Key[Array, ''], picture: Picture) -> Picture:
  """Mirrors left and right."""
  del key
  return picture[:, ::-1]


def rotate(key: Key[Array, ''], picture: Picture) -> Picture:
  """Turns a square picture by 90, 180 or 270 degrees."""
  turns = jax.random.randint(key, (), 0, 3)
  turned = jnp.stack([jnp.rot90(picture, k) for k in (1, 2, 3)])
  return turned[turns]
