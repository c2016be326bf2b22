"""Distractions change pictures only, within their scale, by their seed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import (
  cartpole,
  distractions,
  dodge,
  lane_following,
  lanes,
  pixels,
  scenes,
)

SIZE = 16
VIEW = pixels.PixelView(cartpole.CartPoleSwingUp(), pixels.swing_up_scene, SIZE)
KEY = jax.random.key(33)

# Each environment is compiled with and without distractions.
pytestmark = pytest.mark.slow


def _roll(env, count=4, steps=6, key=KEY):
  vector = lanes.Lanes(env, count, max_steps=4)

  @jax.jit
  def run(key):
    state, first = vector.reset(jax.random.split(key, count))

    def step(state, key):
      keys = jax.random.split(key, count)
      action = jax.vmap(env.action_space.sample)(keys)
      state, move = vector.step(state, action)
      return state, (move, state.env)

    keys = jax.random.split(key, steps)
    return first, jax.lax.scan(step, state, keys)[1]

  return jax.device_get(run(key))


@pytest.mark.parametrize(
  'env',
  [VIEW, dodge.Dodge(size=SIZE), lane_following.LaneFollowing(size=SIZE)],
  ids=['swing_up', 'dodge', 'lane'],
)
def test_scale_zero_is_the_identity(env):
  """Bit for bit: pictures, rewards, ends, over resets."""
  plain, (moves, _) = _roll(env)
  first, (same, _) = _roll(distractions.Distracted(env))
  np.testing.assert_array_equal(first, plain)
  jax.tree.map(np.testing.assert_array_equal, same, moves)


def test_other_scales_change_the_picture_only():
  plain, (moves, _) = _roll(VIEW)
  loud = distractions.Distracted(VIEW, color=0.3, background=0.3, camera=0.3)
  first, (other, _) = _roll(loud)
  assert (first != plain).mean() > 0.3
  np.testing.assert_array_equal(other.reward, moves.reward)
  np.testing.assert_array_equal(other.terminated, moves.terminated)


def _begin(env, seeds, steps=0):
  """Distractions of seeds at times 0..steps, [seeds, steps + 1, ...]."""

  @jax.jit
  @jax.vmap
  def run(seed):
    first = env.begin(seed)

    def step(now, _):
      now = env.advance(now)
      return now, now

    _, rest = jax.lax.scan(step, first, length=steps)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)

  return jax.device_get(run(jnp.asarray(seeds, jnp.int32)))


def test_walks_stay_within_their_scale():
  scale = 0.2
  env = distractions.Distracted(VIEW, color=scale, background=1.0, camera=scale)
  path = _begin(env, range(32), 300)
  start = path.color[:, :1]
  assert np.abs(start).max() == pytest.approx(scale, rel=0.02)
  assert np.abs(path.color - start).max() == pytest.approx(scale, rel=1e-3)
  spans = scale * np.array([0.5, 0.5, np.pi / 2])
  reached = np.abs(path.camera[..., :3]).max((0, 1))
  np.testing.assert_allclose(reached, spans, rtol=1e-3)
  zoom = path.camera[..., 3]
  assert (zoom == zoom[:, :1]).all()
  assert -0.5 * scale <= zoom.min() < -0.3 * scale
  assert 1.2 * scale < zoom.max() <= 1.5 * scale
  speed = np.abs(path.velocity).max((0, 1))
  assert (speed <= scale * np.array([0.2, 0.2, np.pi / 50]) + 1e-6).all()
  # The first steps of the walks have the published spread.
  step = np.diff(path.color, axis=1)[:, 0]
  assert step.std() == pytest.approx(0.03 * scale, rel=0.1)
  push = np.abs(path.velocity[:, 1])
  assert push[:, :2].std() > 0
  assert np.sqrt((path.velocity[:, 1, :2] ** 2).mean()) == pytest.approx(
    0.05 * scale, rel=0.4
  )


def test_static_ones_stay():
  env = distractions.Distracted(
    VIEW, color=0.3, background=0.5, camera=0.3, dynamic=False
  )
  path = _begin(env, range(3), 5)
  jax.tree.map(
    lambda x: np.testing.assert_array_equal(x, np.repeat(x[:, :1], 6, 1)), path
  )
  assert (path.color[0] != path.color[1]).any()


def test_one_seed_is_one_distraction():
  """Whatever the environment's key and the actions are."""
  env = distractions.Distracted(
    VIEW, color=0.3, background=0.5, camera=0.3, num_seeds=1, start_seed=7
  )
  runs = [_roll(env, key=jax.random.key(k))[1] for k in (1, 2)]
  seen = [states.distraction for _, states in runs]
  jax.tree.map(np.testing.assert_array_equal, *seen)
  assert (runs[0][1].env.position != runs[1][1].env.position).all()
  assert (seen[0].seed == 7).all()
  again = _roll(dataclasses.replace(env), key=jax.random.key(1))[1][0]
  np.testing.assert_array_equal(again.observation, runs[0][0].observation)


def test_train_and_test_seeds_are_disjoint():
  keys = jax.random.split(KEY, 64)

  def seeds(num, start):
    env = distractions.Distracted(
      VIEW, color=0.1, num_seeds=num, start_seed=start
    )
    state, _ = jax.jit(jax.vmap(env.reset))(keys)
    return set(np.asarray(state.distraction.seed).tolist())

  train, test = seeds(10, 0), seeds(0, 10)
  assert train == set(range(10))
  assert min(test) >= 10
  assert len(test) == 64


@pytest.mark.parametrize('kind', distractions.BACKGROUNDS)
def test_backgrounds_are_smooth_and_move(kind):
  """At least 97 % of the power lies below five cycles across."""
  paint = jax.jit(
    jax.vmap(
      lambda seed, time: distractions.backdrop(
        kind, seed, time, scenes.grid(32)
      ),
      (0, 0),
    )
  )
  seeds = jnp.arange(12)
  now = np.asarray(paint(seeds, jnp.zeros(12, jnp.int32)), np.float64)
  soon = np.asarray(paint(seeds, jnp.ones(12, jnp.int32)))
  later = np.asarray(paint(seeds, jnp.full(12, 40)))
  assert now.min() >= 0
  assert now.max() <= 1
  assert now.std((1, 2)).mean() > 0.08
  assert 1e-4 < np.abs(soon - now).mean() < 0.3 * np.abs(later - now).mean()
  window = np.hanning(32)
  window = (window[:, None] * window)[..., None]
  centred = (now - now.mean((1, 2), keepdims=True)) * window
  power = np.abs(np.fft.fft2(centred, axes=(1, 2))) ** 2
  cycles = np.abs(np.fft.fftfreq(32, 1 / 32))
  low = np.hypot(cycles[:, None], cycles) < 5
  share = power[:, low].sum() / power.sum()
  assert share > 0.97
  noise = np.random.default_rng(0).uniform(size=now.shape) * window
  noise = (
    np.abs(np.fft.fft2(noise - noise.mean((1, 2), keepdims=True), axes=(1, 2)))
    ** 2
  )
  assert noise[:, low].sum() / noise.sum() < 0.9


def test_camera_shows_the_same_world():
  """A shifted, rolled, zoomed camera sees points where geometry puts them."""
  env = distractions.Distracted(VIEW, camera=1.0)
  base = env.begin(jnp.int32(0))
  state = cartpole.CartPoleState(*map(jnp.float32, (0.6, 0.0, 0.4, 0.0)))
  draw = jax.jit(
    lambda camera: scenes.picture(
      dataclasses.replace(env, env=dataclasses.replace(VIEW, size=64)),
      distractions.DistractedState(state, base._replace(camera=camera)),
    )
  )
  still = np.asarray(draw(jnp.zeros(4)), int)
  # Eight pixels of 64 are a quarter of the plane's two units.
  moved = np.asarray(draw(jnp.array([0.25, 0.0, 0.0, 0.0])), int)
  assert np.abs(moved[:, :-8] - still[:, 8:]).max() <= 1
  lifted = np.asarray(draw(jnp.array([0.0, 0.25, 0.0, 0.0])), int)
  assert np.abs(lifted[8:] - still[:-8]).max() <= 1
  rolled = np.asarray(draw(jnp.array([0.0, 0.0, np.pi / 2, 0.0])), int)
  assert np.abs(rolled - np.rot90(still, -1)).max() <= 2
  far = np.asarray(draw(jnp.array([0.0, 0.0, 0.0, 1.0])), int)
  small = still.reshape(32, 2, 32, 2, 3).mean((1, 3))
  assert np.abs(far[16:48, 16:48] - small).mean() < 2
  assert np.abs(moved - still).max() > 50


def test_colors_move_with_their_scale():
  state = cartpole.CartPoleState(*map(jnp.float32, (0.6, 0.0, 0.4, 0.0)))

  def change(scale):
    env = distractions.Distracted(VIEW, color=scale)

    def draw(seed):
      now = distractions.DistractedState(state, env.begin(seed))
      return scenes.picture(env, now)

    images = np.asarray(jax.jit(jax.vmap(draw))(jnp.arange(8)), int)
    return np.abs(images - np.asarray(scenes.picture(VIEW, state), int))

  small, large = change(0.05), change(0.5)
  assert small.max() <= 0.05 * 255 + 1
  assert large.mean() > 4 * small.mean() > 0


def test_wrong_settings():
  for name in ('color', 'background', 'camera'):
    for value in (-0.1, 1.5, float('nan')):
      with pytest.raises(ValueError, match=f'{name} must be in'):
        distractions.Distracted(VIEW, **{name: value})
  with pytest.raises(ValueError, match='background_kind must be one of'):
    distractions.Distracted(VIEW, background_kind='video')
  with pytest.raises(ValueError, match='must not be negative'):
    distractions.Distracted(VIEW, num_seeds=-1)
