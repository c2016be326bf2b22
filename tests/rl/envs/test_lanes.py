"""Bookkeeping of resets, limits and statistics, on a scripted environment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import checks, lanes, pendulum, protocol
from tests.rl.envs import env_cases

KEY = jax.random.key(3)


def _roll(vector, actions, key=KEY):
  """Steps along actions [t, n]; returns first observation, states, moves."""

  @jax.jit
  def run(key, actions):
    def step(state, action):
      state, move = vector.step(state, action)
      return state, (state, move)

    state, first = vector.reset(jax.random.split(key, vector.num_lanes))
    return first, *jax.lax.scan(step, state, actions)[1]

  return jax.device_get(run(key, actions))


def _twin(env, limit, first, moves, actions):
  """The bookkeeping again, lane by lane, in plain Python."""
  rows = []
  for lane in range(actions.shape[1]):
    tag, count, total, last = first[lane][0], 0, 0.0, (0.0, 0, 0)
    for t in range(actions.shape[0]):
      count += 1
      total += count + actions[t, lane]
      final = (tag, count)
      terminated = count == env.length
      truncated = count == limit and not terminated
      if terminated or truncated:
        last = (total, count, last[2] + 1)
        total, count = 0.0, 0
        tag = moves.observation[t, lane, 0]
      reward = final[1] + actions[t, lane]
      after = (*final, tag, count, total, *last)
      rows.append((t, lane, reward, terminated, truncated, *after))
  return rows


@pytest.mark.parametrize(('length', 'limit'), [(3, 5), (0, 4), (4, 4)])
def test_auto_reset_keeps_every_number(length, limit):
  env = env_cases.Scripted(length=length, max_steps=limit)
  vector = lanes.Lanes(env, 3)
  actions = jax.random.uniform(KEY, (11, 3), minval=-1.0)
  first, states, moves = _roll(vector, actions)
  stats = states.stats
  rows = _twin(env, limit, first, moves, np.asarray(actions))
  for t, lane, reward, term, trunc, *rest in rows:
    at = (t, lane)
    np.testing.assert_allclose(moves.reward[at], reward, rtol=1e-6)
    assert moves.terminated[at] == term
    assert moves.truncated[at] == trunc
    got = [
      *moves.final_observation[at],
      *moves.observation[at],
      stats.running_return[at],
      stats.last_return[at],
      stats.last_length[at],
      stats.episodes[at],
    ]
    np.testing.assert_allclose(got, rest, rtol=1e-5, atol=1e-6)
  assert moves.valid.all()
  assert len(np.unique(moves.info['noise'])) == 33, 'steps share no noise'
  ended = moves.terminated | moves.truncated
  assert ended.any()
  new, old = moves.observation[ended], moves.final_observation[ended]
  assert (new[:, 0] != old[:, 0]).all()
  assert (new[:, 1] == 0).all()


def test_without_auto_reset_a_lane_waits():
  vector = lanes.Lanes(env_cases.Scripted(length=3), 2, auto_reset=False)
  _, states, moves = _roll(vector, jnp.zeros((6, 2)))
  want = np.array([1, 1, 1, 0, 0, 0], bool)
  for lane in range(2):
    np.testing.assert_array_equal(moves.valid[:, lane], want)
    np.testing.assert_array_equal(moves.reward[:, lane], [1, 2, 3, 0, 0, 0])
    np.testing.assert_array_equal(moves.terminated[:, lane], [0, 0, 1, 1, 1, 1])
  assert not moves.truncated.any()
  for t in (3, 4, 5):
    np.testing.assert_array_equal(moves.observation[t], moves.observation[2])
  np.testing.assert_array_equal(states.stats.last_return[-1], [6, 6])
  np.testing.assert_array_equal(states.stats.episodes[-1], [1, 1])


def test_waiting_after_the_time_limit_is_a_truncation():
  env = env_cases.Scripted(length=0, max_steps=9)
  vector = lanes.Lanes(env, 1, auto_reset=False, max_steps=2)
  _, _, moves = _roll(vector, jnp.zeros((4, 1)))
  np.testing.assert_array_equal(moves.truncated[:, 0], [0, 1, 1, 1])
  assert not moves.terminated.any()
  np.testing.assert_array_equal(moves.valid[:, 0], [1, 1, 0, 0])


def test_a_scan_compiles_once():
  vector = lanes.Lanes(env_cases.Scripted(), 2)
  traces = []

  @jax.jit
  def run(state):
    traces.append(1)
    return jax.lax.scan(
      lambda s, _: vector.step(s, jnp.zeros(2)), state, length=4
    )

  reset = jax.jit(vector.reset)
  for seed in range(3):
    state, _ = reset(jax.random.split(jax.random.key(seed), 2))
    state, _ = run(state)
    run(state)
  assert len(traces) == 1
  assert hash(vector) == hash(lanes.Lanes(env_cases.Scripted(), 2))


def test_protocols_and_refusals():
  env = env_cases.Scripted()
  assert isinstance(env, protocol.Environment)
  vector = lanes.Lanes(env, 2)
  assert isinstance(vector, protocol.VectorEnvironment)
  vector.close()
  with pytest.raises(ValueError, match='keys must be'):
    vector.reset(jax.random.split(KEY, 3))
  with pytest.raises(ValueError, match='keys must be'):
    checks.check_keys(jax.random.key_data(jax.random.split(KEY, 2)), 2)


def test_randomness_that_nobody_draws_costs_nothing():
  """The compiled step of a deterministic task has no random bits in it."""

  def program(env):
    vector = lanes.Lanes(env, 2, auto_reset=False)
    keys = jax.random.split(KEY, 2)
    state = jax.eval_shape(vector.reset, keys)[0]
    actions = jnp.zeros((2, *env.action_space.shape))
    return jax.jit(vector.step).lower(state, actions).compile().as_text()

  assert ' xor(' in program(env_cases.Scripted())
  assert ' xor(' not in program(pendulum.Pendulum())
