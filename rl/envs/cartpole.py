"""A pole on a cart: balance it, or swing it up first."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rl import ranges
from rl.envs import protocol, spaces

__all__ = ['CartPoleBalance', 'CartPoleState', 'CartPoleSwingUp']


class CartPoleState(NamedTuple):
  """Position and speed of cart and pole.

  Attributes:
    position: of the cart, metres to the right of the centre.
    velocity: of the cart, metres per second.
    angle: of the pole from upright, radians; the side on which it counts
      positive is that of each class's equations.
    speed: of the pole, radians per second.
  """

  position: Float[Array, '']
  velocity: Float[Array, '']
  angle: Float[Array, '']
  speed: Float[Array, '']


@dataclasses.dataclass(frozen=True)
class CartPoleBalance:
  """Pushes left or right to keep the pole up, as Gym's CartPole-v1.

  With g = 9.8 m/s^2, cart 1 kg, pole 0.1 kg and half-length l = 0.5 m, push
  F = -10 N (action 0) or 10 N (action 1), total mass M = 1.1 kg:
    t = (F + m l w^2 sin a) / M
    w' = (g sin a - t cos a) / (l (4/3 - m cos^2 a / M))
    v' = t - m l w' cos a / M
  integrated by explicit Euler steps of 0.02 s. The reward is 1 for every step,
  the last included. Episodes start with all four numbers from U(-0.05, 0.05)
  and terminate where |x| > 2.4 m or |a| > 12 degrees. Angles count to the
  right.

  Attributes:
    max_steps: time limit.

  References: Barto, Sutton and Anderson (1983), "Neuronlike adaptive elements
    that can solve difficult learning control problems";
    github.com/openai/gym, gym/envs/classic_control/cartpole.py.
  """

  max_steps: int = 500

  @property
  def observation_space(self) -> spaces.Space:
    """The state itself."""
    return spaces.Box((4,), -math.inf, math.inf)

  @property
  def action_space(self) -> spaces.Space:
    """Left, right."""
    return spaces.Discrete(2)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[CartPoleState, Float[Array, ' 4']]:
    """Draws a state near the upright one."""
    observation = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
    return CartPoleState(*observation), observation

  def step(
    self, state: CartPoleState, action: Int[Array, ''], key: Key[Array, '']
  ) -> tuple[CartPoleState, protocol.Step]:
    """Pushes for one time step; draws nothing from the key."""
    del key
    gravity, pole, total, half, dt = 9.8, 0.1, 1.1, 0.5, 0.02
    x, v, a, w = state
    force = jnp.where(action == 1, 10.0, -10.0)
    cos, sin = jnp.cos(a), jnp.sin(a)
    push = (force + pole * half * w**2 * sin) / total
    turn = (gravity * sin - push * cos) / (
      half * (4 / 3 - pole * cos**2 / total)
    )
    pull = push - pole * half * turn * cos / total
    state = CartPoleState(x + dt * v, v + dt * pull, a + dt * w, w + dt * turn)
    lost = jnp.abs(state.position) > 2.4
    lost |= jnp.abs(state.angle) > 12 * math.pi / 180
    return state, protocol.Step(jnp.stack(state), jnp.float32(1), lost, {})


@dataclasses.dataclass(frozen=True)
class CartPoleSwingUp:
  """Swings a hanging pole up and holds it there with a continuous force.

  A uniform rod of m = 0.5 kg and l = 0.6 m on a cart of 0.5 kg with friction
  b = 0.1 N s/m, g = 9.82 m/s^2, force F = 10 N times the action. With total
  mass M = 1 kg, s = sin a and c = cos a, angles counting to the left:
    v' = (-2 m l w^2 s + 3 m g s c + 4 (F - b v)) / (4 M - 3 m c^2)
    w' = (-3 m l w^2 s c + 6 M g s + 6 (F - b v) c) / (l (4 M - 3 m c^2))
  Velocities step first and positions with the new ones (semi-implicit Euler,
  0.01 s), which keeps the energy of the frictionless system bounded; `repeat`
  such steps make one step of the environment. The reward is
  (1 + cos a) / 2 * cos(pi x / 4.8) in [0, 1], of the state after the step.
  Episodes start hanging, with N(0, 0.2^2) added to all four numbers, and
  terminate where the cart leaves |x| <= 2.4 m, with reward 0. Observed are
  position, velocity, cosine, sine and speed.

  Attributes:
    max_steps: time limit, in steps of the environment.
    repeat: physics steps per step of the environment.

  Raises:
    ValueError: if repeat < 1.

  Reference: the system of Deisenroth (2010), "Efficient reinforcement learning
    using Gaussian processes", appendix C.2.
  """

  max_steps: int = 500
  repeat: int = 2

  def __post_init__(self) -> None:
    ranges.check_counts(repeat=self.repeat)

  @property
  def observation_space(self) -> spaces.Space:
    """Position, velocity, cosine, sine, speed."""
    high = (math.inf, math.inf, 1.0, 1.0, math.inf)
    return spaces.Box((5,), tuple(-x for x in high), high)

  @property
  def action_space(self) -> spaces.Space:
    """Force, in units of 10 N."""
    return spaces.Box((1,), -1.0, 1.0)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[CartPoleState, Float[Array, ' 5']]:
    """Draws a state near the hanging one."""
    noise = 0.2 * jax.random.normal(key, (4,))
    state = CartPoleState(*(noise + jnp.array([0.0, 0.0, jnp.pi, 0.0])))
    return state, _observe(state)

  def step(
    self, state: CartPoleState, action: Float[Array, ' 1'], key: Key[Array, '']
  ) -> tuple[CartPoleState, protocol.Step]:
    """Pushes for `repeat` physics steps; draws nothing from the key."""
    del key
    force = 10.0 * jnp.clip(action[0], -1.0, 1.0)
    for _ in range(self.repeat):
      state = swing_physics(state, force)
    height = (1 + jnp.cos(state.angle)) / 2
    centred = jnp.cos(jnp.pi * state.position / 4.8)
    lost = jnp.abs(state.position) > 2.4
    reward = jnp.where(lost, 0.0, height * centred)
    return state, protocol.Step(_observe(state), reward, lost, {})


def swing_physics(
  state: CartPoleState,
  force: Float[Array, ''],
  *,
  friction: float = 0.1,
  time_step: float = 0.01,
) -> CartPoleState:
  """One physics step of the swing-up system; see `CartPoleSwingUp`.

  Args:
    state: before the step.
    force: on the cart, newtons.
    friction: of the cart, newton seconds per metre.
    time_step: seconds.
  """
  gravity, pole, total, length = 9.82, 0.5, 1.0, 0.6
  x, v, a, w = state
  cos, sin = jnp.cos(a), jnp.sin(a)
  net = force - friction * v
  swing = pole * length * w**2 * sin
  bottom = 4 * total - 3 * pole * cos**2
  pull = (-2 * swing + 3 * pole * gravity * sin * cos + 4 * net) / bottom
  turn = -3 * swing * cos + 6 * total * gravity * sin + 6 * net * cos
  v = v + time_step * pull
  w = w + time_step * turn / (length * bottom)
  return CartPoleState(x + time_step * v, v, a + time_step * w, w)


def _observe(state: CartPoleState) -> Float[Array, ' 5']:
  x, v, a, w = state
  return jnp.stack([x, v, jnp.cos(a), jnp.sin(a), w])
