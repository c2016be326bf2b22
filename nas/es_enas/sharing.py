"""How the edges of a network share weights.

A rule gives every candidate edge e an index into a table w of K weights. The
weight of the edge is concat(w, 0)[index_e]; so index K means that the edge is
absent. All rules are this one gather, so policies of different architectures
are one batched product.

Letters: E edges, K entries of the table. Edges are numbered matrix by matrix,
and row by row within a matrix W [fan in, fan out], of y = x W.

Source: arXiv:2101.07415; arXiv:1907.06511.
"""

import abc
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nas.es_enas import space as space_lib

__all__ = [
  'Circulant',
  'Dense',
  'Parts',
  'Shapes',
  'Sharing',
  'Toeplitz',
  'num_edges',
]

Shapes = tuple[tuple[int, int], ...]
Parts = Mapping[str, Array]


class Sharing(abc.ABC):
  """A rule of sharing; frozen and hashable.

  Arguments that all methods share:
    shapes: (fan in, fan out) of the matrices whose entries are the edges.
    parts: the decisions of an architecture by group, of `Space.parts`; those of
      other groups are not looked at.
  """

  @abc.abstractmethod
  def entries(self, shapes: Shapes) -> int:
    """K, the number of parameters in the table."""

  @abc.abstractmethod
  def indices(
    self, shapes: Shapes, parts: Parts
  ) -> Int[Array | np.ndarray, ' E']:
    """The entry of every edge, in [0, K]; K where the edge is absent."""

  def groups(self, shapes: Shapes) -> tuple[space_lib.Group, ...]:
    """The decisions that the rule leaves to a controller."""
    del shapes
    return ()

  def init(
    self, key: Key[Array, ''], shapes: Shapes, scale: float
  ) -> Float[Array, ' K']:
    """First table, from N(0, scale^2)."""
    return scale * jax.random.normal(key, (self.entries(shapes),))

  def weights(
    self, table: Float[Array, ' K'], shapes: Shapes, parts: Parts
  ) -> Float[Array, ' E']:
    """The weight of every edge; 0 where it is absent."""
    indices = jnp.asarray(self.indices(shapes, parts))
    return jnp.append(table, 0).at[indices].get(mode='clip')

  def stored(self, shapes: Shapes, parts: Parts) -> int | Int[Array, '']:
    """Number of weights that have to be stored to run the policy."""
    del parts
    return self.entries(shapes)

  def index_bits(self, shapes: Shapes) -> int:
    """Number of bits that tell which edge has which weight."""
    del shapes
    return 0

  def sparsity(
    self, table: Float[Array, ' K'], shapes: Shapes, parts: Parts
  ) -> Float[Array, '']:
    """Share of the edges that are absent."""
    del table
    absent = self.indices(shapes, parts) == self.entries(shapes)
    return jnp.mean(absent, dtype=jnp.float32)


def num_edges(shapes: Shapes) -> int:
  """E, the number of entries of all matrices."""
  return sum(rows * columns for rows, columns in shapes)


@dataclasses.dataclass(frozen=True)
class Dense(Sharing):
  """A weight for every edge: the unstructured network."""

  def entries(self, shapes: Shapes) -> int:
    """E."""
    return num_edges(shapes)

  def indices(self, shapes: Shapes, parts: Parts) -> np.ndarray:
    """The edges' own numbers."""
    del parts
    return np.arange(num_edges(shapes))

  def weights(
    self, table: Float[Array, ' K'], shapes: Shapes, parts: Parts
  ) -> Float[Array, ' E']:
    """The table: no gather is needed."""
    del shapes, parts
    return table


class _Diagonals(Sharing):
  """One weight for every diagonal of a matrix, or several of them."""

  @abc.abstractmethod
  def _size(self, fan_in: int, fan_out: int) -> int:
    """Number of weights of one matrix."""

  def _diagonal(self, fan_in: int, fan_out: int) -> np.ndarray:
    """I - j for input j and output i, [fan in, fan out]."""
    return np.arange(fan_out) - np.arange(fan_in)[:, None]

  @abc.abstractmethod
  def _index(self, fan_in: int, fan_out: int) -> np.ndarray:
    """The weight of every edge of one matrix, [fan in, fan out]."""

  def entries(self, shapes: Shapes) -> int:
    """The weights of all matrices."""
    return sum(self._size(*shape) for shape in shapes)

  def indices(self, shapes: Shapes, parts: Parts) -> np.ndarray:
    """Matrix by matrix, each with weights of its own."""
    del parts
    sizes = [self._size(*shape) for shape in shapes]
    starts = np.cumsum([0, *sizes[:-1]])
    found = [
      start + self._index(*shape).reshape(-1)
      for start, shape in zip(starts, shapes, strict=True)
    ]
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True)
class Toeplitz(_Diagonals):
  """Equal weights along diagonals: fan in + fan out - 1 of a matrix."""

  def _size(self, fan_in: int, fan_out: int) -> int:
    return fan_in + fan_out - 1

  def _index(self, fan_in: int, fan_out: int) -> np.ndarray:
    return self._diagonal(fan_in, fan_out) + fan_in - 1


@dataclasses.dataclass(frozen=True)
class Circulant(_Diagonals):
  """A corner of a circulant n x n matrix, n the larger of the fans."""

  def _size(self, fan_in: int, fan_out: int) -> int:
    return max(fan_in, fan_out)

  def _index(self, fan_in: int, fan_out: int) -> np.ndarray:
    return self._diagonal(fan_in, fan_out) % max(fan_in, fan_out)
