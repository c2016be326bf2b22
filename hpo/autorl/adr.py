"""Automatic domain randomisation: ranges of levels that grow with success.

Each parameter of a level has bounds [lo, hi]; levels are drawn uniformly within.
With probability 1/2 a lane pins one parameter at one of its bounds. When m episodes
at a bound are known, the bound moves: outwards if their mean return is t_hi or more,
inwards if it is t_lo or less.

Reference: OpenAI (2019), arXiv:1910.07113, Section 5.2 and Algorithm 1.
"""

import dataclasses
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from hpo.autorl import curricula
from rl import ranges

__all__ = ['ADR', 'Drawn', 'Parameter', 'State']


class Parameter(NamedTuple):
  """A parameter of levels.

  Attributes:
    name: an argument of the environment's `draw`.
    start: at first both bounds.
    low: least lower bound.
    high: greatest upper bound.
    step: by which a bound moves.
  """

  name: str
  start: float
  low: float
  high: float
  step: float


@flax.struct.dataclass
class State:
  """Bounds, and returns at them; of d parameters, lower bounds first.

  Attributes:
    bounds: float32 [2, d].
    total: sum of the returns at each bound since it moved, float32 [2, d].
    count: number of these episodes, float32 [2, d].
  """

  # Not annotated by shape: transformations put other things into the leaves.
  bounds: Any
  total: Any
  count: Any


class Drawn(NamedTuple):
  """What a lane got.

  Attributes:
    value: of each parameter, [n, d].
    pinned: whether one is at its bound.
    side: 0 for the lower bound, 1 for the upper one.
    which: the parameter that is pinned.
  """

  value: Float[Array, 'n d']
  pinned: Bool[Array, ' n']
  side: Int[Array, ' n']
  which: Int[Array, ' n']


@dataclasses.dataclass(frozen=True)
class ADR:
  """See the module; a `curricula.Curriculum`.

  A bound whose start is its limit never moves.

  Attributes:
    parameters: of levels.
    least: t_lo, mean return at or below which a bound moves inwards.
    enough: t_hi, at or above which it moves outwards.
    episodes: m; published: 240.
    pin: probability that a lane pins a parameter; published: 1/2.

  Raises:
    ValueError: if thresholds or a parameter's numbers are out of order.
  """

  parameters: tuple[Parameter, ...]
  least: float = 0.5
  enough: float = 0.8
  episodes: int = 32
  pin: float = 0.5

  def __post_init__(self) -> None:
    ranges.check_counts(episodes=self.episodes)
    ranges.check_shares(pin=self.pin)
    if not self.least < self.enough:
      raise ValueError(
        f'least must be below enough, got {self.least=} {self.enough=}'
      )
    for one in self.parameters:
      if not (one.low <= one.start <= one.high and one.step > 0):
        raise ValueError(
          f'low <= start <= high and 0 < step must hold, got {one}'
        )

  def init(self) -> State:
    """See `curricula.Curriculum`."""
    start = jnp.array([one.start for one in self.parameters], jnp.float32)
    zeros = jnp.zeros((2, len(start)))
    return State(jnp.stack([start, start]), zeros, zeros)

  def sample(self, state: State, key: Key[Array, ''], count: int) -> Drawn:
    """Values of the parameters for some lanes."""
    keys = jax.random.split(key, 4)
    size = len(self.parameters)
    low, high = state.bounds
    value = low + (high - low) * jax.random.uniform(keys[0], (count, size))
    pinned = jax.random.uniform(keys[1], (count,)) < self.pin
    side = jax.random.randint(keys[2], (count,), 0, 2)
    which = jax.random.randint(keys[3], (count,), 0, size)
    here = pinned[:, None] & (jnp.arange(size) == which[:, None])
    value = jnp.where(here, state.bounds[side], value)
    return Drawn(value, pinned, side, which)

  def moved(
    self,
    state: State,
    drawn: Drawn,
    episode_return: Float[Array, ' n'],
    episodes: Float[Array, ' n'],
  ) -> State:
    """The state after episodes.

    Args:
      state: before.
      drawn: levels that were played.
      episode_return: mean of each lane's episodes.
      episodes: their numbers.
    """
    weight = episodes * drawn.pinned
    place = drawn.side, drawn.which
    total = state.total.at[place].add(weight * episode_return)
    count = state.count.at[place].add(weight)
    mean = total / jnp.maximum(count, 1)
    known = count >= self.episodes
    grows, shrinks = known & (mean >= self.enough), known & (mean <= self.least)
    step = jnp.array([one.step for one in self.parameters])
    outwards = jnp.array([[-1.0], [1.0]]) * step
    change = jnp.where(grows, outwards, jnp.where(shrinks, -outwards, 0))
    low, high = state.bounds + change
    low = jnp.maximum(low, jnp.array([one.low for one in self.parameters]))
    high = jnp.minimum(high, jnp.array([one.high for one in self.parameters]))
    # Neither bound crosses the start, so they never cross each other.
    start = jnp.array([one.start for one in self.parameters])
    bounds = jnp.stack([jnp.minimum(low, start), jnp.maximum(high, start)])
    keep = lambda x: jnp.where(known, 0, x)
    return State(bounds.astype(jnp.float32), keep(total), keep(count))

  def entropy(self, state: State) -> Float[Array, '']:
    """(1 / d) sum ln(hi - lo), nats; widths count from a hundredth of a step."""
    least = jnp.array([0.01 * one.step for one in self.parameters])
    low, high = state.bounds
    return jnp.mean(jnp.log(jnp.maximum(high - low, least)))

  def draw(
    self, env: Any, state: State, key: Key[Array, ''], count: int
  ) -> tuple[State, PyTree, Drawn]:
    """See `curricula.Curriculum`."""
    value_key, level_key = jax.random.split(key)
    drawn = self.sample(state, value_key, count)
    values = {
      one.name: drawn.value[:, i] for i, one in enumerate(self.parameters)
    }
    built = jax.vmap(lambda k, v: env.draw(k, **v))(
      jax.random.split(level_key, count), values
    )
    return state, built, drawn

  def update(
    self, state: State, drawn: Drawn, outcome: curricula.Outcome
  ) -> tuple[State, Bool[Array, ' n'], dict[str, Array]]:
    """See `curricula.Curriculum`; the agent learns in all lanes."""
    state = self.moved(state, drawn, outcome.episode_return, outcome.episodes)
    metrics = {'range_entropy': self.entropy(state)}
    for i, one in enumerate(self.parameters):
      metrics[f'{one.name}_low'] = state.bounds[0, i]
      metrics[f'{one.name}_high'] = state.bounds[1, i]
    return state, jnp.ones_like(drawn.pinned), metrics
