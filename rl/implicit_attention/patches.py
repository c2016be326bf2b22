"""Patches of a picture, and their projections, which never copy a patch.

A patch is a square of `size` pixels; the next begins `stride` pixels further.
There is no padding: rows and columns that are left at the end are not seen.
Patch number i lies in row i // columns of patches and column i % columns.

Letters: h, w, c height, width and channels of a picture, p size and t stride
of patches, l patches, d outputs.

Reference: arXiv:2003.08165, Section 3; arXiv:2102.04353.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rl import ranges

__all__ = ['Patches']

# Sums of shifted products beat a convolution as long as few of them overlap.
_MOST_SHIFTS = 9


@dataclasses.dataclass(frozen=True)
class Patches:
  """Where the patches of a picture are.

  Attributes:
    size: p, pixels along each side; 1 makes each pixel a patch.
    stride: t, pixels from one patch to the next.

  Raises:
    ValueError: if a number is not positive.
  """

  size: int = 7
  stride: int = 4

  def __post_init__(self) -> None:
    ranges.check_counts(size=self.size, stride=self.stride)

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches.

    Args:
      height: of the picture, in pixels.
      width: of the picture, in pixels.

    Raises:
      ValueError: if not even one patch fits.
    """
    if min(height, width) < self.size:
      raise ValueError(
        f'a picture must hold a patch, got {height=} {width=} {self.size=}'
      )
    return tuple((n - self.size) // self.stride + 1 for n in (height, width))

  def centers(self, height: int, width: int) -> Int[np.ndarray, 'l 2']:
    """Row and column of the pixel in the middle of each patch."""
    rows, columns = (np.arange(n) for n in self.grid(height, width))
    places = np.stack(np.meshgrid(rows, columns, indexing='ij'), axis=-1)
    return self.size // 2 + self.stride * places.reshape(-1, 2)

  def project(
    self,
    picture: Float[Array, 'h w c'],
    kernel: Float[Array, 'p p c d'],
  ) -> Float[Array, 'd l']:
    """Products of all patches with a kernel: a strided convolution.

    Patches come last: there are many more of them than outputs, and loops over
    the last axis are the fast ones.

    The picture is cut into squares of t pixels, which do not overlap; a patch
    is a few neighbouring squares, and its product the sum of theirs. So memory
    is that of the picture, however much patches overlap, and under `vmap` over
    pictures and kernels all of it stays matrix products.

    Args:
      picture: floats.
      kernel: its rows, columns and channels, for each output.
    """
    rows, columns = self.grid(*picture.shape[:2])
    across = -(-self.size // self.stride)
    if across**2 > _MOST_SHIFTS:
      out = jax.lax.conv_general_dilated(
        picture[None],
        kernel,
        (self.stride, self.stride),
        'VALID',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      return out.reshape(rows * columns, -1).T
    squares = _squares(
      picture, self.stride, rows + across - 1, columns + across - 1
    )
    side = across * self.stride
    whole = jnp.pad(kernel, [(0, side - self.size)] * 2 + [(0, 0)] * 2)
    parts = whole.reshape(
      across, self.stride, across, self.stride, *kernel.shape[2:]
    )
    parts = parts.transpose(0, 2, 1, 3, 4, 5)
    parts = parts.reshape(across, across, -1, kernel.shape[-1])
    out = 0.0
    for i in range(across):
      for j in range(across):
        seen = squares[i : i + rows, j : j + columns]
        out += parts[i, j].T @ seen.reshape(rows * columns, -1).T
    return out

  def means(
    self, picture: Float[Array, 'h w c'], index: Int[Array, ' k']
  ) -> Float[Array, 'k c']:
    """Mean colours of some patches.

    Args:
      picture: floats.
      index: numbers of patches.
    """
    columns = self.grid(*picture.shape[:2])[1]
    corners = jnp.stack([index // columns, index % columns], axis=1)

    def mean(corner: Int[Array, ' 2']) -> Float[Array, ' c']:
      start = (*(corner * self.stride), 0)
      shape = (self.size, self.size, picture.shape[2])
      return jax.lax.dynamic_slice(picture, start, shape).mean((0, 1))

    return jax.vmap(mean)(corners)


def _squares(
  picture: Float[Array, 'h w c'], side: int, rows: int, columns: int
) -> Float[Array, 'r s e']:
  """Squares without overlap; what lies beyond the picture is 0."""
  height, width, channels = picture.shape
  picture = picture[: rows * side, : columns * side]
  short = (rows * side - height, columns * side - width)
  picture = jnp.pad(picture, [(0, max(n, 0)) for n in short] + [(0, 0)])
  cut = picture.reshape(rows, side, columns, side, channels)
  return cut.transpose(0, 2, 1, 3, 4).reshape(rows, columns, -1)
