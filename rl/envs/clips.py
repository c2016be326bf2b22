"""Backgrounds of simulators' pictures: drawn here, or from a folder."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from rl.envs import distractions, levels, scenes

__all__ = ['Clip', 'Clips', 'Folder', 'Procedural']

# The picture at a time, in steps.
Clip = Callable[[int], UInt8[np.ndarray, 's s 3']]

_KINDS = ('.jpg', '.jpeg', '.png')
# Sides of a drawn clip, in units of the plane that the waves are drawn on: a
# view of 45 degrees shows tan(22.5 degrees) = 0.41 of a sky's side.
_REACH = 2.4


@runtime_checkable
class Clips(Protocol):
  """A source of backgrounds; immutable."""

  def clip(self, random: np.random.Generator, size: int, moving: bool) -> Clip:
    """Draws a clip.

    Args:
      random: from which it is drawn.
      size: pixels along each side.
      moving: whether it changes with time.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Procedural:
  """Clips drawn from their numbers: nothing needs to be there.

  Attributes:
    kind: one of `distractions.BACKGROUNDS`.
    num_clips: number of clips; 0 for no limit.
    first_clip: number of the first, to keep training and test apart.

  Raises:
    ValueError: if there is no such kind or range.
  """

  kind: str = 'waves'
  num_clips: int = 0
  first_clip: int = 0

  def __post_init__(self) -> None:
    if self.kind not in distractions.BACKGROUNDS:
      raise ValueError(
        f'kind must be one of {distractions.BACKGROUNDS}, got {self.kind!r}'
      )
    levels.check_levels(self.num_clips, self.first_clip)

  def clip(self, random: np.random.Generator, size: int, moving: bool) -> Clip:
    """See `Clips`."""
    number = levels.draw_on_host(random, self.num_clips, self.first_clip)

    def show(time: int) -> UInt8[np.ndarray, 's s 3']:
      drawn = _drawn(self.kind, size, jnp.int32(number), jnp.int32(time))
      return np.asarray(drawn)

    if moving:
      return show
    picture = show(0)
    return lambda time: picture


@functools.partial(jax.jit, static_argnums=(0, 1))
def _drawn(
  kind: str, size: int, seed: Int[Array, ''], time: Int[Array, '']
) -> UInt8[Array, 's s 3']:
  points = _REACH * scenes.grid(size)
  picture: Float[Array, 's s 3'] = distractions.backdrop(
    kind, seed, time, points
  )
  return jnp.round(255 * picture).astype('uint8')


@dataclasses.dataclass(frozen=True)
class Folder:
  """Pictures of a folder, such as the frames of DAVIS 2017.

  Each sub-folder with pictures is a clip, in the order of names, its frames
  too; pictures beside them are one more clip, the first. A moving clip begins
  anywhere, in either direction, and turns round at its ends; one that does not
  move is one of its pictures. They are squeezed into squares.

  Attributes:
    path: of the folder.
    num_clips: only the first ones; None: all.

  Raises:
    ImportError: without Pillow.
    ValueError: if the folder does not have as many clips.
  """

  path: str | os.PathLike[str]
  num_clips: int | None = None

  def __post_init__(self) -> None:
    found = len(_files(os.fspath(self.path)))
    least = 1 if self.num_clips is None else self.num_clips
    if not 1 <= least <= found:
      raise ValueError(
        f'path must have num_clips (at least 1) folders of {_KINDS}, got '
        f'{found} in {os.fspath(self.path)!r} with {self.num_clips=}'
      )

  def clip(self, random: np.random.Generator, size: int, moving: bool) -> Clip:
    """See `Clips`."""
    clips = _files(os.fspath(self.path))[: self.num_clips]
    files = clips[random.integers(len(clips))]
    start = int(random.integers(len(files)))
    sign = int(random.choice([-1, 1]))

    def show(time: int) -> UInt8[np.ndarray, 's s 3']:
      place = start + sign * time if moving else start
      return _loaded(files[_turning(place, len(files))], size)

    return show


def _turning(place: int, count: int) -> int:
  """0, 1, ..., count - 1, count - 2, ..., 0, 1, ..."""
  last = count - 1
  return last - abs(place % (2 * last) - last) if last else 0


@functools.lru_cache(maxsize=8)
def _files(path: str) -> tuple[tuple[pathlib.Path, ...], ...]:
  """Pictures of the folder, then of its folders; only where there are any."""
  folder = pathlib.Path(path)
  if not folder.is_dir():
    raise ValueError(f'path must be a folder, got {path!r}')
  folders = [folder, *sorted(x for x in folder.iterdir() if x.is_dir())]
  found = [
    tuple(sorted(x for x in f.iterdir() if x.suffix.lower() in _KINDS))
    for f in folders
  ]
  return tuple(files for files in found if files)


# All of DAVIS at 64 pixels are 75 MB.
@functools.lru_cache(maxsize=8192)
def _loaded(path: pathlib.Path, size: int) -> UInt8[np.ndarray, 's s 3']:
  try:
    from PIL import Image
  except ModuleNotFoundError as error:
    raise ImportError(
      "pictures need Pillow: pip install 'attune[report]' (extra `report`)"
    ) from error
  with Image.open(path) as image:
    resized = image.convert('RGB').resize(
      (size, size), Image.Resampling.BILINEAR
    )
  return np.asarray(resized)
