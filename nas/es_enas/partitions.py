"""Chromatic networks: edges of one colour have the same weight.

Source: arXiv:1907.06511.
"""

import dataclasses

import numpy as np
from jaxtyping import Array, Int

from nas.es_enas import sharing as sharing_lib
from nas.es_enas import space as space_lib
from rl import ranges
from runtime import seeds

__all__ = ['Partition', 'RandomPartition']


@dataclasses.dataclass(frozen=True)
class Partition(sharing_lib.Sharing):
  """Colours that a controller chooses.

  Attributes:
    colors: number of colours.
    per_layer: whether each matrix has weights of its own for these colours;
      else all matrices share them.

  Raises:
    ValueError: if the number is not positive.
  """

  colors: int
  per_layer: bool = False

  def __post_init__(self) -> None:
    ranges.check_counts(colors=self.colors)

  def groups(self, shapes: sharing_lib.Shapes) -> tuple[space_lib.Group, ...]:
    """A colour of every edge."""
    edges = sharing_lib.num_edges(shapes)
    return (space_lib.Choices('colors', edges, self.colors),)

  def entries(self, shapes: sharing_lib.Shapes) -> int:
    """A weight of every colour."""
    return self.colors * (len(shapes) if self.per_layer else 1)

  def indices(
    self, shapes: sharing_lib.Shapes, parts: sharing_lib.Parts
  ) -> Int[Array, ' E']:
    """The colours, counted on from matrix to matrix if these do not share."""
    if not self.per_layer:
      return parts['colors']
    edges = [rows * columns for rows, columns in shapes]
    first = self.colors * np.arange(len(shapes))
    return parts['colors'] + np.repeat(first, edges)

  def index_bits(self, shapes: sharing_lib.Shapes) -> int:
    """The colour of every edge: E ceil(log2 colors)."""
    return sharing_lib.num_edges(shapes) * (self.colors - 1).bit_length()


@dataclasses.dataclass(frozen=True)
class RandomPartition(sharing_lib.Sharing):
  """Colours drawn once: the baseline of a learned partition.

  Every colour is given to one edge first, then the other edges draw theirs
  uniformly; so no weight is without an edge.

  Attributes:
    colors: K.
    seed: of the draw.

  Raises:
    ValueError: if a number is out of range, or there are fewer edges than
      colours.
  """

  colors: int
  seed: int = 0

  def __post_init__(self) -> None:
    ranges.check_counts(colors=self.colors)
    seeds.check(self.seed)

  def entries(self, shapes: sharing_lib.Shapes) -> int:
    """K."""
    edges = sharing_lib.num_edges(shapes)
    if self.colors > edges:
      raise ValueError(
        f'there must be an edge for every color, got colors={self.colors} and '
        f'{edges} edges'
      )
    return self.colors

  def indices(
    self, shapes: sharing_lib.Shapes, parts: sharing_lib.Parts
  ) -> np.ndarray:
    """The same at every call."""
    del parts
    rng = np.random.default_rng(self.seed)
    others = sharing_lib.num_edges(shapes) - self.entries(shapes)
    drawn = rng.integers(self.colors, size=others)
    return rng.permutation(np.append(np.arange(self.colors), drawn))

  def index_bits(self, shapes: sharing_lib.Shapes) -> int:
    """Of the colours, as if they were learned; their seed would do as well."""
    return sharing_lib.num_edges(shapes) * (self.colors - 1).bit_length()
