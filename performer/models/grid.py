"""Transformers of pictures, whose positions are places in a grid.

A token has a code for its row, one for its column, and one for its channel;
their sum takes the place of the code of its position.

Reference: arXiv:2009.14794, section 4.5 (ImageNet64: rows of 64 pixels of three
channels, 12,288 tokens); arXiv:1802.05751, section 3.2.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.models import transformer

__all__ = ['GridTransformer', 'outer_sum']


class GridTransformer(transformer.Transformer, kw_only=True):
  """A Transformer with a code for each axis; further attributes than there.

  Attributes:
    grid: size of each axis, the slowest first, such as (64, 64, 3); their
      product is `max_length`.

  Raises:
    ValueError: as `Transformer`; if the axes do not make up the length.
  """

  grid: tuple[int, ...]

  def __post_init__(self) -> None:
    if min(self.grid, default=0) < 1 or math.prod(self.grid) != self.max_length:
      raise ValueError(
        'the axes of the grid must make up the length, '
        f'got {self.grid=} {self.max_length=}'
      )
    super().__post_init__()

  def _codes(self) -> Float[Array, 'n e']:
    return outer_sum(
      [self._table(f'positions_{i}', size) for i, size in enumerate(self.grid)]
    )


def outer_sum(tables: Sequence[Float[Array, '_ e']]) -> Float[Array, 'n e']:
  """The sums of one code of each axis, the last axis running fastest."""
  codes = jnp.zeros((1, tables[0].shape[1]))
  for table in tables:
    codes = (codes[:, None] + table).reshape(-1, table.shape[1])
  return codes
