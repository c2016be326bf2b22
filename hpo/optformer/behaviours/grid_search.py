"""Grid search, in lexicographic order and in random order.

A real parameter has 100 points at equal distances in the unit cube, which are
equal ratios where the scale is logarithmic; a listed one has all its values.
The last parameter changes fastest. A grid that is used up starts again.

Reference: arXiv:2205.13320, Appendix B.1.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from hpo.optformer.behaviours import cube as cube_lib
from hpo.optformer.behaviours import protocol
from rl import ranges

__all__ = ['GridSearch', 'ShuffledGridSearch']


def _sizes(cube: cube_lib.Cube, resolution: int) -> Int[Array, ' d']:
  return jnp.where(cube.is_real, resolution, cube.counts)


def _point(
  cube: cube_lib.Cube, digits: Int[Array, ' d'], resolution: int
) -> Float[Array, ' d']:
  middles = (digits + 0.5) / jnp.maximum(cube.counts, 1)
  return jnp.where(cube.is_real, digits / (resolution - 1), middles)


@dataclasses.dataclass(frozen=True)
class GridSearch:
  """Grid search in lexicographic order; a `protocol.Behaviour`.

  Attributes:
    resolution: points of a real parameter; published: 100.
  """

  resolution: int = 100
  name: str = 'designer_grid_search'

  def __post_init__(self) -> None:
    ranges.check_counts(least=2, resolution=self.resolution)

  def init(self, cube: cube_lib.Cube) -> Int[Array, ' d']:
    """See `Behaviour`; the memory is the next point as digits."""
    return jnp.zeros(cube.counts.shape, jnp.int32)

  def propose(
    self,
    key: Key[Array, ''],
    cube: cube_lib.Cube,
    history: protocol.History,
    memory: Int[Array, ' d'],
  ) -> tuple[Float[Array, ' d'], Int[Array, ' d']]:
    """See `Behaviour`."""
    sizes = _sizes(cube, self.resolution)
    # A digit moves if all behind it stand at their last value.
    full = jnp.cumprod((memory == sizes - 1)[::-1])[::-1]
    moves = jnp.append(full[1:], 1)
    after = jnp.where(moves == 1, (memory + 1) % sizes, memory)
    return _point(cube, memory, self.resolution), after


@dataclasses.dataclass(frozen=True)
class ShuffledGridSearch(protocol.Stateless):
  """Grid search in random order, without replacement; a `protocol.Behaviour`.

  A point that was used is drawn again. A study of all points of a grid with n
  of them takes about n ln n draws.

  Attributes:
    resolution: points of a real parameter; published: 100.
  """

  resolution: int = 100
  name: str = 'designer_grid_search_shuffled'

  def __post_init__(self) -> None:
    ranges.check_counts(least=2, resolution=self.resolution)

  def point(
    self, key: Key[Array, ''], cube: cube_lib.Cube, history: protocol.History
  ) -> Float[Array, ' d']:
    """See `Stateless`."""
    sizes = _sizes(cube, self.resolution)
    trials = history.gains.shape[0]
    # Larger grids than the number of trials are alike, and their sizes
    # overflow.
    total = jnp.prod(jnp.minimum(jnp.float32(sizes), trials + 1.0))
    total = jnp.int32(jnp.minimum(total, trials + 1))
    start = history.count // total * total
    used = history.known & (jnp.arange(trials) >= start)

    def drawn(number: Int[Array, '']) -> Float[Array, ' d']:
      digits = jax.random.randint(
        jax.random.fold_in(key, number), sizes.shape, 0, sizes
      )
      return _point(cube, digits, self.resolution)

    def repeats(carry: tuple[Array, Array]) -> Bool[Array, '']:
      same = (history.points == carry[1]).all(axis=1)
      return (same & used).any()

    again = lambda carry: (carry[0] + 1, drawn(carry[0] + 1))
    first = (jnp.int32(0), drawn(jnp.int32(0)))
    return jax.lax.while_loop(repeats, again, first)[1]
