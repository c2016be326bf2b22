"""The newest P evaluations, from which evolution breeds."""

import abc
import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from nas.es_enas import space as space_lib
from rl import ranges

__all__ = [
  'Population',
  'PopulationController',
  'appended',
  'best',
  'empty',
  'fitness',
  'repeated',
]


@flax.struct.dataclass
class Population:
  """A ring of the newest P evaluations; see `appended`.

  Attributes:
    architectures: int32 [P, D]; random where nothing was evaluated yet.
    scores: [P].
    position: where the next evaluation goes, int32 in [0, P).
    filled: number of evaluations in the ring, int32 in [0, P].
  """

  architectures: Any
  scores: Any
  position: Any
  filled: Any

  @property
  def size(self) -> int:
    """P."""
    return self.scores.shape[0]


def empty(space: space_lib.Space, key: Key[Array, ''], size: int) -> Population:
  """A population of which nothing was evaluated.

  Args:
    space: of the architectures.
    key: of the architectures that stand in.
    size: P.
  """
  return Population(
    architectures=jax.vmap(space.sample)(jax.random.split(key, size)),
    scores=jnp.zeros(size),
    position=jnp.zeros((), jnp.int32),
    filled=jnp.zeros((), jnp.int32),
  )


def appended(
  population: Population,
  architectures: Int[Array, 'n D'],
  scores: Float[Array, ' n'],
  valid: Bool[Array, ' n'],
) -> Population:
  """Replaces the oldest evaluations by new ones.

  Args:
    population: to begin with.
    architectures: that were evaluated, the oldest first.
    scores: of them; any value where not valid.
    valid: which of them count. If more than P do, the last P are kept.
  """
  size = population.size
  order = jnp.cumsum(valid) - 1
  total = jnp.sum(valid)
  newest = valid & (order >= total - size)
  # Outside of the ring nothing is written.
  slot = jnp.where(newest, (population.position + order) % size, size)
  return Population(
    architectures=population.architectures.at[slot].set(
      architectures, mode='drop'
    ),
    scores=population.scores.at[slot].set(scores, mode='drop'),
    position=((population.position + total) % size).astype(jnp.int32),
    filled=jnp.minimum(population.filled + total, size).astype(jnp.int32),
  )


def repeated(
  space: space_lib.Space, architectures: Int[Array, 'n D']
) -> Bool[Array, 'n n']:
  """Which of n architectures are the same; subsets may differ in their order.

  Args:
    space: of the architectures.
    architectures: to compare.
  """
  rows = jax.vmap(space.canonical)(architectures)
  equal = lambda a, b: jnp.all(a == b)
  each = jax.vmap(equal, in_axes=(None, 0))
  return jax.vmap(each, in_axes=(0, None))(rows, rows)


def fitness(
  space: space_lib.Space, population: Population
) -> Float[Array, ' P']:
  """Mean score of each architecture over all its evaluations in the ring.

  -inf where nothing was evaluated.

  Args:
    space: of the architectures.
    population: with evaluations.
  """
  same = repeated(space, population.architectures)
  evaluated = jnp.arange(population.size) < population.filled
  same &= evaluated
  total = jnp.sum(jnp.where(same, population.scores, 0), 1)
  mean = total / jnp.maximum(jnp.sum(same, 1), 1)
  return jnp.where(evaluated, mean, -jnp.inf)


def best(space: space_lib.Space, population: Population) -> Int[Array, ' D']:
  """The architecture of the best `fitness`; a random one before any.

  Args:
    space: of the architectures.
    population: with evaluations.
  """
  return population.architectures[jnp.argmax(fitness(space, population))]


@dataclasses.dataclass(frozen=True)
class PopulationController(abc.ABC):
  """A `base.Controller` that breeds from the newest P evaluations.

  A proposal mutates one decision of a parent. The proposals are random until P
  architectures were evaluated. `best` has the best mean score over its
  evaluations in the population.

  Attributes:
    space: what it proposes from.
    population: P; None: the evaluations of one generation.

  Raises:
    ValueError: if P is not positive.
  """

  space: space_lib.Space
  population: int | None = None
  pure = True

  def __post_init__(self) -> None:
    ranges.check_counts(population=self.population)

  @abc.abstractmethod
  def parents(
    self, state: Population, key: Key[Array, ''], count: int
  ) -> Int[Array, ' count']:
    """Draws the parents of proposals from a full population, by their places."""

  def init(self, key: Key[Array, ''], count: int) -> Population:
    """See `base.Controller`."""
    return empty(self.space, key, self.population or count)

  def propose(
    self, state: Population, key: Key[Array, ''], count: int
  ) -> Int[Array, 'count D']:
    """See `base.Controller`."""
    parent_key, key = jax.random.split(key)
    keys = jax.random.split(key, count)

    def bred() -> Int[Array, 'count D']:
      parents = self.parents(state, parent_key, count)
      return jax.vmap(self.space.mutate)(keys, state.architectures[parents])

    return jax.lax.cond(
      state.filled == state.size,
      bred,
      lambda: jax.vmap(self.space.sample)(keys),
    )

  def feedback(
    self,
    state: Population,
    key: Key[Array, ''],
    architectures: Int[Array, 'n D'],
    scores: Float[Array, ' n'],
    valid: Bool[Array, ' n'],
  ) -> tuple[Population, dict[str, Array]]:
    """See `base.Controller`."""
    del key
    state = appended(state, architectures, scores, valid)
    return state, {}

  def best(self, state: Population) -> Int[Array, ' D']:
    """The architecture of the best mean score; a random one before any."""
    return best(self.space, state)
