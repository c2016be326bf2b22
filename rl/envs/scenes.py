"""Pictures from geometry, in pure JAX: no loop over pixels or objects.

The image plane is the square [-1, 1]^2, x to the right and y up. A scene says
how much of each material covers each point of a grid; composing it is one
matrix product. Because an environment is asked for its scene at given points,
a camera is a change of the points and a new background is a new ground.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree, UInt8

from rl.envs import protocol, spaces

__all__ = [
  'PixelEnvironment',
  'Scene',
  'Wrapper',
  'check_size',
  'compose',
  'cover',
  'distance',
  'grid',
  'picture',
  'pixel_width',
  'segment_distance',
]


class Scene(NamedTuple):
  """A scene to paint; colours are red, green, blue in [0, 1].

  Attributes:
    ground: behind everything, [h, w, 3], or [1, 1, 3] if of one colour.
    coverage: of each pixel by each of m materials, in [0, 1]; later ones lie
      over earlier ones.
    palette: their colours.
  """

  ground: Float[Array, '... 3']
  coverage: Float[Array, 'm h w']
  palette: Float[Array, 'm 3']


@runtime_checkable
class PixelEnvironment(Protocol):
  """An `protocol.Environment` that observes pictures of its scene.

  The observation is `picture(self, state)`.
  """

  @property
  def size(self) -> int:
    """Pixels along each side."""
    ...

  @property
  def observation_space(self) -> spaces.Space:
    """Square pictures."""
    ...

  @property
  def action_space(self) -> spaces.Space:
    """Space of one action."""
    ...

  @property
  def max_steps(self) -> int:
    """Steps after which lanes truncate an episode."""
    ...

  def reset(self, key: Key[Array, '']) -> tuple[PyTree, UInt8[Array, 's s 3']]:
    """Draws a first state and its picture."""
    ...

  def step(
    self, state: PyTree, action: Any, key: Key[Array, '']
  ) -> tuple[PyTree, protocol.Step]:
    """Advances by one step."""
    ...

  def scene(self, state: PyTree, points: Float[Array, 'h w 2']) -> Scene:
    """The scene of a state at points of the image plane."""
    ...


class Wrapper:
  """A pixel environment that shows another one's scene in its own way.

  Attributes:
    env: the other one.
  """

  env: PixelEnvironment

  @property
  def size(self) -> int:
    """Pixels along each side."""
    return self.env.size

  @property
  def max_steps(self) -> int:
    """See the environment."""
    return self.env.max_steps

  @property
  def observation_space(self) -> spaces.Space:
    """Pictures."""
    return self.env.observation_space

  @property
  def action_space(self) -> spaces.Space:
    """See the environment."""
    return self.env.action_space


def check_size(size: int) -> None:
  """Rejects a side that is too short to see anything.

  Raises:
    ValueError: naming it.
  """
  if size < 8:
    raise ValueError(f'size must be at least 8 pixels, got {size=}')


def grid(size: int) -> Float[Array, 's s 2']:
  """Centres of the pixels in the image plane, row 0 at the top."""
  axis = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
  return jnp.asarray(np.stack(np.meshgrid(axis, -axis), axis=-1))


def pixel_width(points: Float[Array, 'h w 2']) -> Float[Array, '']:
  """Distance between neighbouring points."""
  return jnp.sqrt(jnp.sum((points[0, 1] - points[0, 0]) ** 2))


def cover(
  distance: Float[Array, '...'], width: Float[Array, '']
) -> Float[Array, '...']:
  """Coverage of pixels whose centres have a signed distance from a shape.

  Args:
    distance: to the shape's edge, negative inside.
    width: of a pixel; edges are as soft as one.
  """
  return jnp.clip(0.5 - distance / width, 0.0, 1.0)


def segment_distance(
  points: Float[Array, 'h w 2'],
  start: Float[Array, '*n 2'],
  end: Float[Array, '*n 2'],
) -> Float[Array, '*n h w']:
  """Distances of points from line segments, or from dots where ends meet."""
  x, y = points[..., 0], points[..., 1]
  start, end = start[..., None, None, :], end[..., None, None, :]
  x, y = x - start[..., 0], y - start[..., 1]
  along_x, along_y = end[..., 0] - start[..., 0], end[..., 1] - start[..., 1]
  length = jnp.maximum(along_x**2 + along_y**2, 1e-12)
  share = jnp.clip((x * along_x + y * along_y) / length, 0.0, 1.0)
  x, y = x - share * along_x, y - share * along_y
  return jnp.sqrt(x**2 + y**2)


def distance(
  points: Float[Array, 'h w 2'], centre: Float[Array, '*n 2']
) -> Float[Array, '*n h w']:
  """Distances of points from centres."""
  centre = centre[..., None, None, :]
  x, y = points[..., 0] - centre[..., 0], points[..., 1] - centre[..., 1]
  return jnp.sqrt(x**2 + y**2)


def compose(scene: Scene) -> UInt8[Array, 'h w 3']:
  """Paints the materials over the ground, in order."""
  # A loop over the few materials fuses; products and sums along them do not.
  channels = []
  for channel in range(3):
    image = scene.ground[..., channel]
    for index in range(scene.coverage.shape[0]):
      color = scene.palette[index, channel]
      image = image + scene.coverage[index] * (color - image)
    channels.append(image)
  image = jnp.stack(channels, axis=-1)
  return jnp.round(255 * jnp.clip(image, 0.0, 1.0)).astype(jnp.uint8)


def picture(env: PixelEnvironment, state: PyTree) -> UInt8[Array, 's s 3']:
  """The observation of the environment in a state."""
  return compose(env.scene(state, grid(env.size)))
