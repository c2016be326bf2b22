"""What every environment does as lanes: in JAX, wrapped, and in simulators."""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest

from rl.envs import (
  brax_env,
  cartpole,
  cutoffs,
  distractions,
  dm_control_env,
  dodge,
  envpool_env,
  frames,
  grid_levels,
  gymnasium_env,
  gymnax_env,
  lane_following,
  lanes,
  mazes,
  pendulum,
  pixels,
  procgen,
  protocol,
  reacher,
  spaces,
)
from tests.rl.envs import env_cases

os.environ.setdefault('MUJOCO_GL', 'osmesa')
KEY = jax.random.key(17)
LANES, STEPS = 3, 40


class Case(NamedTuple):
  """A row of the table.

  Attributes:
    make: lanes, of their number.
    rewards: bounds of those of valid steps.
    slow: whether compiling or rendering it takes long, or it is a variant.
  """

  make: Callable
  rewards: tuple[float, float] = (-np.inf, np.inf)
  slow: bool = False


def in_jax(env, *rewards, slow=False):
  # Ends must be seen within the steps.
  make = functools.partial(lanes.Lanes, env, max_steps=13)
  return Case(make, rewards or (-np.inf, np.inf), slow)


def gymnasium(mode):
  def make(count):
    library = pytest.importorskip('gymnasium')
    env = library.make_vec(
      'CartPole-v1',
      num_envs=count,
      vectorization_mode='sync',
      vector_kwargs={'autoreset_mode': mode},
    )
    return gymnasium_env.GymnasiumVector(env)

  return Case(make, (1, 1))


def gymnax(count):
  pytest.importorskip('gymnax')
  return lanes.Lanes(gymnax_env.make('CartPole-v1'), count, max_steps=13)


def brax(count):
  pytest.importorskip('brax')
  env = brax_env.make('inverted_pendulum')
  return lanes.Lanes(env, count, max_steps=13)


def envpool(count, **options):
  pytest.importorskip('envpool')
  return envpool_env.EnvPoolVector(
    'CartPole-v1', count, max_episode_steps=15, num_threads=1, **options
  )


def bigfish(count):
  pytest.importorskip('envpool')
  try:
    return procgen.make('bigfish', count)
  except ImportError as error:
    pytest.skip(f'Procgen in EnvPool needs Qt 5: {error}')


def rendered(count):
  pytest.importorskip('dm_control')
  try:
    env = dm_control_env.DmControlPixels(
      'cartpole', 'balance', count, size=24, action_repeat=100
    )
    env.reset(jax.random.split(KEY, count))
  except (ImportError, OSError, AttributeError, RuntimeError) as error:
    pytest.skip(f'no renderer for MuJoCo: {error}')
  return env


VIEW = pixels.PixelView(cartpole.CartPoleSwingUp(), pixels.swing_up_scene, 16)
MOST = np.pi**2 + 6.4 + 0.004 + 1e-4
CASES = {
  'scripted': in_jax(env_cases.Scripted(length=5), slow=True),
  'pendulum': in_jax(pendulum.Pendulum(), -MOST, 0),
  'balance': in_jax(cartpole.CartPoleBalance(), 1, 1),
  'swing up': in_jax(cartpole.CartPoleSwingUp(), 0, 1, slow=True),
  'reacher': in_jax(reacher.Reacher(), -2.1, 0, slow=True),
  'dodge': in_jax(dodge.Dodge(size=8), 0, 1, slow=True),
  'road': in_jax(lane_following.LaneFollowing(size=8), slow=True),
  'grid': in_jax(grid_levels.GridLevels(), slow=True),
  'maze': in_jax(mazes.Maze(), 0, 1, slow=True),
  'coloured maze': in_jax(mazes.Maze(colors=True), 0, 1, slow=True),
  'view': in_jax(VIEW, 0, 1, slow=True),
  'distracted': in_jax(distractions.Distracted(VIEW), 0, 1, slow=True),
  'stacked': Case(
    lambda n: frames.Stacked(
      frames.Downscaled(lanes.Lanes(VIEW, n, max_steps=13), 2), 2
    ),
    slow=True,
  ),
  'gymnax': Case(gymnax, (1, 1), slow=True),
  'brax': Case(brax, slow=True),
  'gymnasium, resets in a step': gymnasium('NextStep'),
  'gymnasium, resets at once': gymnasium('SameStep'),
  'envpool': Case(envpool, (1, 1)),
  'envpool, cut off': Case(
    lambda n: cutoffs.CutOff(envpool(n, step_reward=-1.1), most=4), (-1.1, -1.1)
  ),
  'procgen': Case(bigfish, slow=True),
  'dm_control': Case(rendered, (0, 100), slow=True),
}


@pytest.fixture(
  params=[
    pytest.param(name, marks=pytest.mark.slow if case.slow else ())
    for name, case in CASES.items()
  ],
  scope='module',
)
def case(request):
  """A row, its lanes and the steps that they took."""
  row = CASES[request.param]
  env = row.make(LANES)
  actions = drawn(env.action_space)
  yield row, env, actions, env_cases.drive(env, keys(KEY), actions)
  env.close()


def keys(key):
  return jax.random.split(key, LANES)


def drawn(space):
  """Random actions, [steps, lanes]."""
  draw = jax.jit(jax.vmap(jax.vmap(space.sample)))
  return np.asarray(draw(jax.random.split(jax.random.key(2), (STEPS, LANES))))


def test_spaces_and_types(case):
  row, env, _, (first, moves, _) = case
  assert isinstance(env, protocol.VectorEnvironment)
  assert env.num_lanes == LANES
  seen = moves.final_observation.reshape(-1, *first.shape[1:])
  for observation in [*first, *seen]:
    assert env.observation_space.contains(observation)
  shape = (STEPS, LANES)
  assert moves.observation.shape == (*shape, *env.observation_space.shape)
  assert moves.reward.dtype == np.float32
  for flag in (moves.terminated, moves.truncated, moves.valid):
    assert (flag.dtype, flag.shape) == (bool, shape)
  low, high = row.rewards
  paid = moves.reward[moves.valid]
  assert low - 1e-6 <= paid.min() <= paid.max() <= high + 1e-6


def test_ends_and_resets(case):
  _, env, _, (_, moves, _) = case
  ended = moves.terminated | moves.truncated
  assert ended.any(), 'an episode must end'
  assert not (moves.terminated & moves.truncated).any()
  assert not ended[~moves.valid].any()
  assert (moves.reward[~moves.valid] == 0).all()
  same = moves.observation == moves.final_observation
  same = same.reshape(*ended.shape, -1).all(-1)
  assert same[~ended].all()
  assert moves.valid[0].all()
  if env.resets_at_once:
    assert moves.valid.all()
    assert not same[ended].all()
  else:
    assert same.all()
    # Lanes that were cut off may wait longer.
    assert not moves.valid[1:][ended[:-1]].any()


def test_statistics_are_those_of_valid_steps(case):
  _, _, _, (_, moves, stats) = case
  env_cases.count(moves, stats)
  if not moves.valid.all():
    wrong = moves._replace(valid=np.ones_like(moves.valid))
    with pytest.raises(AssertionError):
      env_cases.count(wrong, stats)


def test_a_lane_is_its_key_and_its_actions(case):
  row, env, actions, (first, moves, _) = case
  again, same, _ = env_cases.drive(env, keys(KEY), actions)
  np.testing.assert_array_equal(again, first)
  jax.tree.map(np.testing.assert_array_equal, same[:6], moves[:6])
  other, _, _ = env_cases.drive(env, keys(jax.random.key(18)), actions)
  assert not np.array_equal(other, first)
  # It does alone as it does among others.
  single = row.make(1)
  alone, seen, _ = env_cases.drive(single, keys(KEY)[1:2], actions[:, 1:2])
  np.testing.assert_allclose(alone[0], first[1], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
    seen.observation[:, 0], moves.observation[:, 1], rtol=1e-3, atol=1e-3
  )
  single.close()


def test_what_does_not_fit_is_refused(case):
  _, env, actions, _ = case
  reset, step = env.reset, env.step
  if env.pure:
    reset, step = jax.jit(reset), jax.jit(step)
  state, _ = reset(keys(KEY))
  with pytest.raises(ValueError, match='keys must be'):
    env.reset(jax.random.split(KEY, LANES + 1))
  wrong = {'shape': np.zeros((LANES, 9), actions.dtype)}
  if isinstance(env.action_space, spaces.Discrete):
    wrong['within'] = np.full(LANES, env.action_space.n, actions.dtype)
  else:
    wrong['finite'] = np.full_like(actions[0], np.nan)
  for rule, action in wrong.items():
    with pytest.raises(ValueError, match=rule):
      env.step(state, action)
  assert np.isfinite(step(state, actions[0])[1].reward).all()
