"""Falling objects to dodge, seen as pictures."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from rl import ranges
from rl.envs import protocol, scenes, spaces

__all__ = ['Dodge', 'DodgeState']

PLAYER_HEIGHT = -0.85
RADIUS = 0.1
PLAYER_SPEED = 0.08
EDGE = 0.9
TOP = 1.1


class DodgeState(NamedTuple):
  """Attributes: player's x; objects' centres and speeds, units per step."""

  player: Float[Array, '']
  objects: Float[Array, 'n 2']
  speeds: Float[Array, ' n']


@dataclasses.dataclass(frozen=True)
class Dodge:
  """Steps left (0), not (1) or right (2) and avoids discs that fall.

  In the image plane [-1, 1]^2: the player is a disc of radius 0.1 at height
  -0.85 that moves by 0.08 per step within +-0.9; `objects` discs of the same
  size fall by U(0.04, 0.09) per step each. A disc that has left the bottom
  starts again above the top, half of the time over the player, else at
  U(-0.9, 0.9): there is no safe corner. The reward is 1 per step survived;
  being touched terminates, with reward 0. The idea is that of VizDoom's
  take-cover scenario; all constants are this project's own.

  Attributes:
    size: pixels along each side.
    objects: discs falling.
    max_steps: time limit.

  Raises:
    ValueError: if size < 8 or objects < 1.
  """

  size: int = 48
  objects: int = 4
  max_steps: int = 500

  def __post_init__(self) -> None:
    scenes.check_size(self.size)
    ranges.check_counts(objects=self.objects)

  @property
  def observation_space(self) -> spaces.Space:
    """Pictures."""
    return spaces.pixels(self.size)

  @property
  def action_space(self) -> spaces.Space:
    """Left, stay, right."""
    return spaces.Discrete(3)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[DodgeState, UInt8[Array, 's s 3']]:
    """Draws the player's place and objects above the picture."""
    place, above, rest = jax.random.split(key, 3)
    player = jax.random.uniform(place, minval=-EDGE, maxval=EDGE)
    objects, speeds = self._spawn(rest, player)
    late = jax.random.uniform(above, (self.objects,), maxval=1.5)
    state = DodgeState(player, objects.at[:, 1].add(late), speeds)
    return state, scenes.picture(self, state)

  def step(
    self, state: DodgeState, action: Int[Array, ''], key: Key[Array, '']
  ) -> tuple[DodgeState, protocol.Step]:
    """Moves the player, then the objects."""
    player = state.player + PLAYER_SPEED * (action - 1)
    player = jnp.clip(player, -EDGE, EDGE)
    objects = state.objects.at[:, 1].add(-state.speeds)
    hit = jnp.any(_touches(player, objects))
    landed = objects[:, 1] < -TOP
    fresh, speeds = self._spawn(key, player)
    objects = jnp.where(landed[:, None], fresh, objects)
    speeds = jnp.where(landed, speeds, state.speeds)
    state = DodgeState(player, objects, speeds)
    reward = 1.0 - hit.astype(jnp.float32)
    image = scenes.picture(self, state)
    return state, protocol.Step(image, reward, hit, {})

  def _spawn(
    self, key: Key[Array, ''], player: Float[Array, '']
  ) -> tuple[Float[Array, 'n 2'], Float[Array, ' n']]:
    """Objects above the picture, and their speeds."""
    drawn = jax.random.uniform(key, (4, self.objects))
    x = jnp.where(drawn[0] < 0.5, player, EDGE * (2 * drawn[1] - 1))
    y = TOP + 0.5 * drawn[2]
    return jnp.stack([x, y], axis=1), 0.04 + 0.05 * drawn[3]

  def scene(
    self, state: DodgeState, points: Float[Array, 'h w 2']
  ) -> scenes.Scene:
    """Objects and player before a wall and a floor."""
    width = scenes.pixel_width(points)
    floor = points[..., 1] - (PLAYER_HEIGHT - RADIUS)
    fall = jnp.min(scenes.distance(points, state.objects), axis=0) - RADIUS
    centre = jnp.stack([state.player, jnp.float32(PLAYER_HEIGHT)])
    player = scenes.distance(points, centre) - RADIUS
    coverage = scenes.cover(jnp.stack([floor, fall, player]), width)
    palette = jnp.array([[0.35, 0.3, 0.25], [0.95, 0.45, 0.1], [0.2, 0.5, 0.9]])
    return scenes.Scene(jnp.full((1, 1, 3), 0.12), coverage, palette)


def _touches(
  player: Float[Array, ''], objects: Float[Array, 'n 2']
) -> Bool[Array, ' n']:
  away = objects - jnp.stack([player, jnp.float32(PLAYER_HEIGHT)])
  return jnp.sum(away**2, axis=1) < (2 * RADIUS) ** 2
