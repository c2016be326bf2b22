"""A two-link arm that reaches for a target."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rl import ranges
from rl.envs import protocol, spaces

__all__ = ['Reacher', 'ReacherState', 'arm_acceleration', 'joints']

LENGTH = 0.5
MASS = 1.0
MAX_TORQUE = 1.0
DAMPING = 0.5
TIME_STEP = 0.02
MAX_SPEED = 20.0


class ReacherState(NamedTuple):
  """Attributes: joint angles and speeds (rad, rad/s), target (m), [2] each."""

  angles: Float[Array, ' 2']
  speeds: Float[Array, ' 2']
  target: Float[Array, ' 2']


@dataclasses.dataclass(frozen=True)
class Reacher:
  """Brings the tip of a planar arm to a target, without gravity.

  Two uniform rods of l = 0.5 m and m = 1 kg each, the second angle relative to
  the first. M(q) q'' + C(q, q') q' = torque - d q' with d = 0.5 N m s, torques
  within +-1 N m, integrated by `repeat` Runge-Kutta steps (fourth order) of
  0.02 s with the torque held; speeds are clipped to +-20 rad/s. With
  h = m l^2 / 2:
    M = [[5/3 m l^2 + 2 h c, m l^2 / 3 + h c], [m l^2 / 3 + h c, m l^2 / 3]],
    C q' = h s (-w2 (2 w1 + w2), w1^2), c = cos q2, s = sin q2.
  The reward is -|tip - target| - 0.1 |action|^2 after the step, which lies in
  [-2.1, 0]. Episodes start at angles from U(-pi, pi) at rest, with a target
  uniform in the disc of 0.9 m, and never terminate. Observed are cosines and
  sines of the angles, the target, a tenth of the speeds, and target - tip.

  Attributes:
    max_steps: time limit.
    repeat: integration steps per step of the environment.

  Raises:
    ValueError: if repeat < 1.

  References: Spong, Hutchinson and Vidyasagar (2006), "Robot Modeling and
    Control", section 7.4 (planar elbow manipulator); the task follows
    Gymnasium's Reacher.
  """

  max_steps: int = 100
  repeat: int = 2

  def __post_init__(self) -> None:
    ranges.check_counts(repeat=self.repeat)

  @property
  def observation_space(self) -> spaces.Space:
    """Cosines, sines, target, speeds / 10, target - tip."""
    high = (1.0,) * 4 + (0.9,) * 2 + (MAX_SPEED / 10,) * 2 + (1.9,) * 2
    return spaces.Box((10,), tuple(-x for x in high), high)

  @property
  def action_space(self) -> spaces.Space:
    """Torques at the joints, N m."""
    return spaces.Box((2,), -MAX_TORQUE, MAX_TORQUE)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[ReacherState, Float[Array, ' 10']]:
    """Draws angles and a target."""
    pose, near = jax.random.split(key)
    angles = jax.random.uniform(pose, (2,), minval=-jnp.pi, maxval=jnp.pi)
    square, turn = jax.random.uniform(near, (2,))
    angle = 2 * jnp.pi * turn
    target = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    target = 0.9 * jnp.sqrt(square) * target
    state = ReacherState(angles, jnp.zeros(2), target)
    return state, _observe(state)

  def step(
    self, state: ReacherState, action: Float[Array, ' 2'], key: Key[Array, '']
  ) -> tuple[ReacherState, protocol.Step]:
    """Applies torques; draws nothing from the key."""
    del key
    torque = jnp.clip(action, -MAX_TORQUE, MAX_TORQUE)
    for _ in range(self.repeat):
      state = _integrate(state, torque)
    observation = _observe(state)
    gap = observation[-2:]
    reward = -jnp.sqrt(jnp.sum(gap**2)) - 0.1 * jnp.sum(torque**2)
    ends = jnp.zeros((), bool)
    return state, protocol.Step(observation, reward, ends, {})


def joints(angles: Float[Array, ' 2']) -> Float[Array, '2 2']:
  """Positions of the elbow and of the tip, metres, in rows."""
  first, both = angles[0], angles[0] + angles[1]
  elbow = LENGTH * jnp.stack([jnp.cos(first), jnp.sin(first)])
  hand = LENGTH * jnp.stack([jnp.cos(both), jnp.sin(both)])
  return jnp.stack([elbow, elbow + hand])


def arm_acceleration(
  angles: Float[Array, ' 2'],
  speeds: Float[Array, ' 2'],
  torque: Float[Array, ' 2'],
  *,
  damping: float = DAMPING,
) -> Float[Array, ' 2']:
  """Solves the arm's equation of motion for the angles' accelerations."""
  inertia = MASS * LENGTH**2
  couple = inertia / 2
  cos, sin = jnp.cos(angles[1]), jnp.sin(angles[1])
  m11 = 5 / 3 * inertia + 2 * couple * cos
  m12 = inertia / 3 + couple * cos
  m22 = inertia / 3
  w1, w2 = speeds[0], speeds[1]
  f1 = torque[0] - damping * w1 + couple * sin * w2 * (2 * w1 + w2)
  f2 = torque[1] - damping * w2 - couple * sin * w1**2
  bottom = m11 * m22 - m12**2
  return jnp.stack([m22 * f1 - m12 * f2, m11 * f2 - m12 * f1]) / bottom


def _integrate(
  state: ReacherState, torque: Float[Array, ' 2'], damping: float = DAMPING
) -> ReacherState:
  """One Runge-Kutta step of the fourth order."""

  def slope(
    q: Float[Array, ' 2'], w: Float[Array, ' 2']
  ) -> tuple[Float[Array, ' 2'], Float[Array, ' 2']]:
    return w, arm_acceleration(q, w, torque, damping=damping)

  q, w, target = state
  half, dt = TIME_STEP / 2, TIME_STEP
  q1, w1 = slope(q, w)
  q2, w2 = slope(q + half * q1, w + half * w1)
  q3, w3 = slope(q + half * q2, w + half * w2)
  q4, w4 = slope(q + dt * q3, w + dt * w3)
  q = q + dt / 6 * (q1 + 2 * q2 + 2 * q3 + q4)
  w = w + dt / 6 * (w1 + 2 * w2 + 2 * w3 + w4)
  return ReacherState(q, jnp.clip(w, -MAX_SPEED, MAX_SPEED), target)


def _observe(state: ReacherState) -> Float[Array, ' 10']:
  angles, speeds, target = state
  gap = target - joints(angles)[1]
  parts = [jnp.cos(angles), jnp.sin(angles), target, speeds / 10, gap]
  return jnp.concatenate(parts)
