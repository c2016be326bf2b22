"""Control environments against float64 integration of their equations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import cartpole, pendulum, reacher

ENVS = [
  pendulum.Pendulum(),
  cartpole.CartPoleBalance(),
  cartpole.CartPoleSwingUp(),
  reacher.Reacher(),
]
KEY = jax.random.key(17)


def _solve(mass, right):
  return np.linalg.solve(np.array(mass, np.float64), np.array(right))


def _pendulum(state, action):
  angle, speed = state
  wrapped = math.atan2(math.sin(angle), math.cos(angle))
  reward = -(wrapped**2 + 0.1 * speed**2 + 0.001 * action[0] ** 2)
  # Torque balance about the hinge of a rod: m l^2 / 3 a = m g l / 2 sin + u.
  turn = (10 / 2 * math.sin(angle) + action[0]) / (1 / 3)
  speed = min(max(speed + 0.05 * turn, -8), 8)
  angle = angle + 0.05 * speed
  seen = [math.cos(angle), math.sin(angle), speed]
  return (angle, speed), seen, reward, False


def _balance(state, action):
  x, v, a, w = state
  c, s, m, h = math.cos(a), math.sin(a), 0.1, 0.5
  force = 20.0 * action - 10
  mass = [[1.1, m * h * c], [m * h * c, 4 / 3 * m * h * h]]
  pull, turn = _solve(mass, [force + m * h * w * w * s, m * 9.8 * h * s])
  x, v, a, w = x + 0.02 * v, v + 0.02 * pull, a + 0.02 * w, w + 0.02 * turn
  lost = abs(x) > 2.4 or abs(a) > math.radians(12)
  return (x, v, a, w), [x, v, a, w], 1.0, lost


def _swing(state, action):
  x, v, a, w = state
  m, h = 0.5, 0.3  # Half the rod's length.
  for _ in range(2):
    c, s = math.cos(a), math.sin(a)
    # Lagrange's equations of a rod leaning left of a cart.
    mass = [[1.0, -m * h * c], [-m * h * c, 4 / 3 * m * h * h]]
    right = [10 * action[0] - 0.1 * v - m * h * s * w * w]
    pull, turn = _solve(mass, [*right, m * 9.82 * h * s])
    v, w = v + 0.01 * pull, w + 0.01 * turn
    x, a = x + 0.01 * v, a + 0.01 * w
  lost = abs(x) > 2.4
  reward = (1 + math.cos(a)) / 2 * math.cos(math.pi * x / 4.8)
  seen = [x, v, math.cos(a), math.sin(a), w]
  return (x, v, a, w), seen, 0.0 if lost else reward, lost


def _arm_mass(q):
  """Mass matrix from the Jacobians of points along both rods."""
  nodes, weights = np.polynomial.legendre.leggauss(3)
  total = np.zeros((2, 2))
  for t, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
    first = 0.5 * np.array([-np.sin(q[0]), np.cos(q[0])])
    both = 0.5 * np.array([-np.sin(q[0] + q[1]), np.cos(q[0] + q[1])])
    for jacobian in (
      np.stack([t * first, 0 * first], 1),
      np.stack([first + t * both, t * both], 1),
    ):
      total += weight * jacobian.T @ jacobian
  return total


def _arm_turn(q, w, torque):
  """Lagrange's equations with numerical derivatives of the mass matrix."""
  h = 1e-5
  d1, d2 = (
    (_arm_mass(q + e) - _arm_mass(q - e)) / (2 * h) for e in np.eye(2) * h
  )
  rate = d1 * w[0] + d2 * w[1]
  force = 0.5 * np.array([w @ d1 @ w, w @ d2 @ w]) - rate @ w
  return np.linalg.solve(_arm_mass(q), torque - 0.5 * w + force)


def _reacher(state, action):
  q, w, target = (np.asarray(x, np.float64) for x in state)
  steps, dt = 20, 0.04 / 20
  for _ in range(steps):  # Midpoint rule: small steps, no Runge-Kutta of four.
    qm, wm = q + dt / 2 * w, w + dt / 2 * _arm_turn(q, w, action)
    q, w = q + dt * wm, w + dt * _arm_turn(qm, wm, action)
  both = q[0] + q[1]
  tip = 0.5 * np.array(
    [np.cos(q[0]) + np.cos(both), np.sin(q[0]) + np.sin(both)]
  )
  gap = target - tip
  reward = -np.linalg.norm(gap) - 0.1 * np.sum(np.square(action))
  seen = np.concatenate([np.cos(q), np.sin(q), target, w / 10, gap])
  return (q, w, target), seen, reward, False


CASES = list(
  zip(
    ENVS, [_pendulum, _balance, _swing, _reacher], [60, 8, 60, 8], strict=True
  )
)


@pytest.mark.parametrize(
  ('env', 'twin', 'steps'), CASES, ids=lambda x: getattr(x, '__name__', '')
)
def test_equations(env, twin, steps):

  @jax.jit
  def run(key):
    state, first = env.reset(KEY)
    draw = jax.vmap(env.action_space.sample)
    actions = draw(jax.random.split(key, steps))
    step = lambda state, action: env.step(state, action, KEY)
    return state, first, actions, jax.lax.scan(step, state, actions)[1]

  state, first, actions, got = jax.device_get(run(jax.random.key(5)))
  assert env.observation_space.contains(first)
  now = tuple(np.asarray(x, np.float64) for x in state)
  for t, action in enumerate(np.asarray(actions, np.float64)):
    now, seen, reward, lost = twin(now, action)
    np.testing.assert_allclose(
      got.observation[t], seen, rtol=2e-4, atol=2e-4, err_msg=f'step {t}'
    )
    np.testing.assert_allclose(got.reward[t], reward, rtol=2e-4, atol=2e-4)
    assert bool(got.terminated[t]) == lost


def _resets(env, count=4000):
  keys = jax.random.split(jax.random.key(1), count)
  state, _ = jax.jit(jax.vmap(env.reset))(keys)
  return jax.device_get(state)


def _is_uniform(x, low, high):
  span = high - low
  assert x.min() >= low
  assert x.max() <= high
  # Mean and variance within four standard errors.
  error = span / math.sqrt(12 * len(x))
  assert abs(x.mean() - (low + high) / 2) < 4 * error
  assert abs(x.var() / (span**2 / 12) - 1) < 4 * math.sqrt(0.8 / len(x))


def test_reset_distributions():
  state = _resets(ENVS[0])
  _is_uniform(state.angle, -math.pi, math.pi)
  _is_uniform(state.speed, -1, 1)
  for x in _resets(ENVS[1]):
    _is_uniform(x, -0.05, 0.05)
  for x, mean in zip(_resets(ENVS[2]), (0, 0, math.pi, 0), strict=True):
    assert abs(x.mean() - mean) < 4 * 0.2 / math.sqrt(len(x))
    assert abs(x.var() / 0.04 - 1) < 4 * math.sqrt(2 / len(x))
  state = _resets(ENVS[3])
  for joint in state.angles.T:
    _is_uniform(joint, -math.pi, math.pi)
  _is_uniform(np.square(state.target).sum(-1), 0, 0.81)
  assert not state.speeds.any()


def test_swing_up_keeps_energy_without_friction():
  """Bounded for the semi-implicit step; the explicit one gains energy."""

  def energy(state):
    v, a, w = (np.asarray(z, np.float64) for z in state[1:])
    kinetic = 0.5 * v**2 - 0.5 * 0.3 * np.cos(a) * v * w + 0.03 * w**2
    return kinetic + 0.5 * 9.82 * 0.3 * np.cos(a)

  def drift(step):
    start = cartpole.CartPoleState(*map(jnp.float32, (0.0, 0.0, 2.0, 0.0)))
    _, path = jax.lax.scan(lambda s, _: (step(s),) * 2, start, length=1000)
    gained = energy(path) - energy(start)
    return gained[-200:].mean() - gained[:200].mean()

  def free(state, dt=0.01):
    return cartpole.swing_physics(
      state, jnp.float32(0), friction=0.0, time_step=dt
    )

  def explicit(state):
    after = free(state)
    return after._replace(
      position=state.position + 0.01 * state.velocity,
      angle=state.angle + 0.01 * state.speed,
    )

  # Ten seconds; between hanging and upright there are 2.9 J.
  assert abs(drift(free)) < 0.3
  assert drift(explicit) > 1.0


def test_arm_keeps_energy_and_momentum_without_damping():
  state = reacher.ReacherState(
    jnp.array([0.3, 1.2]), jnp.array([2.0, -3.0]), jnp.zeros(2)
  )

  def step(state, _):
    state = reacher._integrate(state, jnp.zeros(2), damping=0.0)
    return state, state

  _, path = jax.jit(lambda s: jax.lax.scan(step, s, length=300))(state)
  path = jax.tree.map(lambda x, y: np.stack([x, *y]), state, path)
  mass = np.stack([_arm_mass(q) for q in path.angles.astype(np.float64)])
  momentum = np.einsum('tij,tj->ti', mass, path.speeds)
  energy = 0.5 * np.einsum('ti,ti->t', momentum, path.speeds)
  np.testing.assert_allclose(energy, energy[0], rtol=2e-4)
  # No torque at the shoulder: its conjugate momentum stays.
  np.testing.assert_allclose(momentum[:, 0], momentum[0, 0], atol=2e-4)


def test_tip_is_where_the_arm_ends():
  position = reacher.joints(jnp.array([0.0, jnp.pi / 2]))
  np.testing.assert_allclose(position, [[0.5, 0], [0.5, 0.5]], atol=1e-6)


def test_upright_pole_is_unstable_and_hanging_stable():
  """The linearised swing-up system, from finite differences."""

  def drift(angle):
    state = cartpole.CartPoleState(*map(jnp.float32, (0, 0, angle, 0)))
    return float(cartpole.swing_physics(state, jnp.float32(0)).speed)

  assert drift(0.01) > 0 > drift(-0.01)
  assert drift(math.pi + 0.01) < 0 < drift(math.pi - 0.01)


def test_limits_of_repeat():
  with pytest.raises(ValueError, match='repeat must be positive'):
    cartpole.CartPoleSwingUp(repeat=0)
  with pytest.raises(ValueError, match='repeat must be positive'):
    reacher.Reacher(repeat=0)
