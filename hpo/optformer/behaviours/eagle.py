"""Eagle strategy: a firefly algorithm, whose flies move one at a time.

The first trials place the flies. Then fly after fly moves: past all others in a
random order, towards the better ones and a little away from the worse ones,
with a force that fades with their distance; and a step at random. A fly keeps
the new place if its gain is larger, and takes smaller random steps if not. One
whose steps became too small is placed anew, unless it is the best.

Towards another point x', real parameters move to c x + (1 - c) x'. A listed
parameter keeps its value with probability (1 - a) c, takes the other's with
(1 - a)(1 - c), and a random one with a. With m better flies and p flies in all,
1 - c is force / m, so that all better flies together pull as one does, and a is
`chance` / p, so that a whole move draws a random value with at most `chance`.

Reference: Yang, Deb (2010), arXiv:1004.4165; arXiv:2205.13320, Appendix B.1.
The paper gives no constants; the defaults are choices of this module.
"""

import dataclasses
import functools
import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from hpo.optformer.behaviours import cube as cube_lib
from hpo.optformer.behaviours import protocol
from rl import ranges

__all__ = ['EagleStrategy', 'Flies']


@flax.struct.dataclass
class Flies:
  """The memory of the algorithm, with p flies.

  Attributes:
    points: float32 [p, d].
    gains: float32 [p]; -inf before the first trial of a place.
    steps: float32 [p], the size of random steps.
  """

  points: Any
  gains: Any
  steps: Any


@dataclasses.dataclass(frozen=True)
class EagleStrategy:
  """See the module; a `protocol.Behaviour`.

  Attributes:
    gravity: force towards a better fly at distance 0.
    repulsion: force away from a worse fly at distance 0.
    visibility: forces fade as exp(-visibility |x - x'|^2).
    step: size of random steps at first, in the unit cube.
    patience: factor of the steps after a failure.
    smallest: a fly with smaller steps is placed anew.
    chance: of a random value of a listed parameter, in a whole move.
  """

  gravity: float = 1.0
  repulsion: float = 0.02
  visibility: float = 1.0
  step: float = 0.1
  patience: float = 0.9
  smallest: float = 0.02
  chance: float = 0.1
  name: str = 'designer_eagle_strategy'

  def __post_init__(self) -> None:
    ranges.check_not_negative(
      repulsion=self.repulsion,
      visibility=self.visibility,
      step=self.step,
      smallest=self.smallest,
    )
    ranges.check_shares(
      gravity=self.gravity, patience=self.patience, chance=self.chance
    )

  @staticmethod
  def pool(width: int) -> int:
    """The number of flies for d parameters."""
    return 10 + math.ceil((width**1.2 + width) / 2)

  def init(self, cube: cube_lib.Cube) -> Flies:
    """See `Behaviour`."""
    width = cube.counts.shape[-1]
    size = self.pool(width)
    return Flies(
      jnp.zeros((size, width)),
      jnp.full(size, -jnp.inf),
      jnp.full(size, self.step),
    )

  def propose(
    self,
    key: Key[Array, ''],
    cube: cube_lib.Cube,
    history: protocol.History,
    memory: Flies,
  ) -> tuple[Float[Array, ' d'], Flies]:
    """See `Behaviour`."""
    after = self._absorbed(history, memory)
    flies = jax.tree.map(
      functools.partial(jnp.where, history.count > 0), after, memory
    )
    keys = jax.random.split(key)
    index = history.count % flies.gains.shape[0]
    is_placed = flies.gains[index] > -jnp.inf
    moved = self._moved(keys[0], cube, flies, index)
    return jnp.where(is_placed, moved, cube.uniform(keys[1])), flies

  def _absorbed(self, history: protocol.History, flies: Flies) -> Flies:
    """After the last trial."""
    last = history.count - 1
    index = last % flies.gains.shape[0]
    gain = history.gains[last]
    is_better = gain > flies.gains[index]
    is_best = flies.gains[index] >= flies.gains.max()
    step = flies.steps[index] * jnp.where(is_better, 1, self.patience)
    is_lost = (step < self.smallest) & ~is_better & ~is_best
    kept = jnp.where(is_better, gain, flies.gains[index])
    return Flies(
      flies.points.at[index].set(
        jnp.where(is_better, history.points[last], flies.points[index])
      ),
      flies.gains.at[index].set(jnp.where(is_lost, -jnp.inf, kept)),
      flies.steps.at[index].set(
        jnp.where(is_lost, self.step, jnp.maximum(step, self.smallest))
      ),
    )

  def _moved(
    self,
    key: Key[Array, ''],
    cube: cube_lib.Cube,
    flies: Flies,
    index: Int[Array, ''],
  ) -> Float[Array, ' d']:
    """One fly past all others, and a step at random."""
    keys = jax.random.split(key, 3)
    order = jax.random.permutation(keys[0], flies.gains.shape[0])

    def past(
      point: Float[Array, ' d'], other: Int[Array, '']
    ) -> tuple[Float[Array, ' d'], None]:
      drawn = jax.random.fold_in(keys[1], other)
      return self._towards(drawn, cube, flies, point, index, other), None

    point, _ = jax.lax.scan(past, flies.points[index], order)
    noise = jax.random.laplace(keys[2], point.shape) * flies.steps[index]
    return cube.snap(jnp.where(cube.is_real, _inside(point + noise), point))

  def _towards(
    self,
    key: Key[Array, ''],
    cube: cube_lib.Cube,
    flies: Flies,
    point: Float[Array, ' d'],
    index: Int[Array, ''],
    other: Int[Array, ''],
  ) -> Float[Array, ' d']:
    goal = flies.points[other]
    distance = cube.squared_gaps(point, goal).sum()
    is_better = flies.gains[other] > flies.gains[index]
    strength = jnp.where(is_better, self.gravity, -self.repulsion)
    pull = strength * jnp.exp(-self.visibility * distance)
    pull /= jnp.maximum((flies.gains > flies.gains[index]).sum(), 1)
    moves = (flies.gains[other] > -jnp.inf) & (other != index)
    pull = jnp.where(moves, pull, 0)
    reals = _inside(point + pull * (goal - point))
    # One call draws for all: each call is much code for the compiler.
    drawn = jax.random.uniform(key, (3, *point.shape))
    listed = jnp.where(drawn[0] >= pull, point, goal)
    anew = drawn[1] < self.chance / flies.gains.shape[0]
    listed = jnp.where(anew, cube.snap(drawn[2]), listed)
    return jnp.where(cube.is_real, reals, listed)


def _inside(places: Float[Array, ' d']) -> Float[Array, ' d']:
  return jnp.clip(places, 0.0, 1.0)
