"""Regularised evolution: tournaments among the newest evaluations."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nas.es_enas import space as space_lib
from nas.es_enas.controllers import population as population_lib
from rl import ranges

__all__ = ['Evolution', 'rank_probabilities']


@dataclasses.dataclass(frozen=True)
class Evolution:
  """Regularised evolution; a `base.Controller`.

  Each proposal mutates one decision of the winner of a tournament: the best of t
  different members among the newest P evaluations. A tie is won by chance. The
  proposals are random until P architectures were evaluated. A member leaves by
  age, whatever its score: so an architecture that had luck does not stay.

  `best` has the best mean score over its evaluations in the population.

  Attributes:
    space: what it proposes from.
    population: P; None: the evaluations of one generation.
    tournament: t, at most P; None: the integer part of the root of P, but at
      least 2.

  Raises:
    ValueError: if a number is out of range.

  Reference: arXiv:1802.01548 (regularised evolution).
  """

  space: space_lib.Space
  population: int | None = None
  tournament: int | None = None
  pure = True

  def __post_init__(self) -> None:
    ranges.check_counts(population=self.population, tournament=self.tournament)
    if self.population is not None:
      self._tournament(self.population)

  def _tournament(self, size: int) -> int:
    if self.tournament is None:
      return min(size, max(2, math.isqrt(size)))
    if self.tournament > size:
      raise ValueError(
        'tournament must be at most the population, '
        f'got tournament={self.tournament} population={size}'
      )
    return self.tournament

  def init(self, key: Key[Array, ''], count: int) -> population_lib.Population:
    """See `base.Controller`.

    Raises:
      ValueError: if the tournament is larger than the population.
    """
    size = self.population or count
    self._tournament(size)
    return population_lib.empty(self.space, key, size)

  def propose(
    self, state: population_lib.Population, key: Key[Array, ''], count: int
  ) -> Int[Array, 'count D']:
    """See `base.Controller`."""
    parent_key, key = jax.random.split(key)
    tournament = self._tournament(state.size)
    parents = _winners(parent_key, state.scores, tournament, count)
    return population_lib.proposed(self.space, state, key, count, parents)

  def feedback(
    self,
    state: population_lib.Population,
    key: Key[Array, ''],
    architectures: Int[Array, 'n D'],
    scores: Float[Array, ' n'],
    valid: Bool[Array, ' n'],
  ) -> tuple[population_lib.Population, dict[str, Array]]:
    """See `base.Controller`; reports the diversity of the generation."""
    del key
    state = population_lib.appended(state, architectures, scores, valid)
    return state, {'diversity': self.space.diversity(architectures, valid)}

  def best(self, state: population_lib.Population) -> Int[Array, ' D']:
    """The architecture of the best mean score; a random one before any."""
    return population_lib.best(self.space, state)


@functools.cache
def rank_probabilities(size: int, tournament: int) -> Float[np.ndarray, ' P']:
  """How often each rank wins a tournament without replacement.

  Rank r, 0 for the best, wins if it takes part and the r better ones do not:
  C(P - 1 - r, t - 1) / C(P, t).

  Args:
    size: P.
    tournament: t.
  """
  ways = [math.comb(size - 1 - r, tournament - 1) for r in range(size)]
  return np.array([way / math.comb(size, tournament) for way in ways])


def _winners(
  key: Key[Array, ''], scores: Float[Array, ' P'], tournament: int, count: int
) -> Int[Array, ' count']:
  """Places of the winners of independent tournaments.

  The rank of a winner is drawn from its distribution, instead of t members.
  Equal scores share their ranks, as if the tie were won by chance.
  """
  rank_key, tie_key = jax.random.split(key)
  size = scores.shape[0]
  order = jnp.argsort(-scores)
  falling = -scores[order]
  odds = jnp.asarray(rank_probabilities(size, tournament), jnp.float32)
  rank = jax.random.choice(rank_key, size, (count,), p=odds)
  first = jnp.searchsorted(falling, falling[rank], side='left')
  after = jnp.searchsorted(falling, falling[rank], side='right')
  return order[jax.random.randint(tie_key, (count,), first, after)]
