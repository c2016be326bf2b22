"""The unit cube of a random space as arrays, so that studies run in batches.

A point is float32 [d] in [0, 1]. A real parameter takes any value; a listed one
with n values owns n cells of equal width and takes their middles, as in
`hpo.spaces`.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from hpo import spaces

__all__ = ['Cube']


@flax.struct.dataclass
class Cube:
  """The d parameters as an algorithm sees them; may be stacked and mapped over.

  Attributes:
    counts: int32 [d], the number of values; 0: a real parameter.
    ordered: bool [d], whether near places of the cube mean near values.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  counts: Any
  ordered: Any

  @classmethod
  def of(cls, space: spaces.Space) -> 'Cube':
    """What algorithms know of a space.

    Raises:
      ValueError: whole numbers are not equally far apart.
    """
    counts = []
    for p in space.parameters:
      if isinstance(p, spaces.Int) and p.scale != 'LINEAR':
        raise ValueError(f'whole numbers must be LINEAR here, got {p}')
      if isinstance(p, spaces.Float):
        counts.append(0)
      else:
        is_whole = isinstance(p, spaces.Int)
        counts.append(p.high - p.low + 1 if is_whole else len(p.values))
    ordered = [not isinstance(p, spaces.Categorical) for p in space.parameters]
    return cls(jnp.array(counts, jnp.int32), jnp.array(ordered))

  @property
  def is_real(self) -> Array:
    """Which parameters are real numbers, bool [d]."""
    return self.counts == 0

  def snap(self, places: Float[Array, '*n d']) -> Float[Array, '*n d']:
    """The nearest legal points to places in [0, 1]."""
    cells = jnp.maximum(self.counts, 1)
    middles = (self.indices(places) + 0.5) / cells
    return jnp.where(self.is_real, places, middles)

  def indices(self, points: Float[Array, '*n d']) -> Int[Array, '*n d']:
    """The cells of points; of a real parameter, 0."""
    cells = jnp.maximum(self.counts, 1)
    return jnp.clip(jnp.int32(points * cells), 0, cells - 1)

  def uniform(
    self, key: Key[Array, ''], shape: tuple[int, ...] = ()
  ) -> Float[Array, '*n d']:
    """Uniform points."""
    width = self.counts.shape[-1]
    return self.snap(jax.random.uniform(key, (*shape, width)))

  def squared_gaps(
    self, x: Float[Array, '... d'], y: Float[Array, '... d']
  ) -> Float[Array, '... d']:
    """Squared distances by parameter; 0 or 1 where there is no order."""
    return jnp.where(self.ordered, (x - y) ** 2, x != y)
