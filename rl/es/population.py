"""Populations: the members of a generation, and how to draw them.

A search does not send its members, but the data that regenerate them: theta,
sigma, a key and the distribution of directions. Each evaluator draws the rows
it works on, so a task is a few bytes for any number of parameters.

A row is one direction with all its members: theta + sigma g, and theta - sigma g
where directions are mirrored. The members of a row meet the same environment. A
member is what `policies.Policy.unravel` takes: theta alone, or theta with an
architecture. Evaluators know a population by this protocol only, so one whose
members carry more than theta is served by all of them.
"""

import math
from typing import Any, Protocol, runtime_checkable

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from rl.es import directions as directions_lib
from rl.es import geometry as geometry_lib

__all__ = [
  'CACHE_BYTES',
  'Directed',
  'Listed',
  'Perturbations',
  'Population',
  'Repeated',
  'all_members',
  'check_rows',
  'check_size',
  'rows_in_cache',
]

# Members are worked on in groups of about this size: the second-level cache of a
# core. Between a quarter and twice of it, times differed by 15 % at most.
CACHE_BYTES = 2**21


@runtime_checkable
class Population(Protocol):
  """Members in rows; a pytree, whose leaves are all that is sent to a worker.

  Row i depends on the population and on i alone: not on how many rows are drawn
  at once, nor on where.
  """

  @property
  def size(self) -> int:
    """Number of parameters of a member and of its policy."""
    ...

  @property
  def sides(self) -> int:
    """Members of a row: 2 where directions are mirrored, else 1."""
    ...

  @property
  def rows(self) -> int | None:
    """Number of rows; None: as many as are asked for."""
    ...

  @property
  def rows_per_block(self) -> int:
    """A power of two; so many rows, or a multiple, must be drawn together."""
    ...

  def members(self, start: Int[Array, ''] | int, *, count: int) -> PyTree:
    """Draws the rows start, ..., start + count - 1.

    Args:
      start: a multiple of `count` or of `rows_per_block`; may be traced.
      count: static. Rows past the last one may be drawn; they hold anything.

    Returns:
      Members, leaves [sides, count, ...].
    """
    ...


@runtime_checkable
class Directed(Population, Protocol):
  """A population around theta, whose returns give a gradient."""

  def gradient(self, weights: Float[Array, ' n']) -> Float[Array, ' k']:
    """Adds the directions up.

    Args:
      weights: one per row, of `estimators.Estimator.weights`.

    Returns:
      sum_i weights_i g_i, in the coordinates of the geometry.
    """
    ...

  def keep(self, count: int) -> 'Directed':
    """With its directions, if `count` of them are few enough to be kept.

    Then `members` and `gradient` of one program draw them once. Never to be
    sent.
    """
    ...


@flax.struct.dataclass
class Perturbations:
  """Perturbations of one theta; a `Directed`.

  Attributes:
    theta: parameters, float32 [d].
    sigma: scale of the perturbations, float32 scalar.
    key: from which all directions are regenerated.
    basis: U [d, k] for guided directions, else None.
    kept: the directions, of `keep`; None: they are regenerated.
    directions: their distribution.
    mirrored: whether members are theta + sigma g_i and theta - sigma g_i, or
      only the first.
    geometry: defines how theta is perturbed.
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
  rows = None

  @property
  def size(self) -> int:
    """See `Population`."""
    return self.theta.shape[0]

  @property
  def sides(self) -> int:
    """See `Population`."""
    return 1 + self.mirrored

  @property
  def coordinates(self) -> int:
    """Numbers of a direction."""
    return self.geometry.size(self.size)

  @property
  def rows_per_block(self) -> int:
    """See `Population`."""
    return self.directions.rows_per_block(self.coordinates)

  def members(
    self, start: Int[Array, ''] | int, *, count: int
  ) -> Float[Array, 'sides count d']:
    """See `Population`; perturbed in the sense of the geometry."""
    if self.kept is None:
      drawn = directions_lib.rows(
        self.directions,
        self.key,
        start,
        count=count,
        size=self.coordinates,
        basis=self.basis,
      )
    else:
      # Indices past the end, which fill up the last block, repeat the last row.
      drawn = self.kept.at[start + jnp.arange(count)].get(mode='clip')
    step = self.sigma * drawn
    sides = [self.geometry.perturb(self.theta, step)]
    if self.mirrored:
      sides.append(self.geometry.perturb(self.theta, -step))
    return jnp.stack(sides)

  def gradient(self, weights: Float[Array, ' n']) -> Float[Array, ' k']:
    """See `Directed`."""
    return directions_lib.weighted_sum(
      self.directions,
      self.key,
      weights,
      size=self.coordinates,
      basis=self.basis,
      block=rows_in_cache(self.coordinates),
      kept=self.kept,
    )

  def keep(self, count: int) -> 'Perturbations':
    """See `Directed`."""
    kept = directions_lib.keep(
      self.directions,
      self.key,
      count,
      size=self.coordinates,
      block=rows_in_cache(self.coordinates),
      basis=self.basis,
    )
    return self.replace(kept=kept)


@flax.struct.dataclass
class Listed:
  """Given thetas, one per row.

  Attributes:
    thetas: [n, d].
  """

  thetas: Any
  sides = 1
  rows_per_block = 1

  @property
  def size(self) -> int:
    """See `Population`."""
    return self.thetas.shape[1]

  @property
  def rows(self) -> int:
    """See `Population`."""
    return self.thetas.shape[0]

  def members(
    self, start: Int[Array, ''] | int, *, count: int
  ) -> Float[Array, '1 count d']:
    """See `Population`."""
    index = start + jnp.arange(count)
    return jnp.asarray(self.thetas).at[index].get(mode='clip')[None]


@flax.struct.dataclass
class Repeated:
  """The same theta in every row.

  Attributes:
    theta: [d].
  """

  theta: Any
  sides = 1
  rows = None
  rows_per_block = 1

  @property
  def size(self) -> int:
    """See `Population`."""
    return self.theta.shape[0]

  def members(
    self, start: Int[Array, ''] | int, *, count: int
  ) -> Float[Array, '1 count d']:
    """See `Population`."""
    del start
    return jnp.broadcast_to(self.theta, (1, count, self.size))


def all_members(population: Population, count: int) -> PyTree:
  """Draws all rows, for functions of few parameters.

  Args:
    population: any.
    count: number of rows.

  Returns:
    Members, leaves [sides * count, ...]: first one side of all rows, then the
    other. That is the order of `evaluator.Evaluation`.
  """
  block = population.rows_per_block
  drawn = population.members(0, count=-(-count // block) * block)
  # Not -1: an architecture may have no decisions.
  flat = lambda x: x[:, :count].reshape(x.shape[0] * count, *x.shape[2:])
  return jax.tree.map(flat, drawn)


def check_rows(population: Population, count: int) -> None:
  """Rejects more or fewer keys than there are rows.

  Raises:
    ValueError: naming both numbers.
  """
  if population.rows not in (None, count):
    raise ValueError(
      f'there must be a key per row, got {count} keys for {population.rows} rows'
    )


def check_size(population: Population, size: int) -> None:
  """Rejects members that have not as many parameters as a policy.

  Raises:
    ValueError: naming both numbers.
  """
  if population.size != size:
    raise ValueError(
      f'the policy has {size} parameters, got {population.size} of a member'
    )


def rows_in_cache(size: int, cache_bytes: int = CACHE_BYTES) -> int:
  """The largest power of two of float32 rows of a size that fit, at least 1.

  Args:
    size: numbers per row.
    cache_bytes: size that rows should fit into.

  Returns:
    A power of two.
  """
  return 2 ** max(0, int(math.log2(max(1, cache_bytes // (4 * size)))))
