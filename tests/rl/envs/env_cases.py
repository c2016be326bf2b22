"""A scripted environment, and statistics counted one by one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import protocol, spaces


@dataclasses.dataclass(frozen=True)
class Scripted:
  """Observes (episode tag, steps so far); ends after `length` steps.

  The tag is drawn at reset, so that observations of different episodes differ.
  Step t gives reward t + action; a length of 0 never ends.
  """

  length: int = 3
  max_steps: int = 5

  observation_space = spaces.Box((2,), 0.0, 1e9)
  action_space = spaces.Box((), -1.0, 1.0)

  def reset(self, key):
    tag = jax.random.randint(key, (), 1, 1 << 20).astype(jnp.float32)
    state = jnp.stack([tag, 0.0])
    return state, state

  def step(self, state, action, key):
    state = state + jnp.array([0.0, 1.0])
    noise = jax.random.uniform(key)
    ends = state[1] == self.length
    info = {'noise': noise}
    return state, protocol.Step(state, state[1] + action, ends, info)


def drive(env, keys, actions):
  """First observations, all moves [t, n] and the last statistics, in NumPy."""
  if env.pure:
    return jax.device_get(_program(env)(keys, actions))
  (state, first), rows = env.reset(keys), []
  for action in actions:
    state, move = env.step(state, action)
    rows.append(move)
  moves = jax.tree.map(lambda *x: np.stack(x), *rows)
  # Simulators may change the newest statistics in place.
  return np.array(first), moves, jax.tree.map(np.array, state.stats)


@functools.lru_cache(maxsize=4)
def _program(env):
  """A scan of pure lanes, compiled once."""

  def run(keys, actions):
    state, first = env.reset(keys)
    state, moves = jax.lax.scan(env.step, state, actions)
    return first, moves, state.stats

  return jax.jit(run)


def count(moves, stats):
  """Returns and lengths, counted one by one."""
  for lane in range(moves.reward.shape[1]):
    episodes, total, length = [], 0.0, 0
    for t in range(len(moves.reward)):
      if not moves.valid[t, lane]:
        continue
      total += float(moves.reward[t, lane])
      length += 1
      if moves.terminated[t, lane] or moves.truncated[t, lane]:
        episodes.append((total, length))
        total, length = 0.0, 0
    assert stats.episodes[lane] == len(episodes)
    episodes = episodes or [(0.0, 0)]
    close = functools.partial(pytest.approx, rel=1e-4, abs=1e-4)
    assert stats.last_return[lane] == close(episodes[-1][0])
    assert stats.last_length[lane] == episodes[-1][1]
    assert stats.running_return[lane] == close(total)
    assert stats.running_length[lane] == length
