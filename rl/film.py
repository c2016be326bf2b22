"""Films of trained agents: frames, GIF files, and strips as PNG files."""

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
from rl.envs import frames as frames_lib
from rl.envs import lanes as lanes_lib
from rl.envs import pixels, protocol, scenes

__all__ = ['Film', 'Player', 'write_gif', 'write_strip']

# How white what is looked at most becomes.
_LIGHT = 0.7

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
    highlight: whether what the player looks at is painted white; the player
      then has `highlights(observations)`, a weight in [0, 1] for each pixel, as
      policies of `rl.implicit_attention` do.

  Raises:
    ValueError: if a number is not positive, there is nothing to see, or what is
      seen is not what the policy sees and cannot be highlighted.
  """

  env: protocol.VectorEnvironment
  draw: pixels.Draw | None = None
  num_frames: int = 200
  size: int = 128
  every: int = 1
  frame_s: float = 0.04
  highlight: bool = False

  def __post_init__(self) -> None:
    ranges.check_counts(
      num_frames=self.num_frames, size=self.size, every=self.every
    )
    ranges.check_positive(frame_s=self.frame_s)
    seen = hasattr(self.env, 'render') or _shows_pictures(self.env)
    if self.draw is None and not seen:
      raise ValueError(
        'an environment without pictures needs draw if it is in JAX, and '
        'mujoco_film.MujocoFilm if it is of MuJoCo, got '
        f'{self.env.observation_space}'
      )
    if self.draw is not None and not isinstance(self.env, lanes_lib.Lanes):
      raise ValueError(f'draw needs Lanes of a JAX environment, got {self.env}')
    if self.highlight and not (self.draw is None and _shows_pictures(self.env)):
      raise ValueError(
        'highlight needs an environment that observes pictures, and no draw, '
        f'got {self.env.observation_space} {self.draw=}'
      )

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
    lights = jax.jit(player.highlights) if self.highlight else None
    step = jax.jit(env.step) if env.pure else env.step
    key, reset_key = jax.random.split(key)
    state, seen = env.reset(jax.random.split(reset_key, env.num_lanes))
    memory = player.initial_memory(env.num_lanes)
    first = jnp.ones(env.num_lanes, bool)
    frames = []
    for time in range(self.num_frames * self.every):
      if time % self.every == 0:
        frames.append(self._frame(state, seen, lights))
      memory, action = act(memory, seen, first, jax.random.fold_in(key, time))
      state, given = step(state, action if env.pure else np.asarray(action))
      seen, first = given.observation, rollout.begins(env, given)
    return np.stack(frames)

  def _frame(
    self, state: Any, seen: Any, lights: Callable[[Any], Array] | None
  ) -> UInt8[np.ndarray, 'h w 3']:
    if self.draw is not None:
      pictures = _drawn(self, state.env)
    elif lights is None and hasattr(self.env, 'render'):
      pictures = self.env.render(state)
    else:
      # Of a stack the newest is last; of a picture the colours are first.
      pictures = seen[..., -frames_lib.picture_channels(self.env) :][..., :3]
    pictures = np.asarray(pictures)
    if lights is not None:
      share = _LIGHT * np.asarray(lights(seen))[..., None]
      pictures = np.uint8((1 - share) * pictures + share * 255)
    factor = max(1, self.size // pictures.shape[1])
    pictures = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    pictures = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.concatenate(list(pictures), axis=1)


def _shows_pictures(env: protocol.VectorEnvironment) -> bool:
  """Channels last, perhaps several pictures in a stack."""
  space = env.observation_space
  return (
    space.dtype == 'uint8'
    and len(space.shape) == 3
    and space.shape[2] % frames_lib.picture_channels(env) == 0
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
  path = _made(path)
  first, *rest = (_image(frame) for frame in frames)
  first.save(
    path,
    save_all=True,
    append_images=rest,
    duration=round(1000 * frame_s),
    loop=0,
  )
  return path


def write_strip(
  frames: UInt8[np.ndarray, 't h w 3'],
  path: str | os.PathLike[str],
  *,
  count: int = 6,
) -> pathlib.Path:
  """Writes some frames of a film, evenly spaced, one below the other.

  Args:
    frames: RGB.
    path: of the PNG file; folders are made.
    count: frames, at most.

  Returns:
    The path.

  Raises:
    ImportError: without Pillow, which the extra `report` brings.
  """
  chosen = np.linspace(0, len(frames) - 1, min(count, len(frames)))
  path = _made(path)
  _image(np.concatenate(frames[chosen.round().astype(int)])).save(path)
  return path


def _made(path: str | os.PathLike[str]) -> pathlib.Path:
  """The path, whose folder exists now."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


def _image(frame: UInt8[np.ndarray, 'h w 3']) -> Any:
  try:
    from PIL import Image
  except ModuleNotFoundError as error:
    raise ImportError(
      "films need Pillow: pip install 'attune[report]' (extra `report`)"
    ) from error
  return Image.fromarray(frame)
