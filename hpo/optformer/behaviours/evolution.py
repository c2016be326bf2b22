"""Regularised evolution: the winner of a tournament mutates, the oldest dies.

Reference: arXiv:2205.13320, Appendix B.1; Real, Aggarwal, Huang, Le (2019),
arXiv:1802.01548.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hpo.optformer.behaviours import cube as cube_lib
from hpo.optformer.behaviours import mutation, protocol
from rl import ranges

__all__ = ['RegularizedEvolution']


@dataclasses.dataclass(frozen=True)
class RegularizedEvolution(protocol.Stateless):
  """See the module; a `protocol.Behaviour`.

  The population is the last trials. Until it is full, points are uniform.

  Attributes:
    population: its size; published: 25.
    tournament: members drawn without replacement, of which the best mutates,
      and the oldest of equals; published: 5.
  """

  population: int = 25
  tournament: int = 5
  name: str = 'designer_reg_evo'

  def __post_init__(self) -> None:
    ranges.check_counts(population=self.population, tournament=self.tournament)
    if self.tournament > self.population:
      raise ValueError(
        'a tournament is drawn from the population, got '
        f'{self.tournament=} {self.population=}'
      )

  def point(
    self, key: Key[Array, ''], cube: cube_lib.Cube, history: protocol.History
  ) -> Float[Array, ' d']:
    """See `Stateless`."""
    first, second = jax.random.split(key)
    ages = jax.random.permutation(first, self.population)[: self.tournament]
    rows = history.count - self.population + jnp.sort(ages)
    rows = jnp.clip(rows, 0, history.gains.shape[0] - 1)
    parent = history.points[rows[jnp.argmax(history.gains[rows])]]
    child = mutation.resample_one(second, cube, parent)
    young = history.count < self.population
    return jnp.where(young, cube.uniform(second), child)
