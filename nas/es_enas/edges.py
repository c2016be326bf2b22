"""Networks of a part of the edges: chosen by a controller or by learned masks.

Source: arXiv:2101.07415; arXiv:1907.06511 for the learned masks.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nas.es_enas import sharing as sharing_lib
from nas.es_enas import space as space_lib
from rl import ranges

__all__ = ['Mask', 'Masked', 'Pruned']


class _Chosen(sharing_lib.Sharing):
  """A weight for every edge, of which those of absent edges are not used."""

  @abc.abstractmethod
  def kept(
    self, shapes: sharing_lib.Shapes, parts: sharing_lib.Parts
  ) -> Bool[Array, ' E']:
    """Which edges are there."""

  def entries(self, shapes: sharing_lib.Shapes) -> int:
    """E."""
    return sharing_lib.num_edges(shapes)

  def indices(
    self, shapes: sharing_lib.Shapes, parts: sharing_lib.Parts
  ) -> Int[Array, ' E']:
    """The edges' own numbers, where they are there."""
    edges = sharing_lib.num_edges(shapes)
    return jnp.where(self.kept(shapes, parts), jnp.arange(edges), edges)

  def weights(
    self,
    table: Float[Array, ' K'],
    shapes: sharing_lib.Shapes,
    parts: sharing_lib.Parts,
  ) -> Float[Array, ' E']:
    """The table, with zeros: no gather is needed."""
    return jnp.where(self.kept(shapes, parts), table, 0)

  def stored(
    self, shapes: sharing_lib.Shapes, parts: sharing_lib.Parts
  ) -> Int[Array, '']:
    """The weights of the edges that are there."""
    return jnp.sum(self.kept(shapes, parts), dtype=jnp.int32)

  def index_bits(self, shapes: sharing_lib.Shapes) -> int:
    """A bit for every edge."""
    return sharing_lib.num_edges(shapes)


@dataclasses.dataclass(frozen=True)
class Pruned(_Chosen):
  """A fixed number of edges.

  Attributes:
    edges: number of edges; of all matrices together ("aggregate"), or a tuple
      with the number of each matrix ("independent").

  Raises:
    ValueError: if a number is not positive, there are not as many edges, or not
      as many numbers as matrices.
  """

  edges: int | tuple[int, ...]

  def __post_init__(self) -> None:
    ranges.check_counts(edges=self.edges)

  def groups(self, shapes: sharing_lib.Shapes) -> tuple[space_lib.Group, ...]:
    """A subset of all edges, or one of each matrix."""
    if isinstance(self.edges, int):
      edges = sharing_lib.num_edges(shapes)
      return (space_lib.Subset('edges', self.edges, edges),)
    if len(self.edges) != len(shapes):
      raise ValueError(
        f'edges must have a number per matrix, got {self.edges} for the '
        f'matrices {shapes}'
      )
    return tuple(
      space_lib.Subset(f'edges_{i}', count, rows * columns)
      for i, (count, (rows, columns)) in enumerate(
        zip(self.edges, shapes, strict=True)
      )
    )

  def kept(
    self, shapes: sharing_lib.Shapes, parts: sharing_lib.Parts
  ) -> Bool[Array, ' E']:
    """The union of the subsets."""
    groups = self.groups(shapes)
    return jnp.concatenate([g.chosen(parts[g.name]) for g in groups])


@dataclasses.dataclass(frozen=True)
class Mask(_Chosen):
  """Any number of edges, a bit each; for scores that weigh costs."""

  def groups(self, shapes: sharing_lib.Shapes) -> tuple[space_lib.Group, ...]:
    """1 for an edge that is there, else 0."""
    return (space_lib.Choices('mask', sharing_lib.num_edges(shapes), 2),)

  def kept(
    self, shapes: sharing_lib.Shapes, parts: sharing_lib.Parts
  ) -> Bool[Array, ' E']:
    """The bits."""
    del shapes
    return parts['mask'] == 1


@dataclasses.dataclass(frozen=True)
class Masked(sharing_lib.Sharing):
  """The baseline of learned masks: edges weigh W sigmoid(S / temperature).

  The table is W, then S: 2 E numbers, which evolution strategies learn together
  for `scores.Mixed`. The effective weights are E numbers, and no edge is absent
  before `policies.thresholded`.

  Attributes:
    temperature: tau.

  Raises:
    ValueError: if the temperature is not positive.
  """

  temperature: float = 1.0

  def __post_init__(self) -> None:
    ranges.check_positive(temperature=self.temperature)

  def entries(self, shapes: sharing_lib.Shapes) -> int:
    """2 E."""
    return 2 * sharing_lib.num_edges(shapes)

  def indices(
    self, shapes: sharing_lib.Shapes, parts: sharing_lib.Parts
  ) -> Int[np.ndarray, ' E']:
    """The edges' own numbers, in W."""
    return sharing_lib.Dense().indices(shapes, parts)

  def init(
    self, key: Key[Array, ''], shapes: sharing_lib.Shapes, scale: float
  ) -> Float[Array, ' K']:
    """W from N(0, scale^2), and S = 0: all masks are 1/2."""
    weights = sharing_lib.Dense().init(key, shapes, scale)
    return jnp.concatenate([weights, jnp.zeros_like(weights)])

  def weights(
    self,
    table: Float[Array, ' K'],
    shapes: sharing_lib.Shapes,
    parts: sharing_lib.Parts,
  ) -> Float[Array, ' E']:
    """Masked by sigmoid(S / temperature)."""
    del parts
    return table[: sharing_lib.num_edges(shapes)] * self._masks(table, shapes)

  def stored(self, shapes: sharing_lib.Shapes, parts: sharing_lib.Parts) -> int:
    """E: masks need not be stored apart from the weights."""
    del parts
    return sharing_lib.num_edges(shapes)

  def sparsity(
    self,
    table: Float[Array, ' K'],
    shapes: sharing_lib.Shapes,
    parts: sharing_lib.Parts,
  ) -> Float[Array, '']:
    """1 less the mean of the masks: the share of zeros if masks were drawn."""
    del parts
    return 1 - jnp.mean(self._masks(table, shapes))

  def _masks(
    self, table: Float[Array, ' K'], shapes: sharing_lib.Shapes
  ) -> Float[Array, ' E']:
    logits = table[sharing_lib.num_edges(shapes) :]
    return jax.nn.sigmoid(logits / self.temperature)
