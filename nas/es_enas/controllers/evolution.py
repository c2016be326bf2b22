"""Regularised evolution: tournaments among the newest evaluations."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nas.es_enas.controllers import population as population_lib
from rl import ranges

__all__ = ['Evolution', 'rank_probabilities']


@dataclasses.dataclass(frozen=True)
class Evolution(population_lib.PopulationController):
  """Regularised evolution; see `population.PopulationController`.

  A parent wins a tournament: it is the best of t different members of the
  population. A tie is won by chance. A member leaves by age, whatever its score:
  so an architecture that had luck does not stay.

  Attributes:
    space: what it proposes from.
    population: P; None: the evaluations of one generation.
    tournament: t, at most P; None: the integer part of the root of P, but at
      least 2.

  Raises:
    ValueError: if a number is out of range.

  Reference: arXiv:1802.01548 (regularised evolution).
  """

  tournament: int | None = None

  def __post_init__(self) -> None:
    super().__post_init__()
    ranges.check_counts(tournament=self.tournament)
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
    self._tournament(self.population or count)
    return super().init(key, count)

  def parents(
    self, state: population_lib.Population, key: Key[Array, ''], count: int
  ) -> Int[Array, ' count']:
    """The winners of independent tournaments."""
    return _winners(key, state.scores, self._tournament(state.size), count)


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
