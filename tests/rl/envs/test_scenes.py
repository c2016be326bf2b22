"""Drawing against painters that loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import (
  cartpole,
  dodge,
  grid_levels,
  lane_following,
  pixels,
  reacher,
  scenes,
)
from tests import marks

PIXEL_ENVS = [
  dodge.Dodge(size=16),
  lane_following.LaneFollowing(size=16),
  grid_levels.GridLevels(cells=5, size=20),
  pixels.PixelView(cartpole.CartPoleSwingUp(), pixels.swing_up_scene, 16),
  pixels.PixelView(cartpole.CartPoleBalance(), pixels.balance_scene, 16),
  pixels.PixelView(reacher.Reacher(), pixels.arm_scene, 16),
]
NAMES = ['dodge', 'lane', 'grid', 'swing_up', 'balance', 'reacher']


def test_compose_paints_in_order():
  rng = np.random.default_rng(0)
  cover = rng.uniform(size=(3, 4, 5)) * (rng.uniform(size=(3, 4, 5)) < 0.7)
  palette = rng.uniform(size=(3, 3))
  ground = rng.uniform(size=(4, 5, 3))
  want = ground.copy()
  for alpha, color in zip(cover, palette, strict=True):
    want = alpha[..., None] * color + (1 - alpha[..., None]) * want
  got = jax.jit(scenes.compose)(
    scenes.Scene(
      *(jnp.asarray(x, jnp.float32) for x in (ground, cover, palette))
    )
  )
  assert got.dtype == jnp.uint8
  assert np.abs(np.asarray(got, float) - 255 * want).max() <= 0.501


def test_segment_distance_is_the_nearest_point():
  rng = np.random.default_rng(1)
  start, end = rng.uniform(-1, 1, (2, 3, 2))
  end[2] = start[2]
  share = np.linspace(0, 1, 2001)[:, None, None]
  line = start + share * (end - start)
  points = np.asarray(scenes.grid(8), np.float64)
  away = points[None, None] - line[:, :, None, None]
  want = np.linalg.norm(away, axis=-1).min(0)
  got = jax.jit(scenes.segment_distance)(
    scenes.grid(8),
    jnp.asarray(start, jnp.float32),
    jnp.asarray(end, jnp.float32),
  )
  np.testing.assert_allclose(got, want, atol=2e-3)


def test_grid_has_y_upwards():
  points = np.asarray(scenes.grid(8))
  np.testing.assert_allclose(points[0, 0], [-0.875, 0.875])
  np.testing.assert_allclose(points[-1, -1], [0.875, -0.875])
  assert float(scenes.pixel_width(scenes.grid(8))) == pytest.approx(0.25)


def test_cover_counts_the_area_of_a_disc():
  points = scenes.grid(64)
  distance = jnp.sqrt(jnp.sum(points**2, axis=-1)) - 0.5
  area = scenes.cover(distance, scenes.pixel_width(points)).mean() * 4
  assert float(area) == pytest.approx(np.pi / 4, rel=2e-3)


@pytest.mark.parametrize(
  'name',
  ['dodge', 'lane', 'grid', *marks.slow('swing_up', 'balance'), 'reacher'],
)
def test_pixel_contract(name):
  env = PIXEL_ENVS[NAMES.index(name)]
  assert isinstance(env, scenes.PixelEnvironment)
  assert hash(env) is not None

  @jax.jit
  def run(key):
    state, first = env.reset(key)
    action = env.action_space.sample(key)
    after, step = env.step(state, action, key)
    again = scenes.compose(env.scene(after, scenes.grid(env.size)))
    return first, step, again

  keys = jax.random.split(jax.random.key(9), 2)
  first, step, again = run(keys[0])
  assert env.observation_space.contains(first)
  assert env.observation_space.contains(step.observation)
  np.testing.assert_array_equal(step.observation, again)
  assert step.reward.dtype == jnp.float32
  assert step.terminated.dtype == jnp.bool_
  assert len(np.unique(np.asarray(first).reshape(-1, 3), axis=0)) > 3
  other = run(keys[1])[0]
  assert (np.asarray(first) != np.asarray(other)).any()


@pytest.mark.parametrize('env', PIXEL_ENVS, ids=NAMES)
def test_drawing_is_cheap(env):
  """Operations per pixel, as the compiler counts them."""
  state = jax.eval_shape(env.reset, jax.random.key(0))[0]
  draw = jax.jit(lambda state: scenes.picture(env, state))
  cost = draw.lower(state).compile().cost_analysis()
  assert cost['flops'] < 300 * env.size**2


def test_pictures_show_where_things_are():
  """Colours at the places that geometry gives."""

  picture = jax.jit(scenes.picture, static_argnums=0)

  def at(image, x, y):
    size = image.shape[0]
    row, column = int((1 - y) * size / 2), int((1 + x) * size / 2)
    return np.asarray(image)[row, column] / 255

  view = pixels.PixelView(cartpole.CartPoleSwingUp(), pixels.swing_up_scene, 64)
  up = cartpole.CartPoleState(*map(jnp.float32, (1.5, 0, 0, 0)))
  image = picture(view, up)
  np.testing.assert_allclose(at(image, 0.5, 0.25), [0.9, 0.7, 0.2], atol=0.01)
  np.testing.assert_allclose(at(image, 0.5, -0.25), 0.15, atol=0.01)
  # Positive angles lean to the left here, and to the right in the other task.
  left = cartpole.CartPoleState(*map(jnp.float32, (0, 0, np.pi / 2, 0)))
  image = picture(view, left)
  np.testing.assert_allclose(at(image, -0.28, 0.0), [0.9, 0.7, 0.2], atol=0.02)
  view = pixels.PixelView(cartpole.CartPoleBalance(), pixels.balance_scene, 64)
  image = picture(view, left)
  np.testing.assert_allclose(at(image, 0.28, 0.0), [0.9, 0.7, 0.2], atol=0.02)
  view = pixels.PixelView(reacher.Reacher(), pixels.arm_scene, 64)
  pose = reacher.ReacherState(
    jnp.array([0.0, np.pi / 2]), jnp.zeros(2), jnp.array([-0.5, -0.5])
  )
  image = picture(view, pose)
  np.testing.assert_allclose(at(image, 0.45, 0.45), [0.95, 0.9, 0.5], atol=0.05)
  np.testing.assert_allclose(at(image, 0.2, 0.0), [0.4, 0.6, 0.75], atol=0.05)
  np.testing.assert_allclose(
    at(image, -0.45, -0.45), [0.85, 0.2, 0.2], atol=0.05
  )


def test_too_small():
  with pytest.raises(ValueError, match='size must be at least 8'):
    dodge.Dodge(size=4)
  with pytest.raises(ValueError, match='objects must be positive'):
    dodge.Dodge(objects=0)
