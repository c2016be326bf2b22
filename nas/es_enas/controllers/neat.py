"""NEAT for architectures of a fixed structure: evolution within species."""

import dataclasses
import fractions
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from nas.es_enas import space as space_lib
from nas.es_enas.controllers import population as population_lib
from rl import ranges

__all__ = ['Neat', 'shares', 'species']


@dataclasses.dataclass(frozen=True)
class Neat(population_lib.PopulationController):
  """Mutation within species, without crossover or growth.

  See `population.PopulationController`. Each generation divides the population
  into `species` afresh. Each species has offspring in proportion to its share
  (`shares`). A parent is drawn uniformly from the best members of its species.

  The compatibility distance of two architectures of D decisions is
    (disjoint * elements that differ + matching * choices that differ) / D.
  A decision of `space.Choices` is in both architectures: if it differs, it is a
  matching gene with another value. An element of a `space.Subset` (for an
  `Arrangement`, at its place) that the other architecture lacks is a disjoint
  gene. There are no excess genes, as all architectures have the same length.

  Attributes:
    space: what it proposes from.
    population: P; None: the evaluations of one generation.
    disjoint: weight of disjoint genes.
    matching: weight of matching genes with different values.
    threshold: largest distance within a species from its representative.
    survivors: share of a species, the best of it, that may be parents; at least
      one member is.

  Raises:
    ValueError: if a number is out of range.

  Reference: Stanley and Miikkulainen 2002, without crossover and growth, as the
    library PyGlove has it.
  """

  disjoint: float = 1.0
  matching: float = 3.0
  threshold: float = 0.4
  survivors: float = 0.6

  def __post_init__(self) -> None:
    super().__post_init__()
    ranges.check_not_negative(
      disjoint=self.disjoint, matching=self.matching, threshold=self.threshold
    )
    ranges.check_shares(survivors=self.survivors)

  def parents(
    self, state: population_lib.Population, key: Key[Array, ''], count: int
  ) -> Int[Array, ' count']:
    """Those of one species follow each other."""
    of = species(self.distances(state.architectures), self.threshold)
    return self._parents(key, of, state.scores, count)

  def distances(self, architectures: Int[Array, 'P D']) -> Float[Array, 'P P']:
    """Compatibility distances of all pairs; see the class.

    Args:
      architectures: of the population.
    """

    def distance(a: Int[Array, ' D'], b: Int[Array, ' D']) -> Array:
      a, b = self.space.parts(a), self.space.parts(b)
      total = jnp.zeros(())
      for group in self.space.groups:
        choices = isinstance(group, space_lib.Choices)
        weight = self.matching if choices else self.disjoint
        total += weight * group.distance(a[group.name], b[group.name])
      return total / max(1, self.space.length)

    each = jax.vmap(distance, in_axes=(None, 0))
    return jax.vmap(each, in_axes=(0, None))(architectures, architectures)

  def _parents(
    self,
    key: Key[Array, ''],
    of: Int[Array, ' P'],
    scores: Float[Array, ' P'],
    count: int,
  ) -> Int[Array, ' count']:
    """Places of parents, by systematic sampling of the species.

    A species of share s has floor(s count) or one more offspring, s count in
    the mean.
    """
    species_key, member_key = jax.random.split(key)
    upper = jnp.cumsum(shares(of, scores))
    points = jnp.arange(count) + jax.random.uniform(species_key)
    # Species 0 has a member; it takes points that rounding puts past the end.
    beyond = upper > (points / count * upper[-1])[:, None]
    chosen = jnp.argmax(beyond, 1)
    sizes = jnp.zeros(of.shape, jnp.int32).at[of].add(1)
    parents = self._survivors(of.shape[0])[sizes]
    rank = jax.random.randint(
      member_key, (count,), 0, jnp.maximum(parents, 1)[chosen]
    )
    # Species by species, the best members first.
    order = jnp.lexsort((-scores, of))
    start = jnp.cumsum(sizes) - sizes
    return order[start[chosen] + rank]

  def _survivors(self, size: int) -> Int[Array, ' _']:
    """Numbers of parents of species of 0..size members."""
    # As decimal numbers: 60 % of 25 are 15, where floats round up to 16.
    share = fractions.Fraction(str(self.survivors))
    return jnp.array([math.ceil(share * n) for n in range(size + 1)], jnp.int32)


def species(
  distances: Float[Array, 'P P'], threshold: float
) -> Int[Array, ' P']:
  """Divides a population into species.

  One member after the other joins the first species whose representative is
  near enough, or else represents a new species. No member counts twice.

  Args:
    distances: of all pairs.
    threshold: largest distance from a representative.

  Returns:
    The place of each member's representative, int32; representatives have their
    own.
  """
  size = distances.shape[0]

  def joined(
    represents: Bool[Array, ' P'], i: Int[Array, '']
  ) -> tuple[Bool[Array, ' P'], Int[Array, '']]:
    near = represents & (distances[i] <= threshold)
    own = jnp.where(jnp.any(near), jnp.argmax(near), i)
    return represents.at[own].set(True), own.astype(jnp.int32)

  return jax.lax.scan(joined, jnp.zeros(size, bool), jnp.arange(size))[1]


def shares(
  of: Int[Array, ' P'], scores: Float[Array, ' P']
) -> Float[Array, ' P']:
  """Each species' share of the offspring.

  It is proportional to the species' mean of (score - least score of all). Where
  all scores are equal, every species has the same share.

  Args:
    of: representative of each member; see `species`.
    scores: of the members.

  Returns:
    Shares at the places of the representatives, 0 elsewhere; they sum to 1.
  """
  zeros = jnp.zeros(of.shape)
  sizes = zeros.at[of].add(1)
  excess = zeros.at[of].add(scores - jnp.min(scores))
  means = excess / jnp.maximum(sizes, 1)
  total = jnp.sum(means)
  exists = sizes > 0
  equal = exists / jnp.sum(exists)
  return jnp.where(total > 0, means / jnp.where(total > 0, total, 1), equal)
