"""Distracted pictures of dm_control: ranges, seeds, and untouched physics."""

import os

import jax
import numpy as np
import pytest

from rl.envs import clips, dm_control_env, mujoco_distractions
from tests import marks
from tests.rl.envs import env_cases

os.environ.setdefault('MUJOCO_GL', 'osmesa')
suite = pytest.importorskip('dm_control.suite')
image = pytest.importorskip('PIL.Image')

KEY = jax.random.key(71)
SIZE = 24
EACH = {
  'color': {'color': 0.3},
  'background': {'background': 1.0},
  'camera': {'camera': 0.3},
}


def load(domain='cartpole', task='swingup'):
  env = suite.load(domain, task, task_kwargs={'random': 1})
  env.reset()
  return env


def painter(env, seed=3, **settings):
  found = mujoco_distractions.Painter(
    env, mujoco_distractions.Distractions(**settings), size=SIZE, camera=0
  )
  found.seed(seed)
  found.begin()
  return found


@pytest.fixture(scope='module')
def plain():
  """A picture of the suite itself, once it is known that there are any."""
  try:
    env = load()
    return env.physics.render(SIZE, SIZE, camera_id=0)
  except (ImportError, OSError, AttributeError, RuntimeError) as error:
    pytest.skip(f'no renderer for MuJoCo: {error}')


def test_nothing_is_the_suite_itself(plain):
  settings = mujoco_distractions.graded('cartpole', 0.0)
  assert settings.color == settings.background == settings.camera == 0
  mine = mujoco_distractions.Painter(load(), settings, size=SIZE, camera=0)
  mine.begin()
  mine.advance()
  np.testing.assert_array_equal(mine.picture(), plain)


@pytest.mark.parametrize('name', EACH)
def test_each_changes_pictures_and_not_the_physics(name, plain):
  env, other = load(), load()
  mine = painter(env, **EACH[name])
  before = [
    x.copy() for x in (env.physics.model.mat_rgba, env.physics.data.cam_xpos)
  ]
  seen = mine.picture()
  assert (seen != plain).mean() > 0.05
  # Drawn again it is the same: nothing of it stays.
  np.testing.assert_array_equal(mine.picture(), seen)
  after = env.physics.model.mat_rgba, env.physics.data.cam_xpos
  jax.tree.map(np.testing.assert_array_equal, before, list(after))
  draw = np.random.default_rng(0)
  for action in draw.uniform(-1, 1, (8, 1)):
    one, two = env.step(action), other.step(action)
    mine.advance()
    mine.picture()
    assert one.reward == two.reward
  np.testing.assert_array_equal(
    env.physics.get_state(), other.physics.get_state()
  )


@pytest.mark.parametrize(
  # `test_published_ranges` has how the others move.
  'name',
  ['background', *marks.slow('color', 'camera')],
)
def test_dynamic_ones_move_and_static_ones_stay(name, plain):
  """The simulator stands still: only distractions can move."""
  moves = {}
  for dynamic in (False, True):
    mine = painter(load(), dynamic=dynamic, **EACH[name])
    first = mine.picture().astype(int)
    for _ in range(10):
      mine.advance()
    moves[dynamic] = np.abs(mine.picture() - first).max()
  assert moves[False] == 0
  assert moves[True] > 0


@pytest.mark.slow
def test_seeds_of_lanes(plain):
  """Over two episodes; whatever the other distractions and the actions are."""
  settings = mujoco_distractions.graded('cartpole', 0.3)
  env = dm_control_env.DmControlPixels(
    'cartpole',
    'balance',
    2,
    size=SIZE,
    action_repeat=500,
    distractions=settings,
  )

  def drive(env, key):
    actions = np.full((4, 2, 1), 0.1, np.float32)
    first, moves, _ = env_cases.drive(env, jax.random.split(key, 2), actions)
    return np.concatenate([first[None], moves.observation]), moves.reward

  one, two, other = (drive(env, k) for k in (KEY, KEY, jax.random.key(72)))
  bare = dm_control_env.DmControlPixels(
    'cartpole', 'balance', 2, size=SIZE, action_repeat=500
  )
  env.close()
  still = drive(bare, KEY)
  bare.close()
  jax.tree.map(np.testing.assert_array_equal, one, two)
  np.testing.assert_array_equal(one[1], still[1])
  assert (one[0] != still[0]).mean((2, 3, 4)).min() > 0.3
  assert (one[0] != other[0]).mean() > 0.3
  # Each lane and each episode has its own.
  assert (one[0][:, 0] != one[0][:, 1]).mean() > 0.3
  assert (one[0][0, 0] != one[0][3, 0]).mean() > 0.3


def test_few_seeds_are_few_distractions(plain):
  env = load()
  mine = painter(env, color=0.3, num_seeds=2, start_seed=5)
  seen = set()
  # One of the two alone has a chance of 2^-9.
  for _ in range(10):
    mine.begin()
    seen.add(mine.picture().tobytes())
  assert len(seen) == 2


def test_a_folder_is_the_sky(plain, tmp_path):
  red = np.zeros((5, 7, 3), np.uint8) + np.uint8([250, 10, 10])
  image.fromarray(red).save(tmp_path / '0.png')
  folder = clips.Folder(tmp_path)
  whole = painter(load(), background=1.0, ground=0.0, clips=folder).picture()
  is_red = lambda x: (np.abs(x.astype(int) - red[0, 0]) < 3).all(-1)
  sky = is_red(whole)
  assert sky.mean() > 0.5
  floor = painter(load(), background=1.0, clips=folder).picture()
  assert 0.2 < is_red(floor).mean() < sky.mean() - 0.1
  half = painter(load(), background=0.5, ground=0.0, clips=folder).picture()
  clear = painter(load(), background=1e-9, ground=0.0).picture()
  expected = (clear[sky].astype(float) + red[0, 0]) / 2
  assert np.abs(half[sky] - expected).mean() < 3


def test_published_ranges():
  scale, reach = 0.2, np.pi / 2
  high = scale * np.array([reach, reach, 1.5, reach])
  low = scale * np.array([-reach, -reach, -0.5, -reach])
  turns, speeds = [], []
  for seed in range(40):
    draw = np.random.default_rng(seed)
    camera = mujoco_distractions._Camera(scale, True, draw)
    for _ in range(150):
      before = camera.now
      camera.advance()
      length = np.array([1 + before[2], 1 + before[2], 1, 1])
      speeds.append((camera.now - before) * length)
      turns.append(camera.now)
  turns, speeds = np.array(turns), np.array(speeds)
  np.testing.assert_allclose(turns.max(0), high, rtol=1e-6)
  np.testing.assert_allclose(turns.min(0), low, rtol=1e-6)
  fastest = np.linalg.norm(speeds[:, :3], axis=1).max()
  assert fastest == pytest.approx(scale / 10, rel=0.02)
  assert np.abs(speeds[:, 3]).max() == pytest.approx(
    scale * np.pi / 50, rel=0.02
  )
  original = np.tile([0.0, 0.5, 0.9], (2000, 1))
  colors = mujoco_distractions._Colors(
    scale, original, np.random.default_rng(0)
  )
  first = colors.now
  for bound, found in (
    ((0.0, 0.3, 0.7), first.min(0)),
    ((0.2, 0.7, 1.0), first.max(0)),
  ):
    np.testing.assert_allclose(found, bound, atol=2e-3)
  colors.advance()
  inside = (colors.now > 0.31) & (colors.now < 0.69)
  step = (colors.now - first)[inside[:, 1], 1]
  assert step.std() == pytest.approx(0.03 * scale, rel=0.05)
  easy = mujoco_distractions.graded('reacher', 0.1, dynamic=False)
  assert (easy.color, easy.camera, easy.background) == (0.1, 0.1, 1.0)
  assert not easy.dynamic
  grounds = [
    mujoco_distractions.graded(d, 0.1).ground
    for d in ('reacher', 'walker', 'finger')
  ]
  assert grounds == [0.0, 1.0, 0.3]


def test_cameras_look_at_their_point():
  """From every direction, straight down too; not from below."""
  draw = np.random.default_rng(0)
  for tilt in (0.0, 0.4, np.pi / 2):
    sin, cos = np.sin(tilt), np.cos(tilt)
    axes = np.array([[1, 0, 0], [0, sin, -cos], [0, cos, sin]])
    position = np.array([1.0, 2.0, 3.0])
    target = position - 4 * axes[:, 2]
    same = mujoco_distractions.orbit((position, axes), 4.0, np.zeros(4))
    np.testing.assert_allclose(same[0], position, atol=1e-12)
    np.testing.assert_allclose(same[1], axes, atol=1e-12)
    for turn in draw.uniform(-1, 1, (50, 4)) * [1.5, 1.5, 0.4, 1.5]:
      where, turned = mujoco_distractions.orbit((position, axes), 4.0, turn)
      np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-12)
      assert np.linalg.det(turned) == pytest.approx(1)
      np.testing.assert_allclose(
        where - 4 * (1 + turn[2]) * turned[:, 2], target, atol=1e-12
      )
      assert where[2] - target[2] > -1e-9
  # By how much, and which way: to the right, up, and rolled.
  level = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
  away = lambda *turn: mujoco_distractions.orbit(
    (np.zeros(3), level), 1.0, np.array(turn)
  )
  np.testing.assert_allclose(away(np.pi / 2, 0, 0, 0)[0], [1, 1, 0], atol=1e-9)
  np.testing.assert_allclose(away(0, np.pi / 2, 0, 0)[0], [0, 1, 1], atol=1e-9)
  rolled = away(0, 0, 0, np.pi / 2)
  np.testing.assert_allclose(rolled[0], np.zeros(3), atol=1e-9)
  np.testing.assert_allclose(rolled[1][:, 0], level[:, 1], atol=1e-9)


def test_rejects():
  for settings in (
    {'color': -0.1},
    {'background': 1.1},
    {'camera': float('nan')},
    {'ground': 2.0},
    {'num_seeds': -1},
  ):
    with pytest.raises(ValueError, match='got'):
      mujoco_distractions.Distractions(**settings)
