"""Test functions of numbers and categories together.

`Hybrid` is a BBOB function of which some coordinates are chosen from L points of
a grid, in an order that tells nothing. `Hamming` is a control without numbers.
Both are pytrees: a batch of problems, or of points, is one vmap. A value is to be
minimised; `Evaluator` gives a search of `rl.es` its negative as the return.

Reference: arXiv:2101.07415, whose settings are not published; the definition is
google-vizier's discretised BBOB, shifted and rotated.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nas.es_enas import space as space_lib
from rl import normalizer as normalizer_lib
from rl import orthonormal, ranges
from rl.es import bbob
from rl.es import evaluator as evaluator_lib
from rl.es import population as population_lib

__all__ = ['BOUND', 'Evaluator', 'Hamming', 'Hybrid', 'draw', 'hamming']

# Every coordinate is searched in [-BOUND, BOUND].
BOUND = 5.0


@flax.struct.dataclass
class Hybrid:
  """A BBOB function of d_c numbers and d_k categories; see `draw`.

  The function's argument is (G (theta - shift), grid - shift): only the numbers
  are rotated, so that a step in one of them is not a step along an axis. The
  categories have places spread evenly over all D = d_c + d_k coordinates, since
  many functions are more sensitive to the later ones.

  Attributes:
    rotation: G [d_c, d_c], orthogonal.
    shift: of the numbers [d_c].
    category_shift: of the categories' points [d_k].
    order: int32 [d_k, L]; category c is the order[c]-th point of the grid from
      -5 to 5.
    function: static.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  rotation: Any
  shift: Any
  category_shift: Any
  order: Any
  function: bbob.Function = flax.struct.field(pytree_node=False)

  @property
  def size(self) -> int:
    """d_c, the number of numbers."""
    return self.shift.shape[-1]

  @property
  def space(self) -> space_lib.Space:
    """The space of the categories."""
    count, options = self.order.shape[-2:]
    return space_lib.Space((space_lib.Choices('categories', count, options),))

  def evaluate(
    self, theta: Float[Array, ' d_c'], architecture: Int[Array, ' d_k']
  ) -> Float[Array, '']:
    """The value at a point, to be minimised.

    Args:
      theta: the numbers; outside of [-5, 5] they have values too.
      architecture: the categories, each in [0, L).
    """
    points = self._points(architecture) - self.category_shift
    moved = self.rotation @ (theta - self.shift)
    places = _places(theta.shape[0], points.shape[0])
    whole = jnp.zeros(theta.shape[0] + points.shape[0], theta.dtype)
    whole = whole.at[places].set(points.astype(theta.dtype))
    whole = whole.at[np.delete(np.arange(len(whole)), places)].set(moved)
    return self.function(whole, bbob.plain(len(whole), theta.dtype))

  def _points(self, architecture: Int[Array, ' d_k']) -> Float[Array, ' d_k']:
    grid = jnp.linspace(-BOUND, BOUND, self.order.shape[-1])
    chosen = jnp.take_along_axis(self.order, architecture[:, None], axis=1)
    return grid[chosen[:, 0]]

  def start(
    self, key: Key[Array, '']
  ) -> tuple[Float[Array, ' d_c'], Int[Array, ' d_k']]:
    """A random point of the distribution from which every method starts.

    Returns:
      Numbers uniform in [-5, 5], and uniform categories.
    """
    first, second = jax.random.split(key)
    theta = jax.random.uniform(first, (self.size,), minval=-BOUND, maxval=BOUND)
    return theta, self.space.sample(second)


@flax.struct.dataclass
class Hamming:
  """The number of decisions that differ from a hidden optimum; see `hamming`.

  Attributes:
    optimum: int32 [d_k].
    options: L, static.
  """

  optimum: Any
  options: int = flax.struct.field(pytree_node=False)
  size = 0

  @property
  def space(self) -> space_lib.Space:
    """The space of the categories."""
    count = self.optimum.shape[-1]
    return space_lib.Space(
      (space_lib.Choices('categories', count, self.options),)
    )

  def evaluate(
    self, theta: Float[Array, ' d_c'], architecture: Int[Array, ' d_k']
  ) -> Float[Array, '']:
    """The distance, whatever the numbers are; to be minimised."""
    return jnp.sum(architecture != self.optimum).astype(theta.dtype)


@flax.struct.dataclass
class Evaluator:
  """Evaluates members (theta, architecture); an `rl.es.evaluator.Evaluator`.

  A pytree like its problem: one program may map over problems.

  Attributes:
    problem: `Hybrid` or `Hamming`; the return is minus its value.
  """

  problem: Any
  pure = True
  observation_shape = ()

  def evaluate(
    self,
    population: population_lib.Population,
    keys: Key[Array, ' n'],
    normalizer: normalizer_lib.Statistics | None,
  ) -> evaluator_lib.Evaluation:
    """See `evaluator.Evaluator`; one evaluation is one step, without noise."""
    del normalizer
    members = population_lib.all_members(population, keys.shape[0])
    return evaluator_lib.Evaluation.of(
      -jax.vmap(self.problem.evaluate)(*members)
    )

  def close(self) -> None:
    """See `evaluator.Evaluator`; there is nothing to end."""


def _places(numbers: int, categories: int) -> np.ndarray:
  """Places of the categories among all coordinates, spread evenly."""
  last = numbers + categories - 1
  return np.linspace(0, last, categories).round().astype(int)


def draw(
  key: Key[Array, ''],
  function: bbob.Function,
  numbers: int,
  categories: int,
  options: int,
  *,
  shift: float = 4.0,
) -> Hybrid:
  """A random problem; for a batch, vmap over keys.

  Args:
    key: of the problem.
    function: of `bbob.FUNCTIONS`.
    numbers: d_c, from 0 on.
    categories: d_k.
    options: L, points of each category.
    shift: each coordinate's optimum is moved by up to this.

  Raises:
    ValueError: a number is out of range.
  """
  ranges.check_counts(least=0, numbers=numbers)
  ranges.check_counts(categories=categories, options=options)
  ranges.check_not_negative(shift=shift)
  keys = jax.random.split(key, 3)
  shifts = jax.random.uniform(
    keys[0], (numbers + categories,), minval=-shift, maxval=shift
  )
  normal = jax.random.normal(keys[1], (numbers, numbers))
  order = lambda key: jax.random.permutation(key, options)
  return Hybrid(
    rotation=orthonormal.orthonormal_columns(normal),
    shift=shifts[:numbers],
    category_shift=shifts[numbers:],
    order=jax.vmap(order)(jax.random.split(keys[2], categories)),
    function=function,
  )


def hamming(key: Key[Array, ''], categories: int, options: int) -> Hamming:
  """A random hidden optimum.

  Args:
    key: of it.
    categories: d_k.
    options: L.
  """
  ranges.check_counts(categories=categories, options=options)
  optimum = jax.random.randint(key, (categories,), 0, options)
  return Hamming(optimum, options)
