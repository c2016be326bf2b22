"""Who runs the rollouts: one interface for every back end.

A strategy does not send its population but what regenerates it: theta, sigma,
a key and how directions are drawn. A worker draws the rows it is asked for
(`members`), so a task is some bytes, however many parameters there are.
"""

import math
from typing import Any, Protocol, runtime_checkable

import flax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rl import normalizer as normalizer_lib
from rl.es import directions as directions_lib
from rl.es import geometry as geometry_lib

__all__ = [
  'CACHE_BYTES',
  'Evaluation',
  'Evaluator',
  'Perturbations',
  'members',
  'rows_in_cache',
]

# Members are worked on in groups of about this size: the second-level cache of a
# core. Between a quarter and twice of it, times differed by 15 % at most.
CACHE_BYTES = 2**21


@flax.struct.dataclass
class Perturbations:
  """A population around theta, without its members.

  Attributes:
    theta: parameters, float32 [d].
    sigma: scale of the perturbations, float32 scalar.
    key: from which all directions are regenerated.
    basis: U [d, k] for guided directions, else None.
    directions: their distribution.
    mirrored: whether members are theta + sigma g_i and theta - sigma g_i, or
      only the first.
    geometry: what it means to perturb theta.
    kept: the directions, of `directions.keep`, inside of one program; None:
      they are regenerated. Never to be sent.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  theta: Any
  sigma: Any
  key: Any
  basis: Any = None
  kept: Any = None
  directions: directions_lib.Directions = flax.struct.field(
    pytree_node=False, default=directions_lib.Directions()
  )
  mirrored: bool = flax.struct.field(pytree_node=False, default=True)
  geometry: geometry_lib.Geometry = flax.struct.field(
    pytree_node=False, default=geometry_lib.EUCLIDEAN
  )

  @property
  def size(self) -> int:
    """Coordinates of a direction."""
    return self.geometry.size(self.theta.shape[0])


@flax.struct.dataclass
class Evaluation:
  """What came back of p members.

  Attributes:
    returns: [p]; undiscounted, the mean over a member's episodes. Any value
      where not valid. Of `Perturbations`: first the n of theta + sigma g_i,
      then the n of theta - sigma g_i, in the order of i.
    lengths: steps spent on the member, int32 [p], summed over its episodes.
    statistics: of all observations of the valid members, those at resets and
      at ends included; None if observations are not normalised.
    valid: bool [p]; False for members that were lost, or whose return is not
      finite: a simulation that broke says nothing, and must not break the
      others' update.
  """

  returns: Any
  lengths: Any
  statistics: Any
  valid: Any


@runtime_checkable
class Evaluator(Protocol):
  """Runs episodes for members of a population.

  Attributes:
    pure: whether `evaluate` may be traced.
    observation_shape: of one observation.
  """

  pure: bool

  @property
  def observation_shape(self) -> tuple[int, ...]:
    """Shape of what the normaliser counts."""
    ...

  def evaluate(
    self,
    candidates: Perturbations | Float[Array, 'n d'],
    keys: Key[Array, ' n'],
    normalizer: normalizer_lib.Statistics | None,
  ) -> Evaluation:
    """Runs all episodes.

    Args:
      candidates: a population of n (pairs of) members, or n thetas.
      keys: of the environments, one per pair or theta. Both members of a pair
        get the same one (common random numbers): an even return gives a
        difference of exactly 0.
      normalizer: what observations are normalised with, unchanged during the
        evaluation; None: they are not.

    Returns:
      The returns, which depend neither on how many workers there are nor on
      which of them finished first.
    """
    ...


def members(
  population: Perturbations, start: Int[Array, ''] | int, *, count: int
) -> Float[Array, 'sides count d']:
  """Regenerates the members of the directions start, ..., start + count - 1.

  Args:
    population: what to perturb and how.
    start: as in `directions.rows`.
    count: as in `directions.rows`.

  Returns:
    theta + sigma g_i, in the sense of the geometry; if mirrored, then
    theta - sigma g_i.
  """
  if population.kept is None:
    drawn = directions_lib.rows(
      population.directions,
      population.key,
      start,
      count=count,
      size=population.size,
      basis=population.basis,
    )
  else:
    # Indices past the end, which fill up the last block, repeat the last row.
    drawn = population.kept.at[start + jnp.arange(count)].get(mode='clip')
  step = population.sigma * drawn
  perturb = population.geometry.perturb
  sides = [perturb(population.theta, step)]
  if population.mirrored:
    sides.append(perturb(population.theta, -step))
  return jnp.stack(sides)


def rows_in_cache(size: int, cache_bytes: int = CACHE_BYTES) -> int:
  """The largest power of two of float32 rows of a size that fit, at least 1.

  Args:
    size: numbers per row.
    cache_bytes: what they should fit into.

  Returns:
    A power of two.
  """
  return 2 ** max(0, int(math.log2(max(1, cache_bytes // (4 * size)))))
