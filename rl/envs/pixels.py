"""Pictures of control environments instead of their states."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree, UInt8

from rl.envs import cartpole, pendulum, protocol, reacher, scenes, spaces

__all__ = [
  'PixelView',
  'arm_scene',
  'balance_scene',
  'pendulum_scene',
  'swing_up_scene',
]

Draw = Callable[[Any, Any], scenes.Scene]


@dataclasses.dataclass(frozen=True)
class PixelView:
  """Shows an environment's state as a picture; all else is the same.

  One picture shows no speed: give the policy a memory or several pictures.

  Attributes:
    env: the environment.
    draw: its scene, a module-level function of the state and of points
      [h, w, 2] in the image plane.
    size: pixels along each side.

  Raises:
    ValueError: if size < 8.
  """

  env: protocol.Environment
  draw: Draw
  size: int = 48

  def __post_init__(self) -> None:
    scenes.check_size(self.size)

  @property
  def max_steps(self) -> int:
    """See the environment."""
    return self.env.max_steps

  @property
  def observation_space(self) -> spaces.Space:
    """Pictures."""
    return spaces.pixels(self.size)

  @property
  def action_space(self) -> spaces.Space:
    """See the environment."""
    return self.env.action_space

  def reset(self, key: Key[Array, '']) -> tuple[PyTree, UInt8[Array, 's s 3']]:
    """Resets the environment."""
    state, _ = self.env.reset(key)
    return state, scenes.picture(self, state)

  def step(
    self, state: PyTree, action: Any, key: Key[Array, '']
  ) -> tuple[PyTree, protocol.Step]:
    """Steps the environment."""
    state, step = self.env.step(state, action, key)
    return state, step._replace(observation=scenes.picture(self, state))

  def scene(self, state: PyTree, points: Float[Array, 'h w 2']) -> scenes.Scene:
    """The picture that `draw` paints."""
    return self.draw(state, points)


def pendulum_scene(
  state: pendulum.PendulumState, points: Float[Array, 'h w 2']
) -> scenes.Scene:
  """Rod and hinge of `pendulum.Pendulum`; a metre is 0.8 of the picture."""
  width = scenes.pixel_width(points)
  # Angles count counterclockwise from upright.
  tip = 0.8 * jnp.stack([-jnp.sin(state.angle), jnp.cos(state.angle)])
  hinge = jnp.zeros(2)
  rod = scenes.segment_distance(points, hinge, tip) - 0.08
  pin = scenes.distance(points, hinge) - 0.05
  coverage = scenes.cover(jnp.stack([rod, pin]), width)
  palette = jnp.array([[0.8, 0.3, 0.3], [0.1, 0.1, 0.1]])
  return scenes.Scene(jnp.full((1, 1, 3), 0.9), coverage, palette)


def swing_up_scene(
  state: cartpole.CartPoleState, points: Float[Array, 'h w 2']
) -> scenes.Scene:
  """Cart, pole and rail of `cartpole.CartPoleSwingUp`.

  The rail's 2.4 m reach 0.8 of the picture; the pole is drawn 1.8 times as
  long, so that its angle is seen in few pixels.
  """
  return _cart_scene(state.position, -state.angle, points)


def balance_scene(
  state: cartpole.CartPoleState, points: Float[Array, 'h w 2']
) -> scenes.Scene:
  """Like `swing_up_scene`, for `cartpole.CartPoleBalance`."""
  return _cart_scene(state.position, state.angle, points)


def _cart_scene(
  position: Float[Array, ''],
  lean: Float[Array, ''],
  points: Float[Array, 'h w 2'],
) -> scenes.Scene:
  """Draws a pole that leans to the right by an angle."""
  width = scenes.pixel_width(points)
  x = position / 3
  hinge = jnp.stack([x, jnp.zeros_like(x)])
  tip = hinge + 0.36 * jnp.stack([jnp.sin(lean), jnp.cos(lean)])
  pole = scenes.segment_distance(points, hinge, tip) - 0.05
  across, height = points[..., 0], jnp.abs(points[..., 1])
  cart = jnp.maximum(jnp.abs(across - x) - 0.16, height - 0.08)
  rail = jnp.maximum(jnp.abs(across) - 0.8, height - 0.02)
  coverage = scenes.cover(jnp.stack([rail, cart, pole]), width)
  palette = jnp.array([[0.5, 0.5, 0.5], [0.2, 0.45, 0.8], [0.9, 0.7, 0.2]])
  return scenes.Scene(jnp.full((1, 1, 3), 0.15), coverage, palette)


def arm_scene(
  state: reacher.ReacherState, points: Float[Array, 'h w 2']
) -> scenes.Scene:
  """Arm and target of `reacher.Reacher`; a metre is 0.9 of the picture."""
  width = scenes.pixel_width(points)
  ends = 0.9 * reacher.joints(state.angles)
  starts = jnp.stack([jnp.zeros(2), ends[0]])
  arm = jnp.min(scenes.segment_distance(points, starts, ends), axis=0) - 0.06
  target = scenes.distance(points, 0.9 * state.target) - 0.09
  hand = scenes.distance(points, ends[1]) - 0.06
  coverage = scenes.cover(jnp.stack([target, arm, hand]), width)
  palette = jnp.array([[0.85, 0.2, 0.2], [0.4, 0.6, 0.75], [0.95, 0.9, 0.5]])
  return scenes.Scene(jnp.full((1, 1, 3), 0.15), coverage, palette)
