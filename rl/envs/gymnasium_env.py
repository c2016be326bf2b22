"""Vector environments of Gymnasium, stepped on the host."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key, Shaped

from rl.envs import checks, foreign_spaces, lanes, optional, protocol, spaces

__all__ = ['GymnasiumState', 'GymnasiumVector', 'make']

MODES = ('NextStep', 'SameStep')


class GymnasiumState(NamedTuple):
  """A token of where the simulators are; only the newest one is good.

  Attributes:
    count: steps and resets so far.
    waits: bool [n]; whether the next step only resets the lane.
    stats: episode statistics, as of `lanes.Lanes`, in NumPy.
  """

  count: int
  waits: Shaped[np.ndarray, ' n']
  stats: lanes.EpisodeStats


class GymnasiumVector:
  """A Gymnasium vector environment as a `protocol.VectorEnvironment`.

  With autoreset 'NextStep' the step after an end ignores its action and shows
  the new episode: it is not `valid`, and the step that ended the episode shows
  its own last observation. With 'SameStep' the ending step shows the new
  episode, and its own observation is `final_observation`. Actions are checked
  on the host, and floats clipped to their bounds. Values come as NumPy arrays
  (float64 as float32), copied; Gymnasium's infos are left out.

  Args:
    env: the vector environment, owned from now on.

  Raises:
    ValueError: if its autoreset mode or a space is not supported.
  """

  def __init__(self, env: Any) -> None:
    mode = env.metadata.get('autoreset_mode')
    self._mode = str(getattr(mode, 'value', mode))
    if self._mode not in MODES:
      raise ValueError(
        f'autoreset_mode of the environment must be one of {MODES}, '
        f'got {mode!r}'
      )
    self._env = env
    self._count = 0
    self.num_lanes = int(env.num_envs)
    self.pure = False
    self.resets_at_once = self._mode == 'SameStep'
    self.observation_space: spaces.Space = foreign_spaces.convert(
      env.single_observation_space
    )
    self.action_space: spaces.Space = foreign_spaces.convert(
      env.single_action_space
    )

  def reset(
    self, keys: Key[Array, ' n']
  ) -> tuple[GymnasiumState, Shaped[np.ndarray, 'n ...']]:
    """Starts new episodes; each lane's seed is drawn from its key.

    Raises:
      ValueError: if the keys are not one per lane.
    """
    checks.check_keys(keys, self.num_lanes)
    bits = np.asarray(jax.vmap(jax.random.bits)(keys))
    observation, _ = self._env.reset(seed=[int(x) >> 1 for x in bits])
    n = self.num_lanes
    zeros, none = np.zeros(n, np.int32), np.zeros(n, np.float32)
    stats = lanes.EpisodeStats(none, zeros, none, zeros, zeros)
    return self._token(np.zeros(n, bool), stats), self._seen(observation)

  def step(
    self, state: GymnasiumState, action: Shaped[Array | np.ndarray, 'n ...']
  ) -> tuple[GymnasiumState, protocol.Transition]:
    """Steps the simulators.

    Raises:
      ValueError: if the state is not the newest one, or as
        `checks.check_action`.
    """
    if state.count != self._count:
      raise ValueError(
        'state must be what the last reset or step returned, '
        f'got {state.count=}, the newest is {self._count}'
      )
    checks.check_action(self.action_space, action, num_lanes=self.num_lanes)
    observation, reward, terminated, truncated, info = self._env.step(
      self._native(action)
    )
    observation = self._seen(observation)
    terminated = np.array(terminated, bool)
    truncated = np.array(truncated, bool) & ~terminated
    ended, valid = terminated | truncated, ~state.waits
    final = observation
    if self._mode == 'SameStep' and ended.any():
      final = observation.copy()
      final[ended] = np.stack(list(info['final_obs'][ended]))
    reward = np.where(valid, reward, 0).astype(np.float32)
    stats = _count(state.stats, reward, valid, ended)
    waits = ended & (self._mode == 'NextStep')
    return self._token(waits, stats), protocol.Transition(
      observation, reward, terminated, truncated, final, valid, {}
    )

  def close(self) -> None:
    """Closes the simulators."""
    self._env.close()

  def _token(
    self, waits: np.ndarray, stats: lanes.EpisodeStats
  ) -> GymnasiumState:
    self._count += 1
    return GymnasiumState(self._count, waits, stats)

  def _seen(self, observation: Any) -> np.ndarray:
    return np.array(observation, self.observation_space.dtype)

  def _native(self, action: Any) -> np.ndarray:
    """Within bounds, in the simulators' own dtype."""
    action = np.asarray(action)
    if isinstance(self.action_space, spaces.Box):
      action = np.clip(action, *self.action_space.bounds)
    return action.astype(self._env.single_action_space.dtype)


def _count(
  stats: lanes.EpisodeStats,
  reward: np.ndarray,
  valid: np.ndarray,
  ended: np.ndarray,
) -> lanes.EpisodeStats:
  total = stats.running_return + reward
  length = stats.running_length + valid.astype(np.int32)
  return lanes.EpisodeStats(
    running_return=np.where(ended, np.float32(0), total),
    running_length=np.where(ended, np.int32(0), length),
    last_return=np.where(ended, total, stats.last_return),
    last_length=np.where(ended, length, stats.last_length),
    episodes=stats.episodes + ended.astype(np.int32),
  )


def make(name: str, num_lanes: int, **options: Any) -> GymnasiumVector:
  """Builds lanes of a Gymnasium environment, stepped one after another.

  Args:
    name: its id, such as 'CartPole-v1'.
    num_lanes: n.
    **options: for each environment.

  Raises:
    ImportError: if Gymnasium is not installed, naming the extra.
  """
  gymnasium = optional.load('gymnasium')
  env = gymnasium.make_vec(
    name, num_envs=num_lanes, vectorization_mode='sync', **options
  )
  return GymnasiumVector(env)
