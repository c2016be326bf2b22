"""Films of tasks that observe states: the same lanes, and pictures of them."""

import os

import jax
import numpy as np
import pytest

from rl.envs import envpool_env, mujoco_film, protocol, rendering
from runtime import optional

os.environ.setdefault('MUJOCO_GL', 'osmesa')
for needed in ('envpool', 'gymnasium', 'mujoco'):
  pytest.importorskip(needed)

KEYS = jax.random.split(jax.random.key(5), 2)


def test_lanes_are_the_tasks_own_and_are_drawn_where_they_are():
  shown = mujoco_film.MujocoFilm('Swimmer-v4', 2, size=32, num_threads=1)
  plain = envpool_env.EnvPoolVector('Swimmer-v4', 2, num_threads=1)
  assert isinstance(shown, protocol.VectorEnvironment)
  assert shown.observation_space == plain.observation_space
  assert shown.action_space == plain.action_space
  state, seen = shown.reset(KEYS)
  other, expected = plain.reset(KEYS)
  np.testing.assert_array_equal(seen, expected)
  try:
    first = shown.render(state)
  except rendering.RendererError as error:
    pytest.skip(str(error))
  action = np.tile(np.array([1.0, -1.0], np.float32), (2, 1))
  for _ in range(3):
    state, move = shown.step(state, action)
    other, same = plain.step(other, action)
  jax.tree.map(np.testing.assert_array_equal, move, same)
  np.testing.assert_array_equal(state.stats.running_length, 3)
  pictures = shown.render(state)
  assert pictures.shape == (2, 32, 32, 3)
  assert pictures.dtype == np.uint8
  assert pictures.std() > 5
  assert (pictures != first).any(axis=(1, 2, 3)).all()
  # What is drawn are the positions that the task hides, and those that it shows.
  data, _ = shown._renderer
  np.testing.assert_allclose(data.qpos[2:], same.observation[1, :3], rtol=1e-6)
  for lanes in (shown, plain):
    lanes.close()
  shown.reset(KEYS)
  shown.close()


def test_tasks_that_hide_no_positions_are_refused():
  with pytest.raises(ValueError, match=r"'exclude_current_positions"):
    mujoco_film.MujocoFilm('Reacher-v4', 2)


def test_where_nothing_can_draw_the_remedy_is_told(monkeypatch):
  shown = mujoco_film.MujocoFilm('Swimmer-v4', 1, num_threads=1)
  state, _ = shown.reset(KEYS[:1])

  def fail(*_):
    raise OSError('no library')

  monkeypatch.setattr(optional.load('mujoco', extra='rl'), 'Renderer', fail)
  with pytest.raises(rendering.RendererError, match=r'libosmesa6.*no library'):
    shown.render(state)
  shown.close()
