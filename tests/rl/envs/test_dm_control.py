"""Pictures of dm_control: resets, seeds, repeats, what is drawn."""

import os

import jax
import numpy as np
import pytest

from rl.envs import dm_control_env, spaces

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
  state, first = env.reset(jax.random.split(key, 2))
  rows = []
  for _ in range(9):
    state, move = env.step(state, np.full((2, 1), 0.1, np.float32))
    rows.append(move)
  return first, jax.tree.map(lambda *x: np.stack(x), *rows), state.stats


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
