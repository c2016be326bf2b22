"""Adapters, on stand-ins that behave as the libraries do."""

import dataclasses
import enum
import sys
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import (
  brax_env,
  foreign_spaces,
  gymnasium_env,
  gymnax_env,
  lanes,
  protocol,
  spaces,
)
from tests.rl.envs import env_cases

KEY = jax.random.key(41)


class Mode(enum.Enum):
  NEXT_STEP = 'NextStep'
  SAME_STEP = 'SameStep'
  DISABLED = 'Disabled'


@dataclasses.dataclass
class FakeBox:
  low: Any
  high: Any
  shape: tuple
  dtype: Any = np.float64


@dataclasses.dataclass
class FakeDiscrete:
  n: int
  start: int = 0
  shape: tuple = ()
  dtype: Any = np.int64


class FakeVector:
  """Gymnasium's rules for resets, on a counter: observes (seed, steps).

  Lane i terminates after 2 + i steps and is truncated after 4; step t gives t.
  """

  def __init__(self, mode, lanes=3, space=None):
    self.metadata = {'autoreset_mode': mode}
    self.num_envs = lanes
    self.single_observation_space = FakeBox(0.0, np.inf, (2,))
    self.single_action_space = space or FakeDiscrete(2)
    self.mode = mode
    self.closed = False
    self.actions = []

  def reset(self, seed):
    assert len(seed) == self.num_envs
    assert all(isinstance(x, int) and 0 <= x < 2**31 for x in seed)
    self.tag = np.array(seed, np.float64)
    self.time = np.zeros(self.num_envs)
    self.again = np.zeros(self.num_envs, bool)
    self.buffer = np.stack([self.tag, self.time], 1)
    return self.buffer, {}

  def _restart(self, i):
    self.tag[i] += 1000
    self.time[i] = 0

  def step(self, action):
    self.actions.append(action.copy())
    n = self.num_envs
    reward, ends, late = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
    info = {}
    for i in range(n):
      if self.mode is Mode.NEXT_STEP and self.again[i]:
        self._restart(i)
      else:
        self.time[i] += 1
        reward[i] = self.time[i]
        ends[i] = self.time[i] == 2 + i
        late[i] = self.time[i] == 4
    self.again = ends | late
    if self.mode is Mode.SAME_STEP and self.again.any():
      final = np.full(n, None, dtype=object)
      for i in np.flatnonzero(self.again):
        final[i] = np.array([self.tag[i], self.time[i]])
        self._restart(i)
      info = {'final_obs': final, '_final_obs': self.again.copy()}
    # One buffer for all observations, as with copy=False.
    self.buffer[:] = np.stack([self.tag, self.time], 1)
    return self.buffer, reward, ends, late, info

  def close(self):
    self.closed = True


def _drive(mode, steps=9):
  vector = gymnasium_env.GymnasiumVector(FakeVector(mode))
  assert isinstance(vector, protocol.VectorEnvironment)
  assert not vector.pure
  actions = np.zeros((steps, 3), np.int32)
  return env_cases.drive(vector, jax.random.split(KEY, 3), actions)


def test_next_step_resets_are_not_valid():
  first, moves, stats = _drive(Mode.NEXT_STEP)
  assert first.dtype == np.float32
  assert moves.observation.dtype == np.float32
  # Lane 0: two steps and a reset step, over and over.
  np.testing.assert_array_equal(moves.valid[:, 0], [1, 1, 0] * 3)
  np.testing.assert_array_equal(moves.reward[:, 0], [1, 2, 0] * 3)
  np.testing.assert_array_equal(moves.terminated[:, 0], [0, 1, 0] * 3)
  assert not moves.truncated[:, 0].any()
  # Lane 2: ends on its fourth step for both reasons: that is an end.
  np.testing.assert_array_equal(np.flatnonzero(moves.terminated[:, 2]), [3, 8])
  assert not moves.truncated[:, 2].any()
  np.testing.assert_array_equal(moves.final_observation, moves.observation)
  assert moves.observation[1, 0, 1] == 2.0
  assert moves.observation[2, 0, 1] == 0.0
  assert moves.observation[2, 0, 0] != moves.observation[1, 0, 0]
  np.testing.assert_array_equal(stats.episodes, [3, 2, 2])
  np.testing.assert_array_equal(stats.last_return, [3, 6, 10])
  np.testing.assert_array_equal(stats.last_length, [2, 3, 4])
  total = np.where(moves.valid, moves.reward, 0).sum(0)
  kept = stats.episodes * stats.last_return + stats.running_return
  np.testing.assert_array_equal(total, kept)


def test_same_step_keeps_the_final_observation():
  _, moves, stats = _drive(Mode.SAME_STEP)
  assert moves.valid.all()
  ended = moves.terminated | moves.truncated
  np.testing.assert_array_equal(
    moves.final_observation[ended][:, 1],
    [{0: 2, 1: 3, 2: 4}[i] for i in np.nonzero(ended)[1]],
  )
  assert (moves.observation[ended][:, 1] == 0).all()
  gap = moves.observation[ended][:, 0] - moves.final_observation[ended][:, 0]
  assert (gap > 0).all()
  np.testing.assert_array_equal(
    moves.final_observation[~ended], moves.observation[~ended]
  )
  # The reward after an end belongs to the new episode and is not lost.
  np.testing.assert_array_equal(moves.reward[:, 0], [1, 2] * 4 + [1])
  np.testing.assert_array_equal(stats.episodes, [4, 3, 2])
  np.testing.assert_array_equal(stats.running_return, [1, 0, 1])


def test_wrong_uses_of_simulators():
  fake = FakeVector(Mode.NEXT_STEP)
  vector = gymnasium_env.GymnasiumVector(fake)
  old, _ = vector.reset(jax.random.split(KEY, 3))
  vector.step(old, np.zeros(3, np.int32))
  with pytest.raises(ValueError, match='state must be what the last'):
    vector.step(old, np.zeros(3, np.int32))
  state, _ = vector.reset(jax.random.split(KEY, 3))
  calls = len(fake.actions)
  for action, match in (
    (np.zeros(2, np.int32), 'shape'),
    (np.zeros(3, np.float32), 'dtype'),
    (np.array([0, 1, 2]), 'within'),
  ):
    with pytest.raises(ValueError, match=match):
      vector.step(state, action)
  assert len(fake.actions) == calls, 'the simulator must not see it'
  with pytest.raises(ValueError, match='autoreset_mode'):
    gymnasium_env.GymnasiumVector(FakeVector(Mode.DISABLED))
  with pytest.raises(ValueError, match='autoreset_mode'):
    gymnasium_env.GymnasiumVector(FakeVector(None))
  vector.close()
  assert fake.closed
  with pytest.raises(
    ValueError, match=r'step must come before close.*new ones'
  ):
    vector.step(state, np.zeros(3, np.int32))
  with pytest.raises(ValueError, match='reset must come before close'):
    vector.reset(jax.random.split(KEY, 3))


def test_continuous_actions_are_clipped_and_cast():
  space = FakeBox(np.array([-1.0, 0.0]), np.array([1.0, 2.0]), (2,))
  fake = FakeVector(Mode.NEXT_STEP, space=space)
  vector = gymnasium_env.GymnasiumVector(fake)
  assert vector.action_space == spaces.Box((2,), (-1.0, 0.0), (1.0, 2.0))
  state, _ = vector.reset(jax.random.split(KEY, 3))
  action = np.tile(np.array([-3.0, 3.0], np.float32), (3, 1))
  state, _ = vector.step(state, action)
  np.testing.assert_array_equal(fake.actions[-1][0], [-1.0, 2.0])
  assert fake.actions[-1].dtype == np.float64
  action[1, 1] = np.nan
  with pytest.raises(ValueError, match=r'finite.*\(1, 1\)'):
    vector.step(state, action)


def test_foreign_spaces():
  convert = foreign_spaces.convert
  assert convert(FakeDiscrete(4)) == spaces.Discrete(4)
  picture = FakeBox(0, 255, (2, 2, 3), np.uint8)
  assert convert(picture) == spaces.Box((2, 2, 3), 0, 255, 'uint8')
  with pytest.raises(ValueError, match='start at 0'):
    convert(FakeDiscrete(4, start=1))
  with pytest.raises(ValueError, match='only Box and Discrete'):
    convert(types.SimpleNamespace(shape=(2,), dtype=np.int8))


class FakeGymnax:
  """A counter with gymnax's functions; terminates after three steps."""

  def observation_space(self, params):
    # A bound made by JAX, as gymnax has them: a tracer if made under jit.
    return FakeBox(jnp.zeros(1), jnp.full(1, 9.0) + 0, (1,), np.float32)

  def action_space(self, params):
    return FakeDiscrete(2)

  def is_truncated(self, state, params):
    return state >= params.max_steps_in_episode

  def reset_env(self, key, params):
    return jnp.zeros(1), jnp.int32(0)

  def step_env(self, key, state, action, params):
    state = state + 1
    seen = state[None].astype(jnp.float32)
    return seen, state, state * 2, state == 3, {'discount': 1.0 - action}


def test_gymnax():
  params = types.SimpleNamespace(max_steps_in_episode=5)
  env = gymnax_env.GymnaxEnvironment(FakeGymnax(), params)
  assert isinstance(env, protocol.Environment)
  vector = lanes.Lanes(env, 2)
  actions = np.tile(np.int32([0, 1]), (4, 1))
  _, moves, _ = env_cases.drive(vector, jax.random.split(KEY, 2), actions)
  np.testing.assert_array_equal(moves.reward[:, 0], [2, 4, 6, 2])
  np.testing.assert_array_equal(moves.terminated[:, 0], [0, 0, 1, 0])
  np.testing.assert_array_equal(moves.observation[:, 0, 0], [1, 2, 0, 1])
  np.testing.assert_array_equal(moves.final_observation[:, 0, 0], [1, 2, 3, 1])
  np.testing.assert_array_equal(moves.info['discount'][0], [1, 0])
  old = types.SimpleNamespace()
  with pytest.raises(ValueError, match='gymnax'):
    gymnax_env.GymnaxEnvironment(old, params)


class BraxState(NamedTuple):
  obs: Any
  reward: Any
  done: Any


class FakeBrax:
  observation_size = 2
  action_size = 3

  @property
  def unwrapped(self):
    return self

  def reset(self, rng):
    return BraxState(jax.random.uniform(rng, (2,)), *jnp.zeros(2))

  def step(self, state, action):
    obs = state.obs + action[:2]
    return BraxState(obs, action.sum(), (obs[0] > 2).astype(jnp.float32))


def test_brax():
  env = brax_env.BraxEnvironment(FakeBrax(), max_steps=3)
  assert isinstance(env, protocol.Environment)
  vector = lanes.Lanes(env, 2)
  action = np.float32([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
  first, moves, _ = env_cases.drive(
    vector, jax.random.split(KEY, 2), np.tile(action, (3, 1, 1))
  )
  np.testing.assert_allclose(moves.reward[:, 0], 1.5)
  np.testing.assert_array_equal(moves.terminated[:, 0], [0, 1, 0])
  np.testing.assert_array_equal(moves.truncated[:, 1], [0, 0, 1])
  np.testing.assert_allclose(
    moves.final_observation[1, 0], first[0] + jnp.array([2.0, 0.0]), rtol=1e-6
  )
  wrapped = types.SimpleNamespace(unwrapped=FakeBrax(), observation_size=2)
  with pytest.raises(ValueError, match='without wrappers'):
    brax_env.BraxEnvironment(wrapped)


@pytest.mark.parametrize(
  ('make', 'module', 'extra'),
  [
    (lambda: gymnax_env.make('CartPole-v1'), 'gymnax', 'rl'),
    (lambda: brax_env.make('ant'), 'brax', 'brax'),
    (lambda: gymnasium_env.make('CartPole-v1', 2), 'gymnasium', 'rl'),
  ],
)
def test_missing_library_names_the_extra(monkeypatch, make, module, extra):
  for name in [m for m in sys.modules if m.split('.')[0] == module]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setattr(sys, 'path', [])
  monkeypatch.setattr(sys, 'path_importer_cache', {})
  monkeypatch.setattr(
    sys, 'meta_path', [f for f in sys.meta_path if _is_builtin(f)]
  )
  with pytest.raises(ImportError, match=rf"pip install 'attune\[{extra}\]'"):
    make()


def _is_builtin(finder):
  return getattr(finder, '__name__', '') == 'BuiltinImporter'


def test_real_gymnax_cart_pole_is_ours():
  pytest.importorskip('gymnax')
  from rl.envs import cartpole

  theirs, ours = gymnax_env.make('CartPole-v1'), cartpole.CartPoleBalance()
  assert theirs.max_steps == ours.max_steps
  state, seen = theirs.reset(KEY)
  mine = cartpole.CartPoleState(*seen)
  actions = jax.random.bernoulli(KEY, 0.5, (8,)).astype(jnp.int32)
  for action in actions:
    state, step = theirs.step(state, action, KEY)
    mine, ours_step = ours.step(mine, action, KEY)
    np.testing.assert_allclose(
      step.observation, ours_step.observation, rtol=1e-5, atol=1e-6
    )
    assert bool(step.terminated) == bool(ours_step.terminated)
