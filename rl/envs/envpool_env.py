"""Simulators of EnvPool, stepped by its own threads."""

import difflib
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from rl import ranges
from rl.envs import foreign_spaces, frames, host_vector, spaces
from runtime import optional

__all__ = ['EnvPoolVector', 'car_racing', 'take_cover']

_OURS = ('num_envs', 'batch_size', 'seed', 'env_seed')


class EnvPoolVector(host_vector.HostVector):
  """Lanes of a task of EnvPool as a `protocol.VectorEnvironment`.

  The step after an end ignores its action and shows the new episode: it is not
  `valid` and its reward is 0. Pictures are uint8 [height, width, channels],
  wherever the task has its channels; numbers are float32. Tasks that observe
  several arrays, such as states of dm_control, observe them flattened and
  joined in the alphabetical order of their names.

  EnvPool takes seeds only when it is built, so that every reset builds it
  anew: about three milliseconds a lane of MuJoCo, less elsewhere, and seconds the
  first time where a task has assets to load. A lane is a function of its key
  and its actions. A pickle is of the arguments, not of running simulators.

  Args:
    task: an id of EnvPool, such as 'HalfCheetah-v4' or 'CheetahRun-v1'.
    num_lanes: n.
    step_reward: of every step that is not a reset, instead of the task's own;
      None: the task's.
    info: names of extra values that transitions carry, such as 'level_seed'.
    **options: of the task, such as num_threads or max_episode_steps.

  Raises:
    ImportError: if EnvPool is not installed, naming the extra.
    ValueError: if there is no such task, option or info, an option is the
      lanes' business, or a space is not supported.
  """

  reopens = True

  def __init__(
    self,
    task: str,
    num_lanes: int,
    *,
    step_reward: float | None = None,
    info: Sequence[str] = (),
    **options: Any,
  ) -> None:
    self._envpool = optional.load('envpool', extra='rl')
    ranges.check_counts(num_lanes=num_lanes)
    if ours := [name for name in _OURS if name in options]:
      raise ValueError(f'options {ours} are set by the lanes, got {options}')
    known = self._envpool.list_all_envs()
    if task not in known:
      near = difflib.get_close_matches(task, known)
      raise ValueError(
        f'task must be one of EnvPool, got {task!r}; near: {near}'
      )
    self._task, self._options = task, options
    self._step_reward, self._info = step_reward, tuple(info)
    self._pool: Any = None
    spec = self._spec(num_lanes)
    observation = spec.gymnasium_observation_space
    self._first_channels = _channels_first(observation)
    with np.errstate(over='ignore'):
      # Bounds of float64 that are infinite in float32.
      observation_space = _observation_space(observation)
    super().__init__(
      num_lanes=num_lanes,
      observation_space=observation_space,
      action_space=foreign_spaces.convert(spec.gymnasium_action_space),
      resets_at_once=False,
    )

  def _spec(self, num_lanes: int) -> Any:
    """EnvPool's spec of the task; checks options and names of infos."""
    make = functools.partial(self._envpool.make_spec, self._task)
    defaults = make(num_envs=num_lanes).config._asdict()
    options = self._options
    if unknown := [name for name in options if name not in defaults]:
      allowed = sorted({*defaults} - {*_OURS})
      raise ValueError(
        f'options of {self._task} must be among {allowed}, got {unknown}'
      )
    ranges.check_counts(max_episode_steps=options.get('max_episode_steps'))
    ranges.check_counts(least=0, num_threads=options.get('num_threads'))
    try:
      spec = make(num_envs=num_lanes, **options)
    except TypeError as error:
      like = {name: defaults[name] for name in options}
      raise ValueError(
        f'options of {self._task} must be of the types of {like}, got {options}'
      ) from error
    infos = {
      name.removeprefix('info:')
      for name in spec.state_array_spec
      if name.startswith('info:') and '.' not in name
    } | {'elapsed_step'}
    if missing := [name for name in self._info if name not in infos]:
      raise ValueError(
        f'info of {self._task} must be among {sorted(infos)}, got {missing}'
      )
    return spec

  def __reduce__(self) -> tuple:
    """Pickled as its arguments: other processes build their own."""
    settings = {'step_reward': self._step_reward, 'info': self._info}
    make = functools.partial(EnvPoolVector, **settings, **self._options)
    return make, (self._task, self.num_lanes)

  def _reset(self, seeds: list[int]) -> Any:
    self._close()
    self._pool = self._envpool.make_gymnasium(
      self._task, num_envs=self.num_lanes, seed=seeds, **self._options
    )
    return self._joined(self._pool.reset()[0])

  def _step(self, action: Shaped[np.ndarray, 'n ...']) -> host_vector.Seen:
    observation, reward, terminated, truncated, info = self._pool.step(action)
    if self._step_reward is not None:
      reward = np.full(self.num_lanes, self._step_reward, np.float32)
    extra = {name: np.array(info[name]) for name in self._info}
    observation = self._joined(observation)
    return host_vector.Seen(observation, reward, terminated, truncated, extra)

  def _joined(self, observation: Any) -> Shaped[np.ndarray, 'n ...']:
    if isinstance(observation, Mapping):
      n = self.num_lanes
      parts = [np.reshape(x, (n, -1)) for x in _leaves(observation)]
      return np.concatenate(parts, axis=1)
    if self._first_channels:
      return np.moveaxis(observation, 1, -1)
    return observation

  def _close(self) -> None:
    if self._pool is not None:
      self._pool.close()
      self._pool = None


def _leaves(tree: Any) -> list[Any]:
  if not isinstance(tree, Mapping):
    return [tree]
  return [leaf for name in sorted(tree) for leaf in _leaves(tree[name])]


def _channels_first(space: Any) -> bool:
  """Whether a space has pictures whose shortest side comes first."""
  shape = getattr(space, 'shape', None)
  if shape is None or len(shape) != 3 or space.dtype != np.uint8:
    return False
  return shape[0] < min(shape[1:])


def _observation_space(space: Any) -> spaces.Space:
  if isinstance(space, Mapping):
    parts = [foreign_spaces.convert(leaf) for leaf in _leaves(space)]
    if not all(np.issubdtype(part.dtype, np.floating) for part in parts):
      raise ValueError(
        f'several arrays must be floats to be joined, got {space}'
      )
    size = sum(math.prod(part.shape) for part in parts)
    return spaces.Box((size,), -math.inf, math.inf)
  converted = foreign_spaces.convert(space)
  if _channels_first(space):
    channels, height, width = converted.shape
    return spaces.Box((height, width, channels), 0, 255, 'uint8')
  return converted


def take_cover(
  num_lanes: int,
  *,
  size: int = 84,
  stack: int = 1,
  frame_skip: int = 4,
  **options: Any,
) -> EnvPoolVector:
  """VizDoom's TakeCover: dodge fireballs; stay, left or right.

  As in the scenario, the reward is 1 per tic of the game that was survived,
  where EnvPool's default rewards health; its last step counts in full.
  EnvPool's time limit of 525 steps of 4 tics is the published 2100 tics.

  The first reset starts ViZDoom, which leaves `_vizdoom.ini` in the working
  folder, and was seen to hang in a process where dm_control had rendered.

  Args:
    num_lanes: n.
    size: pixels along each side.
    stack: RGB pictures in an observation, the newest last.
    frame_skip: tics per step.
    **options: of EnvPool, such as max_episode_steps.

  Raises:
    ImportError: if EnvPool is not installed, naming the extra.
  """
  return EnvPoolVector(
    'TakeCover-v1',
    num_lanes,
    step_reward=float(frame_skip),
    use_combined_action=True,
    reward_config={},
    img_height=size,
    img_width=size,
    stack_num=stack,
    frame_skip=frame_skip,
    **options,
  )


def car_racing(
  num_lanes: int, *, size: int = 96, **options: Any
) -> EnvPoolVector | frames.Downscaled:
  """Box2D's CarRacing with continuous actions: steer, gas, brake.

  `cutoffs.CutOff` ends its episodes early, as in published training.

  Args:
    num_lanes: n.
    size: pixels along each side; a divisor of 96.
    **options: of EnvPool.

  Raises:
    ImportError: if EnvPool is not installed, naming the extra.
    ValueError: if the size does not divide 96.
  """
  if size < 1 or 96 % size:
    raise ValueError(f'size must be a divisor of 96, got {size=}')
  env = EnvPoolVector('CarRacing-v3', num_lanes, **options)
  return env if size == 96 else frames.Downscaled(env, 96 // size)
