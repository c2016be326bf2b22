"""Lanes: many copies of a JAX-native environment, stepped at once."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import (
  Array,
  Bool,
  Float,
  Int,
  Integer,
  Key,
  PyTree,
  Shaped,
  UInt,
)

from rl import ranges
from rl.envs import checks, protocol, spaces

__all__ = ['EpisodeStats', 'Lanes', 'LanesState', 'reset_key', 'step_key']


class EpisodeStats(NamedTuple):
  """Returns and lengths per lane, [n] each.

  Attributes:
    running_return: undiscounted sum of rewards of the running episode.
    running_length: its steps so far.
    last_return: return of the last finished episode; 0 before the first.
    last_length: its steps; 0 before the first.
    episodes: episodes finished since the reset.
  """

  running_return: Float[Array, ' n']
  running_length: Int[Array, ' n']
  last_return: Float[Array, ' n']
  last_length: Int[Array, ' n']
  episodes: Int[Array, ' n']


class LanesState(NamedTuple):
  """State of all lanes; every leaf has a leading axis of lanes.

  Attributes:
    env: the environment's states.
    observation: present observations of the lanes.
    keys: from which steps and resets draw, folded with the clock.
    clock: steps since the lanes' reset, over all episodes.
    done: whether the lane's episode is over and it waits; never with
      auto-reset.
    terminated: whether it was the task that ended, not the time.
    stats: episode statistics.
  """

  env: PyTree
  observation: Shaped[Array, 'n ...']
  keys: Key[Array, ' n']
  clock: UInt[Array, ' n']
  done: Bool[Array, ' n']
  terminated: Bool[Array, ' n']
  stats: EpisodeStats


@dataclasses.dataclass(frozen=True)
class Lanes:
  """A `protocol.VectorEnvironment` of one environment's copies.

  A lane is a function of its key and its actions: neither the number of lanes
  nor what happens in others changes it. Both functions may be jitted, scanned,
  mapped and sharded along the lanes.

  Without auto-reset a lane waits after its episode's end: its state and
  observation stay, its rewards are zero, its steps are not `valid`, and
  `terminated` and `truncated` keep saying how it ended.

  Attributes:
    env: the environment.
    num_lanes: n.
    auto_reset: whether a lane begins its next episode where one ended.
    max_steps: time limit; None takes the environment's.

  Raises:
    ValueError: if a number is not positive.
  """

  env: protocol.Environment
  num_lanes: int
  auto_reset: bool = True
  max_steps: int | None = None

  def __post_init__(self) -> None:
    ranges.check_counts(num_lanes=self.num_lanes, max_steps=self.limit)

  @property
  def limit(self) -> int:
    """Steps after which an episode is truncated."""
    return self.env.max_steps if self.max_steps is None else self.max_steps

  @property
  def observation_space(self) -> spaces.Space:
    """Space of one lane's observation."""
    return self.env.observation_space

  @property
  def action_space(self) -> spaces.Space:
    """Space of one lane's action."""
    return self.env.action_space

  @property
  def pure(self) -> bool:
    """True: reset and step may be traced."""
    return True

  @property
  def resets_at_once(self) -> bool:
    """True: no step is spent on resetting."""
    return True

  def reset(
    self, keys: Key[Array, ' n']
  ) -> tuple[LanesState, Shaped[Array, 'n ...']]:
    """Starts a new episode in every lane and clears the statistics.

    Args:
      keys: one per lane, of `jax.random.key`.

    Returns:
      State and observations.

    Raises:
      ValueError: if the keys are not one per lane.
    """
    checks.check_keys(keys, self.num_lanes)
    clock = jnp.zeros(self.num_lanes, jnp.uint32)
    env, observation = jax.vmap(self.env.reset)(_reset_keys(keys, clock))
    no = jnp.zeros(self.num_lanes, bool)
    zeros = jnp.zeros(self.num_lanes, jnp.int32)
    none = jnp.zeros(self.num_lanes, jnp.float32)
    stats = EpisodeStats(none, zeros, none, zeros, zeros)
    state = LanesState(env, observation, keys, clock, no, no, stats)
    return state, observation

  def step(
    self, state: LanesState, action: Shaped[Array | np.ndarray, 'n ...']
  ) -> tuple[LanesState, protocol.Transition]:
    """Advances every lane by one step.

    Args:
      state: of all lanes.
      action: one per lane; mended as `checks.sanitize_action` does.

    Returns:
      The new state and what the step gave.

    Raises:
      ValueError: as `checks.check_action`.
    """
    checks.check_action(self.action_space, action, num_lanes=self.num_lanes)
    action = checks.sanitize_action(self.action_space, jnp.asarray(action))
    step_keys = _step_keys(state.keys, state.clock)
    clock = state.clock + 1
    env, step = jax.vmap(self.env.step)(state.env, action, step_keys)
    late = state.stats.running_length + 1 >= self.limit
    if self.auto_reset:
      # Nobody waits: known when this is compiled, it costs no operations.
      acted = jnp.ones(self.num_lanes, bool)
      final, terminated = step.observation, step.terminated
      done = terminated | late
    else:
      acted = ~state.done
      env = _select(acted, env, state.env)
      final = _select(acted, step.observation, state.observation)
      terminated = jnp.where(acted, step.terminated, state.terminated)
      done = state.done | terminated | late
    reward = jnp.where(acted, step.reward, 0).astype(jnp.float32)
    stats = _count(state.stats, reward, acted, done)
    observation = final
    if self.auto_reset:
      env, observation = self._restart(done, state.keys, clock, env, final)
    transition = protocol.Transition(
      observation,
      reward,
      terminated,
      done & ~terminated,
      final,
      acted,
      step.info,
    )
    waits = done & (not self.auto_reset)
    ended = terminated & waits
    state = LanesState(env, observation, state.keys, clock, waits, ended, stats)
    return state, transition

  def _restart(
    self,
    done: Bool[Array, ' n'],
    keys: Key[Array, ' n'],
    clock: UInt[Array, ' n'],
    env: PyTree,
    observation: Shaped[Array, 'n ...'],
  ) -> tuple[PyTree, Shaped[Array, 'n ...']]:
    """New episodes where the old ones ended; drawn only if any did."""

    def some() -> tuple[PyTree, Shaped[Array, 'n ...']]:
      fresh = jax.vmap(self.env.reset)(_reset_keys(keys, clock))
      return _select(done, fresh, (env, observation))

    return jax.lax.cond(jnp.any(done), some, lambda: (env, observation))

  def close(self) -> None:
    """Does nothing: JAX frees the arrays."""


# Counters instead of splitting: what an environment does not draw is not
# computed, and even and odd counts keep resets and steps apart.
def reset_key(
  key: Key[Array, ''], clock: Integer[Array, ''] | int
) -> Key[Array, '']:
  """The key that a lane resets with after `clock` steps."""
  return jax.random.fold_in(key, 2 * clock)


def step_key(
  key: Key[Array, ''], clock: Integer[Array, ''] | int
) -> Key[Array, '']:
  """The key that a lane steps with after `clock` steps."""
  return jax.random.fold_in(key, 2 * clock + 1)


_reset_keys, _step_keys = jax.vmap(reset_key), jax.vmap(step_key)


def _select(where: Bool[Array, ' n'], new: PyTree, old: PyTree) -> PyTree:
  def pick(new: Array, old: Array) -> Array:
    return jnp.where(where.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  return jax.tree.map(pick, new, old)


def _count(
  stats: EpisodeStats,
  reward: Float[Array, ' n'],
  acted: Bool[Array, ' n'],
  done: Bool[Array, ' n'],
) -> EpisodeStats:
  total = stats.running_return + reward
  length = stats.running_length + acted
  ended = acted & done
  return EpisodeStats(
    running_return=jnp.where(ended, 0, total),
    running_length=jnp.where(ended, 0, length),
    last_return=jnp.where(ended, total, stats.last_return),
    last_length=jnp.where(ended, length, stats.last_length),
    episodes=stats.episodes + ended,
  )
