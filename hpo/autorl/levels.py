"""Prioritised level replay: which levels an agent should learn from next.

A level that was played has a score, how much there seems to be left to learn.
Replay draws seen levels with

  P = (1 - rho) P_S + rho P_C,  P_S ~ (1 / rank of the score)^(1 / beta),
  P_C ~ staleness^(1 / T_c)

where staleness counts the levels drawn since the level was last drawn. Robust PLR
learns only from replayed levels; new ones are only scored.

References: Jiang, Grefenstette and Rocktaeschel (2021), arXiv:2010.03934; Jiang et
  al. (2021), arXiv:2110.02439 (robust).
"""

import dataclasses
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from rl import ranges
from rl.ppo import losses

__all__ = [
  'Drawn',
  'Replay',
  'State',
  'positive_value_loss',
  'value_l1',
]


def value_l1(
  advantage: Float[Array, 'T n'], valid: Bool[Array, 'T n']
) -> Float[Array, ' n']:
  """Mean |generalised advantage| of each lane (arXiv:2010.03934, Section 3.1)."""
  weight = valid.astype(advantage.dtype)
  return jax.vmap(losses.mean, in_axes=1)(jnp.abs(advantage), weight)


def positive_value_loss(
  advantage: Float[Array, 'T n'], valid: Bool[Array, 'T n']
) -> Float[Array, ' n']:
  """Mean max(generalised advantage, 0) of each lane (arXiv:2110.02439, Eq. 4)."""
  weight = valid.astype(advantage.dtype)
  return jax.vmap(losses.mean, in_axes=1)(jnp.maximum(advantage, 0), weight)


@flax.struct.dataclass
class State:
  """What is known of N levels.

  Attributes:
    score: the newest, float32 [N].
    seen: whether there is one, bool [N].
    last: the clock when the level was last drawn, float32 [N].
    clock: levels drawn so far, float32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  score: Any
  seen: Any
  last: Any
  clock: Any


class Drawn(NamedTuple):
  """Levels for n lanes.

  Attributes:
    level: from 0 on.
    replayed: whether the level had been seen before.
  """

  level: Int[Array, ' n']
  replayed: Bool[Array, ' n']


@dataclasses.dataclass(frozen=True)
class Replay:
  """Chooses among numbered levels.

  Attributes:
    num_levels: N.
    temperature: beta, of the scores' ranks; published: 0.1.
    stale: rho, share of the draws that go by staleness; published: 0.1.
    stale_temperature: T_c.
    replay: probability that a lane replays a level; None: the share of levels
      that were seen. A lane also replays where no unseen level is left.
    robust: whether the agent learns from replayed levels only.

  Raises:
    ValueError: if a number is out of range.
  """

  num_levels: int
  temperature: float = 0.1
  stale: float = 0.1
  stale_temperature: float = 1.0
  replay: float | None = 0.5
  robust: bool = False

  def __post_init__(self) -> None:
    ranges.check_counts(num_levels=self.num_levels)
    ranges.check_positive(
      temperature=self.temperature, stale_temperature=self.stale_temperature
    )
    ranges.check_shares(stale=self.stale)
    if self.replay is not None:
      ranges.check_shares(replay=self.replay)

  def init(self) -> State:
    """The state in which no level was seen."""
    none = jnp.zeros(self.num_levels)
    return State(none, none.astype(bool), none, jnp.float32(0))

  def probabilities(self, state: State) -> Float[Array, ' N']:
    """Of each level when one is replayed; all 0 if none was seen."""
    seen = state.seen.astype(jnp.float32)
    # Equal scores have the order of their numbers.
    worst_last = jnp.where(state.seen, -state.score, jnp.inf)
    rank = 1 + jnp.argsort(jnp.argsort(worst_last, stable=True))
    # Relative to the first rank: no power overflows.
    by_score = seen * jnp.exp(-jnp.log(rank) / self.temperature)
    age = seen * (state.clock - state.last)
    largest = jnp.maximum(jnp.max(age), 1)
    by_age = seen * (age / largest) ** (1 / self.stale_temperature)
    by_age = jnp.where(jnp.sum(by_age) > 0, by_age, seen)
    share = lambda x: x / jnp.maximum(jnp.sum(x), jnp.finfo(x.dtype).tiny)
    return (1 - self.stale) * share(by_score) + self.stale * share(by_age)

  def draw(
    self, state: State, key: Key[Array, ''], lanes: int
  ) -> tuple[State, Drawn]:
    """Levels for some lanes; new ones are drawn without repetition.

    Args:
      state: before.
      key: of this draw.
      lanes: n.

    Returns:
      The state with the clock advanced, and the levels.
    """
    choice_key, new_key, old_key = jax.random.split(key, 3)
    chance = jnp.mean(state.seen) if self.replay is None else self.replay
    wants = jax.random.uniform(choice_key, (lanes,)) < chance
    noise = jax.random.uniform(new_key, (self.num_levels,))
    # Unseen levels in a random order; the i-th lane without replay takes one.
    order = jnp.argsort(jnp.where(state.seen, 2.0, noise))
    unseen = self.num_levels - jnp.sum(state.seen)
    place = jnp.cumsum(~wants) - 1
    replayed = (wants | (place >= unseen)) & state.seen.any()
    new = order[place % jnp.maximum(unseen, 1)]
    old = jax.random.categorical(
      old_key, jnp.log(self.probabilities(state)), shape=(lanes,)
    )
    # Before any level was seen, lanes that would replay take new ones as well.
    first = order[jnp.arange(lanes) % self.num_levels]
    new = jnp.where(state.seen.any(), new, first)
    level = jnp.where(replayed, old, new).astype(jnp.int32)
    clock = state.clock + lanes
    state = state.replace(clock=clock, last=state.last.at[level].set(clock))
    return state, Drawn(level, replayed)

  def update(
    self, state: State, drawn: Drawn, score: Float[Array, ' n']
  ) -> State:
    """The state with new scores; those of lanes with one level are averaged."""
    zeros = jnp.zeros(self.num_levels)
    count = zeros.at[drawn.level].add(1)
    mean = zeros.at[drawn.level].add(score) / jnp.maximum(count, 1)
    return state.replace(
      score=jnp.where(count > 0, mean, state.score),
      seen=state.seen | (count > 0),
    )

  def learns(self, drawn: Drawn) -> Bool[Array, ' n']:
    """Lanes that the agent learns from."""
    return drawn.replayed | (not self.robust)
