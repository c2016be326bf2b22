"""Swing-up of a torque-limited pendulum, as in OpenAI Gym's Pendulum-v1."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rl.envs import protocol, spaces

__all__ = ['Pendulum', 'PendulumState']

GRAVITY = 10.0
MASS = 1.0
LENGTH = 1.0
TIME_STEP = 0.05
MAX_SPEED = 8.0
MAX_TORQUE = 2.0


class PendulumState(NamedTuple):
  """Attributes: angle from upright, radians; its speed, radians per second."""

  angle: Float[Array, '']
  speed: Float[Array, '']


@dataclasses.dataclass(frozen=True)
class Pendulum:
  """A rod hinged at one end: keep it upright with little torque.

  speed' = speed + (3 g / (2 l) sin(angle) + 3 u / (m l^2)) dt, clipped to
  +-8 rad/s, angle' = angle + speed' dt, with g = 10 m/s^2, m = 1 kg, l = 1 m,
  dt = 0.05 s, |u| <= 2 N m. The reward is, of the state before the step,
  -(angle^2 + 0.1 speed^2 + 0.001 u^2) with the angle in [-pi, pi). Episodes
  start with an angle from U(-pi, pi) and a speed from U(-1, 1), and never
  terminate. Observed are cosine, sine and speed.

  Attributes:
    max_steps: time limit.

  Reference: github.com/openai/gym, gym/envs/classic_control/pendulum.py.
  """

  max_steps: int = 200

  @property
  def observation_space(self) -> spaces.Space:
    """Cosine, sine, speed."""
    high = (1.0, 1.0, MAX_SPEED)
    return spaces.Box((3,), tuple(-x for x in high), high)

  @property
  def action_space(self) -> spaces.Space:
    """Torque, N m."""
    return spaces.Box((1,), -MAX_TORQUE, MAX_TORQUE)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[PendulumState, Float[Array, ' 3']]:
    """Draws angle and speed."""
    high = jnp.array([jnp.pi, 1.0])
    state = PendulumState(
      *jax.random.uniform(key, (2,), minval=-high, maxval=high)
    )
    return state, _observe(state)

  def step(
    self,
    state: PendulumState,
    action: Float[Array, ' 1'],
    key: Key[Array, ''],
  ) -> tuple[PendulumState, protocol.Step]:
    """Applies a torque for one time step; draws nothing from the key."""
    del key
    torque = jnp.clip(action[0], -MAX_TORQUE, MAX_TORQUE)
    # Unlike a remainder, this is vectorised: a step takes two thirds of the time.
    turns = jnp.round(state.angle / (2 * jnp.pi))
    angle = state.angle - 2 * jnp.pi * turns
    cost = angle**2 + 0.1 * state.speed**2 + 0.001 * torque**2
    acceleration = 1.5 * GRAVITY / LENGTH * jnp.sin(state.angle)
    acceleration += 3.0 / (MASS * LENGTH**2) * torque
    speed = state.speed + acceleration * TIME_STEP
    speed = jnp.clip(speed, -MAX_SPEED, MAX_SPEED)
    state = PendulumState(state.angle + speed * TIME_STEP, speed)
    ends = jnp.zeros((), bool)
    return state, protocol.Step(_observe(state), -cost, ends, {})


def _observe(state: PendulumState) -> Float[Array, ' 3']:
  return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.speed])
