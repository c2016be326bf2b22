"""Members that are parameters with an architecture."""

from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, PyTree

from nas.es_enas import space as space_lib
from rl.es import population as population_lib

__all__ = ['WithArchitectures', 'packed']


def packed(
  space: space_lib.Space, architectures: Int[Array, '... D']
) -> Integer[Array, '... D']:
  """In the smallest unsigned integers that hold the space: a byte, mostly.

  A worker is sent theta, a key and these: the parameters of the members, which
  are many more numbers, are drawn where they are needed.
  """
  most = int(max(space.options, default=1)) - 1
  return architectures.astype(np.min_scalar_type(most))


@flax.struct.dataclass
class WithArchitectures:
  """A population of `rl.es` whose members have architectures.

  It is a `population.Directed` if the inner one is. A member is the pair (theta,
  architecture), the latter int32 [D].

  Attributes:
    inner: the population of parameters.
    architectures: integers [n, D], shared by the members of a row, or [n, sides,
      D]; rows past the last one repeat it.
  """

  inner: Any
  # Not annotated by shape: transformations put other things into the leaves.
  architectures: Any

  @property
  def size(self) -> int:
    """See `population.Population`: parameters, without the architecture."""
    return self.inner.size

  @property
  def sides(self) -> int:
    """See `population.Population`."""
    return self.inner.sides

  @property
  def rows(self) -> int | None:
    """See `population.Population`."""
    return self.inner.rows

  @property
  def rows_per_block(self) -> int:
    """See `population.Population`."""
    return self.inner.rows_per_block

  def members(self, start: Int[Array, ''] | int, *, count: int) -> PyTree:
    """See `population.Population`; theta [sides, count, d] and [sides, count, D]."""
    index = start + jnp.arange(count)
    chosen = jnp.asarray(self.architectures).at[index].get(mode='clip')
    chosen = chosen.astype(jnp.int32)
    sides = (
      jnp.broadcast_to(chosen, (self.sides, *chosen.shape))
      if chosen.ndim == 2
      else jnp.moveaxis(chosen, 1, 0)
    )
    return self.inner.members(start, count=count), sides

  def gradient(self, weights: Float[Array, ' n']) -> Float[Array, ' k']:
    """See `population.Directed`."""
    return self.inner.gradient(weights)

  def keep(self, count: int) -> 'WithArchitectures':
    """See `population.Directed`; nothing to keep where there are no directions."""
    if not isinstance(self.inner, population_lib.Directed):
      return self
    return self.replace(inner=self.inner.keep(count))

  def in_order(self) -> Int[Array, 'p D']:
    """All architectures, in the order of an `evaluator.Evaluation`."""
    chosen = jnp.asarray(self.architectures).astype(jnp.int32)
    if chosen.ndim == 2:
      return jnp.tile(chosen, (self.sides, 1))
    return jnp.concatenate(jnp.moveaxis(chosen, 1, 0))
