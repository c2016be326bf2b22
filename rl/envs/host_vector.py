"""The base of simulators on the host: checks, tokens, statistics."""

import abc
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key, Shaped

from rl import ranges
from rl.envs import checks, lanes, protocol, spaces

__all__ = ['HostState', 'HostVector', 'Seen', 'count_steps', 'seeds']


class HostState(NamedTuple):
  """A token of where the simulators are; only the newest one is good.

  Attributes:
    count: steps and resets so far.
    waits: bool [n]; whether the next step only resets the lane.
    stats: episode statistics, as of `lanes.Lanes`, in NumPy.
  """

  count: int
  waits: Shaped[np.ndarray, ' n']
  stats: lanes.EpisodeStats


class Seen(NamedTuple):
  """The result of a simulator's step, in its own dtypes; [n, ...] each.

  Attributes:
    observation: after the step; where an episode ended and the lanes reset at
      once, of the next episode.
    reward: any value in lanes that only reset.
    terminated: whether the task ended.
    truncated: whether the time was up; may be true where `terminated` is.
    info: extra values.
    final_observation: observation that the step itself led to; None:
      `observation`.
  """

  observation: Any
  reward: Any
  terminated: Any
  truncated: Any
  info: dict[str, Any]
  final_observation: Any = None


def seeds(keys: Key[Array, ' n']) -> list[int]:
  """One seed per key, from 0 to 2^31 - 1, the range of every simulator."""
  bits = np.asarray(jax.vmap(jax.random.bits)(keys))
  return [int(x) >> 1 for x in bits]


class HostVector(abc.ABC):
  """Lanes of simulators as a `protocol.VectorEnvironment`.

  A subclass resets, steps and closes. Here actions are checked before a simulator sees
  them, and floats clipped to their bounds; observations are copied into the
  space's dtype; steps that only reset are masked; episodes are counted.

  Args:
    num_lanes: n.
    observation_space: of one lane.
    action_space: of one lane.
    resets_at_once: whether the step that ends an episode shows the next one.

  Raises:
    ValueError: if num_lanes < 1.
  """

  reopens = False  # Whether a reset opens simulators that were closed.

  def __init__(
    self,
    *,
    num_lanes: int,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    resets_at_once: bool,
  ) -> None:
    ranges.check_counts(num_lanes=num_lanes)
    self.num_lanes = num_lanes
    self.observation_space = observation_space
    self.action_space = action_space
    self.pure = False
    self.resets_at_once = resets_at_once
    self._count = 0
    self._closed = False

  @abc.abstractmethod
  def _reset(self, seeds: list[int]) -> Any:
    """Starts new episodes; returns the observations."""

  @abc.abstractmethod
  def _step(self, action: Shaped[np.ndarray, 'n ...']) -> Seen:
    """Steps all lanes; actions are within their space."""

  @abc.abstractmethod
  def _close(self) -> None:
    """Closes the simulators; may be called twice."""

  def close(self) -> None:
    """Closes the simulators; only those that can open again can be reset."""
    self._close()
    self._closed = True

  def _check_open(self, what: str) -> None:
    if self._closed:
      remedy = 'reset them' if self.reopens else 'build new ones'
      raise ValueError(
        f'{what} must come before close: these lanes, of '
        f'{type(self).__name__}, were closed; {remedy}'
      )

  def reset(
    self, keys: Key[Array, ' n']
  ) -> tuple[HostState, Shaped[np.ndarray, 'n ...']]:
    """Starts new episodes; each lane's seed is drawn from its key.

    Raises:
      ValueError: if the keys are not one per lane, or the lanes are closed and
        cannot open again.
    """
    checks.check_keys(keys, self.num_lanes)
    if not self.reopens:
      self._check_open('reset')
    self._closed = False
    observation = self._copied(self._reset(seeds(keys)))
    n = self.num_lanes
    zeros, none = np.zeros(n, np.int32), np.zeros(n, np.float32)
    stats = lanes.EpisodeStats(none, zeros, none, zeros, zeros)
    return self._token(np.zeros(n, bool), stats), observation

  def step(
    self, state: HostState, action: Shaped[Array | np.ndarray, 'n ...']
  ) -> tuple[HostState, protocol.Transition]:
    """Steps the simulators.

    Raises:
      ValueError: if the lanes are closed, the state is not the newest one, or
        as `checks.check_action`.
    """
    self._check_open('step')
    if state.count != self._count:
      raise ValueError(
        'state must be what the last reset or step returned, '
        f'got {state.count=}, the newest is {self._count}'
      )
    checks.check_action(self.action_space, action, num_lanes=self.num_lanes)
    seen = self._step(self._within(np.asarray(action)))
    observation = self._copied(seen.observation)
    final = observation
    if seen.final_observation is not None:
      final = self._copied(seen.final_observation)
    valid = ~state.waits
    terminated = np.array(seen.terminated, bool) & valid
    truncated = np.array(seen.truncated, bool) & valid & ~terminated
    ended = terminated | truncated
    reward = np.where(valid, seen.reward, 0).astype(np.float32)
    stats = count_steps(state.stats, reward, valid, ended)
    waits = ended & (not self.resets_at_once)
    return self._token(waits, stats), protocol.Transition(
      observation, reward, terminated, truncated, final, valid, seen.info
    )

  def _token(self, waits: np.ndarray, stats: lanes.EpisodeStats) -> HostState:
    self._count += 1
    return HostState(self._count, waits, stats)

  def _copied(self, observation: Any) -> np.ndarray:
    return np.array(observation, self.observation_space.dtype)

  def _within(self, action: np.ndarray) -> np.ndarray:
    if isinstance(self.action_space, spaces.Box):
      action = np.clip(action, *self.action_space.bounds)
    return action


def count_steps(
  stats: lanes.EpisodeStats,
  reward: np.ndarray,
  valid: np.ndarray,
  ended: np.ndarray,
) -> lanes.EpisodeStats:
  """Statistics of episodes, one step later.

  Args:
    stats: before it, [n] each.
    reward: float32 [n]; 0 where not valid.
    valid: bool [n]; which lanes acted.
    ended: bool [n]; where an episode ended.
  """
  total = stats.running_return + reward
  length = stats.running_length + valid.astype(np.int32)
  return lanes.EpisodeStats(
    running_return=np.where(ended, np.float32(0), total),
    running_length=np.where(ended, np.int32(0), length),
    last_return=np.where(ended, total, stats.last_return),
    last_length=np.where(ended, length, stats.last_length),
    episodes=stats.episodes + ended.astype(np.int32),
  )
