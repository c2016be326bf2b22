"""A car on a random closed track, seen from above and behind."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from rl.envs import levels, protocol, scenes, spaces

__all__ = ['LaneFollowing', 'LaneState', 'road_offset']

HARMONICS = 4
HALF_WIDTH = 0.1
SPEED = 0.04
STEERING = 0.25
VIEW = 0.45
CAR = (0.0, -0.5)


class LaneState(NamedTuple):
  """The position of the car, and the track.

  Attributes:
    position: of the car.
    heading: radians, anticlockwise from the x axis.
    waves: Fourier coefficients of the centre line's radius, cosines and sines
      of the angles 2, 3, 4 and 5 times.
    level: the track's number.
  """

  position: Float[Array, ' 2']
  heading: Float[Array, '']
  waves: Float[Array, 'k 2']
  level: Int[Array, '']


@dataclasses.dataclass(frozen=True)
class LaneFollowing:
  """Steers a car of constant speed along a closed road.

  The centre line is r(f) = 1 + sum_k a_k cos(k f + p_k), k = 2..5, with a_k
  from U(0, 0.5 / k^2) and p_k from U(0, 2 pi), driven anticlockwise; the road
  reaches 0.1 to both sides. Each step turns the car by 0.25 rad times the
  action and moves it by 0.04. The reward is the share of the lap made good in
  the step, in percent, while on the road, else 0: a clean lap gives 100 in
  about 160 steps. More than 0.3 from the centre line terminates. The picture
  turns with the car, which drives upwards in it. Distances from the road are
  those of first order: (rho - r) / |grad(rho - r)|. All constants are this
  project's own.

  Attributes:
    size: pixels along each side.
    num_levels: number of tracks; 0 for no limit.
    start_level: number of the first one.
    max_steps: time limit.

  Raises:
    ValueError: if size < 8 or the range of levels does not exist.
  """

  size: int = 48
  num_levels: int = 0
  start_level: int = 0
  max_steps: int = 200

  def __post_init__(self) -> None:
    scenes.check_size(self.size)
    levels.check_levels(self.num_levels, self.start_level)

  @property
  def observation_space(self) -> spaces.Space:
    """Pictures."""
    return spaces.pixels(self.size)

  @property
  def action_space(self) -> spaces.Space:
    """Steering: 1 is full left."""
    return spaces.Box((1,), -1.0, 1.0)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[LaneState, UInt8[Array, 's s 3']]:
    """Draws a track and puts the car on it, along the road."""
    which, place = jax.random.split(key)
    level = levels.draw_level(which, self.num_levels, self.start_level)
    draw = jax.random.uniform(levels.level_key(level, 1), (2, HARMONICS))
    order = jnp.arange(2, 2 + HARMONICS)
    phase = 2 * jnp.pi * draw[1]
    waves = jnp.stack([jnp.cos(phase), -jnp.sin(phase)], axis=1)
    waves = (0.5 / order**2 * draw[0])[:, None] * waves
    angle = jax.random.uniform(place, maxval=2 * math.pi)
    point = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    radius, slope = _radius(*point, waves)
    heading = angle + jnp.pi / 2 - jnp.arctan2(slope, radius)
    state = LaneState(radius * point, heading, waves, level)
    return state, scenes.picture(self, state)

  def step(
    self, state: LaneState, action: Float[Array, ' 1'], key: Key[Array, '']
  ) -> tuple[LaneState, protocol.Step]:
    """Turns, then drives; draws nothing from the key."""
    del key
    heading = state.heading + STEERING * jnp.clip(action[0], -1.0, 1.0)
    forward = jnp.stack([jnp.cos(heading), jnp.sin(heading)])
    old, position = state.position, state.position + SPEED * forward
    cross = old[0] * position[1] - old[1] * position[0]
    swept = jnp.arctan2(cross, jnp.sum(old * position))
    state = LaneState(position, heading, state.waves, state.level)
    offset = jnp.abs(road_offset(position, state.waves))
    reward = jnp.where(offset <= HALF_WIDTH, 50 / jnp.pi * swept, 0.0)
    lost = offset > 3 * HALF_WIDTH
    image = scenes.picture(self, state)
    info = {'level': state.level}
    return state, protocol.Step(image, reward, lost, info)

  def scene(
    self, state: LaneState, points: Float[Array, 'h w 2']
  ) -> scenes.Scene:
    """Road, its centre line and the car, on grass of two greens."""
    right, up = points[..., 0] - CAR[0], points[..., 1] - CAR[1]
    cos, sin = jnp.cos(state.heading), jnp.sin(state.heading)
    x = state.position[0] + VIEW * (right * sin + up * cos)
    y = state.position[1] + VIEW * (up * sin - right * cos)
    offset = jnp.abs(_offset(x, y, state.waves))
    width = VIEW * scenes.pixel_width(points)
    road = scenes.cover(offset - HALF_WIDTH, width)
    line = scenes.cover(offset - 0.01, width)
    car = jnp.maximum(jnp.abs(right) - 0.07, jnp.abs(up) - 0.12)
    car = scenes.cover(car, width / VIEW)
    tiles = (jnp.sin(12 * x) * jnp.sin(12 * y) > 0)[..., None]
    grass = jnp.where(
      tiles, jnp.array([0.3, 0.65, 0.25]), jnp.array([0.35, 0.75, 0.3])
    )
    palette = jnp.array([[0.4, 0.4, 0.4], [0.9, 0.9, 0.8], [0.8, 0.1, 0.1]])
    return scenes.Scene(grass, jnp.stack([road, line, car]), palette)


def _radius(
  x: Float[Array, '*n'], y: Float[Array, '*n'], waves: Float[Array, 'k 2']
) -> tuple[Float[Array, '*n'], Float[Array, '*n']]:
  """Centre line's radius and its derivative by the angle, on the unit circle.

  Powers of x + i y give all harmonics without another cosine.
  """
  radius, slope = jnp.ones_like(x), jnp.zeros_like(x)
  cos, sin = x, y
  for k in range(2, 2 + HARMONICS):
    cos, sin = cos * x - sin * y, cos * y + sin * x
    a, b = waves[k - 2, 0], waves[k - 2, 1]
    radius += a * cos + b * sin
    slope += k * (b * cos - a * sin)
  return radius, slope


def _offset(
  x: Float[Array, '*n'], y: Float[Array, '*n'], waves: Float[Array, 'k 2']
) -> Float[Array, '*n']:
  rho = jnp.maximum(jnp.sqrt(x**2 + y**2), 0.05)
  radius, slope = _radius(x / rho, y / rho, waves)
  return (rho - radius) / jnp.sqrt(1 + (slope / rho) ** 2)


def road_offset(
  points: Float[Array, '*n 2'], waves: Float[Array, 'k 2']
) -> Float[Array, '*n']:
  """Signed distance from the centre line, to first order, outside positive."""
  return _offset(points[..., 0], points[..., 1], waves)
