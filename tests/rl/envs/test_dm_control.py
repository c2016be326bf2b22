"""Pictures of dm_control: resets, seeds, repeats, what is drawn."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import film
from rl.envs import dm_control_env, frames, spaces
from tests.rl.envs import env_cases

os.environ.setdefault('MUJOCO_GL', 'osmesa')
pytest.importorskip('dm_control')

KEY = jax.random.key(71)


@pytest.fixture(scope='module')
def env():
  try:
    lanes = dm_control_env.DmControlPixels(
      'cartpole', 'balance', 2, size=24, action_repeat=250
    )
    lanes.reset(jax.random.split(KEY, 2))
  except (ImportError, OSError, AttributeError, RuntimeError) as error:
    pytest.skip(f'no renderer for MuJoCo: {error}')
  yield lanes
  lanes.close()


def drive(env, key):
  actions = np.full((9, 2, 1), 0.1, np.float32)
  return env_cases.drive(env, jax.random.split(key, 2), actions)


def test_episodes(env):
  assert env.observation_space == spaces.pixels(24)
  assert env.action_space == spaces.Box((1,), -1.0, 1.0)
  first, moves, stats = drive(env, KEY)
  assert first.dtype == np.uint8
  assert first.std() > 5, 'a picture must show something'
  # 1000 simulator steps, 250 at once, then one that only resets.
  np.testing.assert_array_equal(
    moves.truncated[:, 0], [0, 0, 0, 1, 0, 0, 0, 0, 1]
  )
  np.testing.assert_array_equal(moves.valid[:, 0], [1, 1, 1, 1, 0, 1, 1, 1, 1])
  assert not moves.terminated.any()
  assert (moves.reward[4] == 0).all()
  # Rewards of the suite lie in [0, 1] and are summed over the repeats.
  assert (moves.reward[moves.valid] > 1).all()
  assert (moves.reward <= 250).all()
  np.testing.assert_allclose(
    stats.last_return, moves.reward[5:].sum(0), rtol=1e-5
  )
  np.testing.assert_array_equal(stats.episodes, [2, 2])
  np.testing.assert_array_equal(stats.last_length, [4, 4])


def test_impossible_sizes():
  with pytest.raises(ValueError, match='size'):
    dm_control_env.DmControlPixels('cartpole', 'balance', 2, size=0)


@pytest.fixture(scope='module')
def deep(env):
  lanes = dm_control_env.DmControlPixels(
    'cartpole', 'balance', 2, size=24, action_repeat=250, depth=8.0
  )
  yield lanes
  lanes.close()


def test_depth_is_the_distance_along_the_line_of_sight(env, deep):
  assert deep.observation_space == spaces.pixels(24, 4)
  keys = jax.random.split(KEY, 2)
  _, flat = env.reset(keys)
  _, seen = deep.reset(keys)
  np.testing.assert_array_equal(seen[..., :3], flat)
  physics = deep._envs[0].physics
  position, axes = physics.data.cam_xpos[0], physics.data.cam_xmat[0]
  ahead = -axes.reshape(3, 3)[:, 2]
  away = np.dot(physics.named.data.geom_xpos['cart'] - position, ahead)
  row, column = _pixel(physics, physics.named.data.geom_xpos['cart'], 24)
  near = seen[0, row, column, 3] / 255 * 8.0
  half = physics.named.model.geom_size['cart'].max()
  assert away - half - 0.05 <= near <= away
  assert (seen[:, 0, :, 3] == 255).all(), 'the sky is far'


def _pixel(physics, point, size):
  """Row and column in which the first camera shows a point."""
  axes = physics.data.cam_xmat[0].reshape(3, 3)
  x, y, z = axes.T @ (point - physics.data.cam_xpos[0])
  focal = size / 2 / np.tan(np.deg2rad(physics.model.cam_fovy[0]) / 2)
  return int(size / 2 + focal * y / z), int(size / 2 - focal * x / z)


class Still:
  """A player that pushes nothing."""

  def initial_memory(self, num_lanes):
    return ()

  def act(self, memory, observation, first, key):
    return memory, jnp.zeros((2, 1))


def test_films_of_a_stack_with_depth_show_the_newest_colours(deep):
  stack = frames.Stacked(deep, 3)
  shot = film.Film(stack, num_frames=2, size=24).shoot(Still(), KEY)
  _, reset_key = jax.random.split(KEY)
  state, first = deep.reset(jax.random.split(reset_key, 2))
  _, after = deep.step(state, np.zeros((2, 1), np.float32))
  for frame, seen in zip(shot, (first, after.observation), strict=True):
    for lane, left in enumerate((1, 27)):
      shown = frame[1:25, left : left + 24]
      np.testing.assert_array_equal(shown, seen[lane, :, :, :3])


def test_impossible_depths():
  with pytest.raises(ValueError, match='depth'):
    dm_control_env.DmControlPixels('cartpole', 'balance', 2, depth=0.0)
