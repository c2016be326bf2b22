"""Regularised evolution: tournaments among the newest evaluations."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nas.es_enas.controllers import draws
from nas.es_enas.controllers import population as population_lib
from rl import ranges

__all__ = ['Evolution', 'rank_probabilities', 'win_probabilities']


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
    odds = win_probabilities(state.scores, self._tournament(state.size))
    return draws.inverted(jax.random.uniform(key, (count,)), odds)


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


def win_probabilities(
  scores: Float[Array, ' P'], tournament: int
) -> Float[Array, ' P']:
  """How often each member wins a tournament; a tie is won by chance.

  Members of equal scores share the probabilities of their ranks.

  Args:
    scores: of the population.
    tournament: t.
  """
  ranks = rank_probabilities(scores.shape[0], tournament)
  upper = jnp.asarray(np.cumsum([0.0, *ranks]), jnp.float32)
  better = jnp.sum(scores > scores[:, None], 1)
  equal = jnp.sum(scores == scores[:, None], 1)
  return (upper[better + equal] - upper[better]) / equal
