"""Smaller and stacked pictures: against NumPy, in JAX and on the host."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import frames, host_vector, lanes, protocol, spaces
from tests import refusals
from tests.rl.envs import env_cases

KEY = jax.random.key(51)
SHAPE = (4, 6, 2)


class Numbers(host_vector.HostVector):
  """Random pictures; lane i ends after 2 + i steps, the second by its time."""

  def __init__(self, at_once):
    super().__init__(
      num_lanes=2,
      observation_space=spaces.Box(SHAPE, 0, 255, 'uint8'),
      action_space=spaces.Discrete(2),
      resets_at_once=at_once,
    )
    self.closed = False

  def _picture(self):
    return self.rng.integers(0, 256, (2, *SHAPE)).astype(np.uint8)

  def _reset(self, seeds):
    self.rng = np.random.default_rng(seeds)
    self.time = np.zeros(2, int)
    self.shown = [[], []]
    return self._show(self._picture(), np.ones(2, bool))

  def _show(self, pictures, new):
    """Keeps all pictures of the running episodes."""
    for lane in range(2):
      before = [] if new[lane] else self.shown[lane]
      self.shown[lane] = [*before, pictures[lane]]
    return pictures

  def _step(self, action):
    waits = np.zeros(2, bool) if self.resets_at_once else self._over()
    self.time = np.where(waits, 0, self.time + 1)
    ended = self._over()
    picture = self._show(self._picture(), waits)
    self.before = [list(x) for x in self.shown]
    final = None
    if self.resets_at_once:
      final, picture = (
        picture.copy(),
        np.where(ended[:, None, None, None], self._picture(), picture),
      )
      self.time = np.where(ended, 0, self.time)
      self.shown = [
        [picture[i]] if ended[i] else self.shown[i] for i in range(2)
      ]
    late = ended & np.array([False, True])
    reward = np.arange(2.0)
    return host_vector.Seen(picture, reward, ended & ~late, late, {}, final)

  def _over(self):
    return self.time == 2 + np.arange(2)

  def _close(self):
    self.closed = True


def expected(shown, count):
  first = [shown[0]] * max(0, count - len(shown))
  return np.concatenate([*first, *shown[-count:]], axis=-1)


@pytest.mark.parametrize('at_once', [True, False])
def test_stacks_hold_one_episode(at_once):
  inner = Numbers(at_once)
  env = frames.Stacked(inner, 3)
  assert isinstance(env, protocol.VectorEnvironment)
  assert env.observation_space == spaces.Box((4, 6, 6), 0, 255, 'uint8')
  state, seen = env.reset(jax.random.split(KEY, 2))
  np.testing.assert_array_equal(seen[0], expected(inner.shown[0], 3))
  ends = resets = 0
  for _ in range(12):
    state, move = env.step(state, np.zeros(2, np.int32))
    for lane in range(2):
      np.testing.assert_array_equal(
        move.observation[lane], expected(inner.shown[lane], 3)
      )
      np.testing.assert_array_equal(
        move.final_observation[lane], expected(inner.before[lane], 3)
      )
    ends += (move.terminated | move.truncated).sum()
    resets += (~move.valid).sum()
  assert ends >= 5
  assert (resets > 0) == (not at_once)
  assert state.stats.episodes.sum() == ends
  env.close()
  assert inner.closed


def test_a_stack_across_episodes_would_be_seen():
  """The wrong recipe, always shifting, fails the check above."""
  inner = Numbers(False)
  env = frames.Stacked(inner, 3)
  state, stack = env.reset(jax.random.split(KEY, 2))
  wrong = 0
  for _ in range(6):
    state, move = env.step(state, np.zeros(2, np.int32))
    new = move.observation[..., -2:]
    stack = np.concatenate([stack[..., 2:], new], axis=-1)
    wrong += not np.array_equal(stack, move.observation)
  assert wrong


def test_area_means():
  inner = Numbers(True)
  env = frames.Downscaled(inner, 2)
  assert env.observation_space == spaces.Box((2, 3, 2), 0, 255, 'uint8')
  state, _ = env.reset(jax.random.split(KEY, 2))
  for _ in range(7):
    state, move = env.step(state, np.zeros(2, np.int32))
    for mine, shown in (
      (move.observation, inner.shown),
      (move.final_observation, inner.before),
    ):
      assert mine.dtype == np.uint8
      for lane in range(2):
        x = shown[lane][-1].astype(np.float64)
        mean = np.zeros((2, 3, 2))
        for i in range(2):
          for j in range(3):
            mean[i, j] = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1))
        np.testing.assert_array_equal(mine[lane], np.floor(mean + 0.5))


@dataclasses.dataclass(frozen=True)
class Shown(env_cases.Scripted):
  """The scripted environment as pictures of its tag and time."""

  observation_space = spaces.Box((2, 2, 3), 0, 255, 'uint8')

  def _paint(self, state):
    tag, time = (state % 200).astype(jnp.uint8)
    return jnp.full((2, 2, 3), tag).at[0, 0, 0].set(time)

  def reset(self, key):
    state, _ = super().reset(key)
    return state, self._paint(state)

  def step(self, state, action, key):
    state, step = super().step(state, action, key)
    return state, step._replace(observation=self._paint(state))


def test_in_jax_as_on_the_host():
  """Compiled and scanned, the wrappers give what NumPy makes of the lanes."""
  inner = lanes.Lanes(Shown(), 2)
  env = frames.Stacked(frames.Downscaled(inner, 2), 2)
  assert env.pure
  keys = jax.random.split(KEY, 2)
  actions = jnp.zeros((7, 2))

  @jax.jit
  def drive(keys):
    return jax.lax.scan(env.step, env.reset(keys)[0], actions)[1]

  moves = drive(keys)
  below, seen = jax.jit(inner.reset)(keys)
  step = jax.jit(inner.step)
  small = lambda x: np.floor(
    np.asarray(x, np.float64).reshape(2, 1, 2, 1, 2, 3).mean((2, 4)) + 0.5
  )
  stack = np.concatenate([small(seen)] * 2, -1)
  for t in range(7):
    below, move = step(below, actions[t])
    final = np.concatenate([stack[..., 3:], small(move.final_observation)], -1)
    new = np.concatenate([small(move.observation)] * 2, -1)
    ended = np.asarray(move.terminated | move.truncated)
    stack = np.where(ended[:, None, None, None], new, final)
    np.testing.assert_array_equal(moves.observation[t], stack)
    np.testing.assert_array_equal(moves.final_observation[t], final)


test_rejects = refusals.all_with(
  'got',
  lambda: frames.Downscaled(Numbers(True), 3),
  lambda: frames.Downscaled(Numbers(True), 0),
  lambda: frames.Stacked(Numbers(True), 0),
  lambda: frames.Stacked(lanes.Lanes(env_cases.Scripted(), 2), 2),
  lambda: frames.Stacked(lanes.Lanes(Shown(), 2, auto_reset=False), 2),
)
