"""Random BBOB problems with parameters of several types, in batches.

Everything is drawn in the published order: rotations and shift of the function
in [-5, 5]^d, the type of each parameter, the type of noise. Listed parameters
have 2 to 8 values at equal distances; categories are in a random order.

Five families are held out: a model that never saw them is judged on them.

Reference: arXiv:2205.13320, Appendix C.1.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from hpo.optformer.behaviours import cube as cube_lib
from rl import ranges
from rl.es import bbob

__all__ = [
  'CATEGORICAL',
  'DISCRETE',
  'FLOAT',
  'HELD_OUT',
  'INT',
  'MOST_LISTED',
  'PUBLISHED',
  'TRAINED',
  'Kinds',
  'Problem',
  'draw',
  'objective',
]

HELD_OUT = (
  'LinearSlope',
  'RosenbrockRotated',
  'DifferentPowers',
  'GriewankRosenbrock',
  'Lunacek',
)
# The paper's other 16; EllipsoidalRotated, Rastrigin and Rosenbrock are not
# used.
TRAINED = (
  'Sphere',
  'Ellipsoidal',
  'RastriginSeparable',
  'BuecheRastrigin',
  'AttractiveSector',
  'StepEllipsoidal',
  'Discus',
  'BentCigar',
  'SharpRidge',
  'Weierstrass',
  'SchaffersF7',
  'SchaffersF7IllConditioned',
  'Schwefel',
  'Gallagher21Me',
  'Gallagher101Me',
  'Katsuura',
)
FLOAT, INT, DISCRETE, CATEGORICAL = range(4)
_NOISES = tuple(bbob.NOISES.values())
MOST_LISTED = 8  # Values of a list, and categories.


@dataclasses.dataclass(frozen=True)
class Kinds:
  """Chances of the types of parameters, up to a factor.

  Attributes:
    real: of a real parameter.
    whole: of whole numbers; published: 0.
    discrete: of a list of 2 to 8 numbers.
    categorical: of 2 to 8 categories.
    most_whole: whole numbers have from 2 to that many values, most often few:
      the logarithm of their number is uniform.
    alike: probability that all parameters of a problem are of one type, as in
      tables of recorded configurations; published: 0.
  """

  real: float = 1.0
  whole: float = 0.0
  discrete: float = 1.0
  categorical: float = 1.0
  most_whole: int = 64
  alike: float = 0.0

  def __post_init__(self) -> None:
    chances = self.chances
    if min(chances) < 0 or not sum(chances) > 0:
      raise ValueError(
        f'chances must not be negative, and some positive, got {self}'
      )
    ranges.check_counts(least=2, most_whole=self.most_whole)
    if not 0 <= self.alike <= 1:
      raise ValueError(f'alike must be in [0, 1], got {self.alike=}')

  @property
  def chances(self) -> tuple[float, ...]:
    """In the order FLOAT, INT, DISCRETE, CATEGORICAL."""
    return (self.real, self.whole, self.discrete, self.categorical)


PUBLISHED = Kinds()


@flax.struct.dataclass
class Problem:
  """A problem with d parameters; may be stacked and mapped over.

  Attributes:
    family: int32, an index into the families that were drawn from.
    instance: shift and rotations.
    kinds: int32 [d].
    cube: what algorithms see.
    order: int32 [d, 8], the place of each category.
    noise: int32, an index into `bbob.NOISES`.
  """

  family: Any
  instance: bbob.Instance
  kinds: Any
  cube: cube_lib.Cube
  order: Any
  noise: Any


def draw(
  key: Key[Array, ''],
  dimension: int,
  families: tuple[Int[Array, ''] | int, Int[Array, ''] | int],
  kinds: Kinds,
) -> Problem:
  """A random problem.

  Args:
    key: of this problem.
    dimension: d, static.
    families: the first number of a family, and that behind the last.
    kinds: of parameters.
  """
  keys = jax.random.split(key, 7)
  shape = (dimension,)
  chances = jnp.log(jnp.asarray(kinds.chances))
  kind = jax.random.categorical(keys[1], chances, shape=shape)
  alike = jax.random.bernoulli(jax.random.fold_in(keys[1], 1), kinds.alike)
  kind = jnp.where(alike, kind[0], kind)
  listed = jax.random.randint(keys[2], shape, 2, MOST_LISTED + 1)
  share = jax.random.uniform(keys[3], shape)
  whole = jnp.int32(2 * (kinds.most_whole / 2 + 0.5) ** share)
  counts = jnp.where(kind == INT, whole, listed)
  counts = jnp.where(kind == FLOAT, 0, counts)
  return Problem(
    jax.random.randint(keys[4], (), *families),
    bbob.draw(keys[0], dimension),
    kind,
    cube_lib.Cube(counts, kind != CATEGORICAL),
    _orders(keys[5], counts),
    jax.random.randint(keys[6], (), 0, len(_NOISES)),
  )


def _orders(key: Key[Array, ''], counts: Int[Array, ' d']) -> Int[Array, 'd 8']:
  """Permutations of the first values; the places behind stay there."""
  ranks = jax.random.uniform(key, (counts.shape[0], MOST_LISTED))
  places = jnp.arange(MOST_LISTED)
  ranks = jnp.where(places < counts[:, None], ranks, 1.0 + places)
  return jnp.argsort(ranks, axis=1)


def objective(
  problem: Problem, families: tuple[str, ...]
) -> Callable[[Key[Array, ''], Float[Array, ' d']], Float[Array, '']]:
  """The gain of points of the cube: the negative function value with noise.

  Args:
    problem: not stacked.
    families: names that `problem.family` counts.
  """
  functions = [bbob.FUNCTIONS[name] for name in families]
  dimension = problem.kinds.shape[-1]

  def gain(key: Key[Array, ''], point: Float[Array, ' d']) -> Float[Array, '']:
    x = _place(problem, point)
    value = jax.lax.switch(problem.family, functions, x, problem.instance)
    noises = [
      lambda key, value, noise=noise: noise(key, value, dimension)
      for noise in _NOISES
    ]
    return -jax.lax.switch(problem.noise, noises, key, value)

  return gain


def _place(problem: Problem, point: Float[Array, ' d']) -> Float[Array, ' d']:
  """A point of the cube in [-5, 5]^d, where values are equally far apart."""
  index = problem.cube.indices(point)
  row = jnp.minimum(index, MOST_LISTED - 1)[:, None]
  shuffled = jnp.take_along_axis(problem.order, row, axis=1)[:, 0]
  index = jnp.where(problem.kinds == CATEGORICAL, shuffled, index)
  share = index / jnp.maximum(problem.cube.counts - 1, 1)
  return -5 + 10 * jnp.where(problem.cube.is_real, point, share)
