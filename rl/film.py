"""Films of trained agents, as frames and as GIF files."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree, UInt8

from rl import ranges, rollout
from rl.envs import lanes as lanes_lib
from rl.envs import pixels, protocol, scenes, spaces

__all__ = ['Film', 'Player', 'write_gif']

# (memory, observation, first, key) -> (memory, action), of n lanes.
Act = Callable[[PyTree, Any, Any, Key[Array, '']], tuple[PyTree, Any]]


@runtime_checkable
class Player(Protocol):
  """Acts as it has learnt to; functions are pure."""

  def initial_memory(self, num_lanes: int) -> PyTree:
    """The memory of lanes at the start of an episode."""
    ...

  def act(
    self, memory: PyTree, observation: Any, first: Any, key: Key[Array, '']
  ) -> tuple[PyTree, Any]:
    """The memory after, and the actions on, observations of n lanes."""
    ...


@dataclasses.dataclass(frozen=True)
class Film:
  """Settings of a film.

  Attributes:
    env: the lanes, side by side in the film; what is filmed is what they
      `render`, as `mujoco_film.MujocoFilm` does, or else their observations, if
      these are pictures.
    draw: the scene of a JAX environment that shows no pictures, as of
      `pixels.PixelView`; None otherwise.
    num_frames: length of the film.
    size: pixels along each side of a lane; observations are enlarged by the
      largest factor that stays within it.
    every: steps per frame.
    frame_s: seconds per frame.

  Raises:
    ValueError: if a number is not positive, or there is nothing to see.
  """

  env: protocol.VectorEnvironment
  draw: pixels.Draw | None = None
  num_frames: int = 200
  size: int = 128
  every: int = 1
  frame_s: float = 0.04

  def __post_init__(self) -> None:
    ranges.check_counts(
      num_frames=self.num_frames, size=self.size, every=self.every
    )
    ranges.check_positive(frame_s=self.frame_s)
    seen = hasattr(self.env, 'render') or _is_picture(
      self.env.observation_space
    )
    if self.draw is None and not seen:
      raise ValueError(
        'an environment without pictures needs draw if it is in JAX, and '
        'mujoco_film.MujocoFilm if it is of MuJoCo, got '
        f'{self.env.observation_space}'
      )
    if self.draw is not None and not isinstance(self.env, lanes_lib.Lanes):
      raise ValueError(f'draw needs Lanes of a JAX environment, got {self.env}')

  def shoot(
    self, player: Player, key: Key[Array, '']
  ) -> UInt8[np.ndarray, 't h w 3']:
    """Films a player from the start of an episode on.

    Args:
      player: the player that acts.
      key: of lanes and actions.

    Returns:
      Frames.

    Raises:
      RendererError: if the lanes draw themselves and cannot.
    """
    env = self.env
    act = jax.jit(player.act)
    step = jax.jit(env.step) if env.pure else env.step
    key, reset_key = jax.random.split(key)
    state, seen = env.reset(jax.random.split(reset_key, env.num_lanes))
    memory = player.initial_memory(env.num_lanes)
    first = jnp.ones(env.num_lanes, bool)
    frames = []
    for time in range(self.num_frames * self.every):
      if time % self.every == 0:
        frames.append(self._frame(state, seen))
      memory, action = act(memory, seen, first, jax.random.fold_in(key, time))
      state, given = step(state, action if env.pure else np.asarray(action))
      seen, first = given.observation, rollout.begins(env, given)
    return np.stack(frames)

  def write(
    self, player: Player, key: Key[Array, ''], path: str | os.PathLike[str]
  ) -> pathlib.Path:
    """Films a player, and writes the film as GIF; see `shoot`, `write_gif`."""
    return write_gif(self.shoot(player, key), path, frame_s=self.frame_s)

  def _frame(self, state: Any, seen: Any) -> UInt8[np.ndarray, 'h w 3']:
    pictures = seen
    if self.draw is not None:
      pictures = _drawn(self, state.env)
    elif hasattr(self.env, 'render'):
      pictures = self.env.render(state)
    pictures = np.asarray(pictures)
    # Stacked frames: the newest is last.
    pictures = pictures[..., -3:]
    factor = max(1, self.size // pictures.shape[1])
    pictures = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    pictures = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.concatenate(list(pictures), axis=1)


def _is_picture(space: spaces.Space) -> bool:
  """Channels last, RGB, perhaps several in a stack."""
  return (
    space.dtype == 'uint8' and len(space.shape) == 3 and space.shape[2] % 3 == 0
  )


def _drawn(film: Film, state: PyTree) -> Array:
  view = pixels.PixelView(film.env.env, film.draw, film.size)
  return _pictures(view, state)


@jax.jit(static_argnums=0)
def _pictures(view: pixels.PixelView, state: PyTree) -> Array:
  return jax.vmap(lambda one: scenes.picture(view, one))(state)


def write_gif(
  frames: UInt8[np.ndarray, 't h w 3'],
  path: str | os.PathLike[str],
  *,
  frame_s: float,
) -> pathlib.Path:
  """Writes a film that repeats for ever.

  Args:
    frames: RGB.
    path: of the file; folders are made.
    frame_s: seconds per frame.

  Returns:
    The path.

  Raises:
    ImportError: without Pillow, which the extra `report` brings.
  """
  try:
    from PIL import Image
  except ModuleNotFoundError as error:
    raise ImportError(
      "films need Pillow: pip install 'attune[report]' (extra `report`)"
    ) from error
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  first, *rest = (Image.fromarray(frame) for frame in frames)
  first.save(
    path,
    save_all=True,
    append_images=rest,
    duration=round(1000 * frame_s),
    loop=0,
  )
  return path
