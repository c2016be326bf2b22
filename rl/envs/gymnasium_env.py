"""Vector environments of Gymnasium, stepped on the host."""

from typing import Any

import numpy as np
from jaxtyping import Shaped

from rl.envs import foreign_spaces, host_vector
from runtime import optional

__all__ = ['GymnasiumVector', 'make']

MODES = ('NextStep', 'SameStep')


class GymnasiumVector(host_vector.HostVector):
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
    super().__init__(
      num_lanes=int(env.num_envs),
      observation_space=foreign_spaces.convert(env.single_observation_space),
      action_space=foreign_spaces.convert(env.single_action_space),
      resets_at_once=self._mode == 'SameStep',
    )

  def _reset(self, seeds: list[int]) -> Any:
    return self._env.reset(seed=seeds)[0]

  def _step(self, action: Shaped[np.ndarray, 'n ...']) -> host_vector.Seen:
    dtype = self._env.single_action_space.dtype
    observation, reward, terminated, truncated, info = self._env.step(
      action.astype(dtype)
    )
    final = None
    ended = np.asarray(terminated) | np.asarray(truncated)
    if self.resets_at_once and ended.any():
      final = np.array(observation)
      final[ended] = np.stack(list(info['final_obs'][ended]))
    return host_vector.Seen(
      observation, reward, terminated, truncated, {}, final
    )

  def _close(self) -> None:
    self._env.close()


def make(name: str, num_lanes: int, **options: Any) -> GymnasiumVector:
  """Builds lanes of a Gymnasium environment, stepped one after another.

  Args:
    name: its id, such as 'CartPole-v1'.
    num_lanes: n.
    **options: for each environment.

  Raises:
    ImportError: if Gymnasium is not installed, naming the extra.
  """
  gymnasium = optional.load('gymnasium', extra='rl')
  env = gymnasium.make_vec(
    name, num_envs=num_lanes, vectorization_mode='sync', **options
  )
  return GymnasiumVector(env)
