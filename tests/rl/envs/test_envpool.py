"""EnvPool's traps: reset steps, seeds, statistics, odd spaces and actions."""

import sys

import jax
import numpy as np
import pytest

from rl.envs import envpool_env, procgen, spaces
from tests import refusals
from tests.rl.envs import env_cases

envpool = pytest.importorskip('envpool')

KEY = jax.random.key(61)


def qt():
  """Skips where Procgen's build cannot load Qt 5."""
  try:
    envpool.make_spec('CoinrunEasy-v0')
  except ImportError as error:
    pytest.skip(f'Procgen in EnvPool needs Qt 5: {error}')


def drive(env, key, policy, steps):
  """(first observation, stacked transitions, last statistics)."""
  state, first = env.reset(jax.random.split(key, env.num_lanes))
  rows = []
  observation = first
  for time in range(steps):
    state, move = env.step(state, policy(time, observation))
    observation = move.observation
    rows.append(move)
  return first, jax.tree.map(lambda *x: np.stack(x), *rows), state.stats


def pushes(num_lanes):
  draw = np.random.default_rng(0).integers(0, 2, (1000, num_lanes))
  return lambda time, _: draw[time].astype(np.int32)


@pytest.fixture(scope='module')
def cart():
  env = envpool_env.EnvPoolVector(
    'CartPole-v1',
    3,
    max_episode_steps=15,
    info=('elapsed_step',),
    num_threads=1,
  )
  yield env
  env.close()


def test_the_step_after_an_end_only_resets(cart):
  assert not cart.pure
  assert not cart.resets_at_once
  first, moves, _ = drive(cart, KEY, pushes(3), 90)
  assert first.dtype == moves.observation.dtype == np.float32
  ended = moves.terminated | moves.truncated
  assert moves.terminated.any()
  assert moves.truncated.any()
  np.testing.assert_array_equal(moves.valid[0], True)
  np.testing.assert_array_equal(moves.valid[1:], ~ended[:-1])
  # CartPole pays 1 for every step but those that only reset.
  np.testing.assert_array_equal(moves.reward, moves.valid)
  assert not ended[~moves.valid].any()
  np.testing.assert_array_equal(moves.info['elapsed_step'][~moves.valid], 0)
  # An episode starts near the centre, and its end is shown as it was.
  assert (np.abs(moves.observation[~moves.valid]) <= 0.05).all()
  lost = moves.final_observation[moves.terminated]
  assert ((np.abs(lost[:, 2]) > 0.2) | (np.abs(lost[:, 0]) > 2.4)).all()
  kept = moves.final_observation[moves.truncated]
  assert (np.abs(kept[:, 2]) < 0.21).all()
  np.testing.assert_array_equal(moves.final_observation, moves.observation)


def test_lanes_follow_their_own_policies(cart):
  """Left, right, and keeping the balance: as long as each deserves."""

  def policy(time, x):
    lean = (x[:, 2] + 0.5 * x[:, 3] > 0).astype(np.int32)
    return np.array([0, 1, lean[2]], np.int32)

  _, moves, stats = drive(cart, KEY, policy, 60)
  assert (stats.last_length[:2] < 12).all()
  assert stats.last_length[2] == 15
  assert not moves.terminated[:, 2].any()
  assert moves.truncated[:, 2].sum() == 3


def test_wrong_actions_never_reach_the_simulator():
  env = envpool_env.EnvPoolVector('Swimmer-v4', 2, num_threads=1)
  assert env.action_space == spaces.Box((2,), -1.0, 1.0)
  assert env.observation_space.dtype == 'float32'
  state, _ = env.reset(jax.random.split(KEY, 2))
  good = np.zeros((2, 2), np.float32)
  for action, match in (
    (good[:1], 'shape'),
    (good.astype(np.int32), 'dtype'),
    (good + np.nan, 'finite'),
    (good + np.inf, 'finite'),
  ):
    with pytest.raises(ValueError, match=match):
      env.step(state, action)
  # Beyond the bounds is as at them.
  _, far = env.step(state, good + 5)
  state, _ = env.reset(jax.random.split(KEY, 2))
  _, at = env.step(state, good + 1)
  np.testing.assert_array_equal(far.observation, at.observation)
  with pytest.raises(ValueError, match='the newest'):
    env.step(state, good)
  state, _ = env.reset(jax.random.split(KEY, 2))
  env.close()
  with pytest.raises(ValueError, match=r'EnvPoolVector, were closed; reset'):
    env.step(state, good)
  state, _ = env.reset(jax.random.split(KEY, 2))
  env.step(state, good)
  env.close()


def test_states_of_dm_control_are_joined_by_name():
  env = envpool_env.EnvPoolVector('CheetahRun-v1', 2, num_threads=1)
  assert env.observation_space.shape == (17,)
  keys = jax.random.split(KEY, 2)
  state, seen = env.reset(keys)
  bits = np.asarray(jax.vmap(jax.random.bits)(keys))
  pool = envpool.make_gymnasium(
    'CheetahRun-v1', num_envs=2, seed=[int(x) >> 1 for x in bits]
  )
  parts, _ = pool.reset()
  joined = np.concatenate([parts['position'], parts['velocity']], 1)
  np.testing.assert_array_equal(seen, joined.astype(np.float32))
  _, move = env.step(state, np.ones((2, 6), np.float32))
  parts = pool.step(np.ones((2, 6)))[0]
  joined = np.concatenate([parts['position'], parts['velocity']], 1)
  np.testing.assert_array_equal(move.observation, joined.astype(np.float32))
  env.close()


def swimmer(task='Swimmer-v4', num_lanes=2, **options):
  return envpool_env.EnvPoolVector(task, num_lanes, **options)


test_wrong_tasks_and_options = refusals.settings(
  swimmer,
  ({'task': 'Swimer-v4'}, r"'Swimmer-v4'"),
  ({'seed': 1}, 'set by the lanes'),
  ({'frameskip': 2}, r"among \[.*'frame_skip'.*got \['frameskip'\]"),
  ({'frame_skip': 'two'}, r"types of {'frame_skip': 4}, got .*'two'"),
  ({'max_episode_steps': 0}, 'max_episode_steps must be positive'),
  ({'num_threads': -1}, 'num_threads must not be negative'),
  ({'info': ('x_pos',)}, r"'x_position'.*got \['x_pos'\]"),
  ({'info': ('env',)}, r"'elapsed_step', 'env_id'.*got \['env'\]"),
  ({'num_lanes': 0}, 'num_lanes'),
)


def test_missing_envpool_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'envpool', None)
  with pytest.raises(ImportError, match=r"pip install 'attune\[rl\]'"):
    envpool_env.EnvPoolVector('Swimmer-v4', 2)


def test_procgen_levels():
  qt()
  keys = jax.random.split(KEY, 6)
  env = procgen.make('coinrun', 6, num_levels=1, num_threads=1)
  assert env.observation_space == spaces.pixels(64)
  assert env.action_space == spaces.Discrete(15)
  _, one = env.reset(keys)
  assert (one == one[0]).all(), 'one level looks the same for every seed'
  env.close()
  env = procgen.make(
    'coinrun', 6, num_levels=3, start_level=7, num_threads=1,
    info=('level_seed',),
  )  # fmt: skip
  state, many = env.reset(keys)
  _, move = env.step(state, np.zeros(6, np.int32))
  assert set(move.info['level_seed'].tolist()) <= {7, 8, 9}
  assert len({x.tobytes() for x in many}) == len(set(move.info['level_seed']))
  env.close()


def test_procgen_ranges():
  assert len(procgen.GAMES) == 16
  assert set(procgen.HARD_RANGES) == set(procgen.EASY_RANGES)
  assert procgen.normalized(64.0, 'starpilot') == 1.0
  assert procgen.normalized(2.5, 'starpilot') == 0.0
  assert procgen.normalized(-1.5, 'fruitbot') == 0.0
  # The constants of the other mode would be seen.
  assert procgen.normalized(35.0, 'starpilot', 'hard') == 1.0
  assert procgen.normalized(64.0, 'starpilot', 'hard') > 1.8
  assert procgen.reward_scale('starpilot') == 1 / 64
  assert procgen.reward_scale('fruitbot', 'hard') == 1 / 27.2


test_procgen_refuses = refusals.all_with(
  'got',
  lambda: procgen.normalized(1.0, 'pong'),
  lambda: procgen.reward_scale('pong'),
  lambda: procgen.normalized(1.0, 'maze', 'medium'),
  lambda: procgen.make('pong', 2),
  lambda: procgen.make('maze', 2, num_levels=-1),
)


def test_atari():
  env = envpool_env.EnvPoolVector('Pong-v5', 2, num_threads=1)
  assert env.observation_space == spaces.Box((84, 84, 4), 0, 255, 'uint8')
  assert env.action_space == spaces.Discrete(6)
  state, first = env.reset(jax.random.split(KEY, 2))
  for _ in range(30):
    state, move = env.step(state, np.array([2, 3], np.int32))
  assert move.valid.all()
  assert move.observation.std() > 5
  assert not np.array_equal(move.observation, first)
  assert not np.array_equal(move.observation[0], move.observation[1])
  env.close()


def test_car_racing():
  env = envpool_env.car_racing(2, size=32, num_threads=1)
  assert env.observation_space == spaces.pixels(32)
  assert env.action_space.shape == (3,)
  state, _ = env.reset(jax.random.split(KEY, 2))
  for _ in range(5):
    state, move = env.step(state, np.full((2, 3), 0.3, np.float32))
  assert move.observation.std() > 5
  assert (state.stats.running_length == 5).all()
  env.close()
  with pytest.raises(ValueError, match='divisor'):
    envpool_env.car_racing(2, size=40)


@pytest.mark.slow  # And to be run alone: see `take_cover` on dm_control.
def test_take_cover_pays_for_tics(tmp_path, monkeypatch):
  if 'dm_control.mujoco' in sys.modules:
    pytest.skip('ViZDoom does not start beside dm_control in one process')
  # ViZDoom leaves a file where it runs.
  monkeypatch.chdir(tmp_path)
  env = envpool_env.take_cover(2, size=32, num_threads=1)
  assert env.observation_space == spaces.pixels(32)
  assert env.action_space == spaces.Discrete(3)
  _, moves, stats = drive(env, KEY, lambda t, x: np.zeros(2, np.int32), 200)
  np.testing.assert_array_equal(moves.reward, 4.0 * moves.valid)
  assert moves.terminated.any()
  env_cases.count(moves, stats)
  env.close()
