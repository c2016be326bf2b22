"""MuJoCo tasks of EnvPool, drawn: for films of policies that see states."""

import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Key, Shaped, UInt8

from rl import ranges
from rl.envs import (
  dm_control_env,
  envpool_env,
  lanes,
  protocol,
  rendering,
  spaces,
)
from runtime import optional

__all__ = ['FilmState', 'MujocoFilm']

_SHOWN = {'exclude_current_positions_from_observation': False}


class FilmState(NamedTuple):
  """Attributes: state of the lanes below, and all that they observe."""

  env: Any
  everything: Shaped[np.ndarray, 'n ...']

  @property
  def stats(self) -> lanes.EpisodeStats:
    """Statistics of the lanes below."""
    return self.env.stats


class MujocoFilm:
  """Lanes of a task of Gym that observe its states and can draw them.

  EnvPool's own renderer fails without a display. Here it only simulates: it
  shows the positions that these tasks hide from their policies too, as Swimmer-v4
  or HalfCheetah-v4 do, and MuJoCo draws those.

  Args:
    task: an id of EnvPool.
    num_lanes: n.
    size: pixels along each side.
    camera: its name in the task's model.
    **options: of `envpool_env.EnvPoolVector`.

  Raises:
    ImportError: if EnvPool is not installed, naming the extra.
    ValueError: as `envpool_env.EnvPoolVector`, also if the task does not show
      its positions.
  """

  pure = False
  resets_at_once = False

  def __init__(
    self,
    task: str,
    num_lanes: int,
    *,
    size: int = 128,
    camera: str = 'track',
    **options: Any,
  ) -> None:
    ranges.check_counts(size=size)
    seen = envpool_env.EnvPoolVector(task, num_lanes, **options)
    self._env = envpool_env.EnvPoolVector(task, num_lanes, **options, **_SHOWN)
    self.num_lanes = num_lanes
    self.observation_space: spaces.Space = seen.observation_space
    self.action_space: spaces.Space = seen.action_space
    (everything,), (shown,) = (
      env.observation_space.shape for env in (self._env, seen)
    )
    self._hidden = everything - shown
    self._size, self._camera = size, camera
    envpool = optional.load('envpool', extra='rl')
    name = envpool.make_spec(task, **options).config.xml_file
    # EnvPool's own models are of another version of MuJoCo.
    gymnasium = optional.load('gymnasium', extra='rl')
    assets = pathlib.Path(gymnasium.__file__).parent
    self._model = assets / 'envs' / 'mujoco' / 'assets' / name

  def reset(
    self, keys: Key[Array, ' n']
  ) -> tuple[FilmState, Shaped[np.ndarray, 'n ...']]:
    """Resets the lanes below."""
    state, everything = self._env.reset(keys)
    return FilmState(state, everything), everything[:, self._hidden :]

  def step(
    self, state: FilmState, action: Shaped[Array | np.ndarray, 'n ...']
  ) -> tuple[FilmState, protocol.Transition]:
    """Steps the lanes below."""
    env, seen = self._env.step(state.env, action)
    shown = seen._replace(
      observation=seen.observation[:, self._hidden :],
      final_observation=seen.final_observation[:, self._hidden :],
    )
    return FilmState(env, seen.observation), shown

  def close(self) -> None:
    """Closes simulators and renderer; a reset opens them again."""
    self._env.close()
    if '_renderer' in self.__dict__:
      self._renderer[1].close()
      del self._renderer

  @functools.cached_property
  def _renderer(self) -> tuple[Any, Any]:
    """MuJoCo's data, and its renderer."""
    rendering.choose_renderer()
    mujoco = optional.load('mujoco', extra='rl')
    model = mujoco.MjModel.from_xml_path(str(self._model))
    dm_control_env.draw_fast(model, self._size)
    try:
      return mujoco.MjData(model), mujoco.Renderer(
        model, self._size, self._size
      )
    except Exception as error:  # Each back end has its own.
      raise rendering.RendererError(
        "MuJoCo cannot draw here: install Debian's libosmesa6, or set MUJOCO_GL "
        f'to egl with a GPU; got {type(error).__name__}: {error}'
      ) from error

  def render(self, state: FilmState) -> UInt8[np.ndarray, 'n s s 3']:
    """Draws every lane.

    Args:
      state: result of the last reset or step.

    Raises:
      RendererError: if MuJoCo finds no renderer.
    """
    data, renderer = self._renderer  # First: it chooses what MuJoCo loads.
    mujoco = optional.load('mujoco', extra='rl')
    pictures = []
    for positions in state.everything:
      # Observations begin with the positions.
      data.qpos[:] = positions[: data.qpos.size]
      mujoco.mj_forward(data.model, data)
      renderer.update_scene(data, camera=self._camera)
      pictures.append(renderer.render())
    return np.stack(pictures)
