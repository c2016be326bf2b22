"""Trajectories against the same bookkeeping written lane by lane."""

import jax
import numpy as np
import pytest

from rl import rollout
from rl.envs import lanes
from tests.rl import agent_cases
from tests.rl.envs import env_cases

KEY = jax.random.key(5)
STEPS = 11


def _vector(length, limit, count=3):
  env = env_cases.Scripted(length=length, max_steps=limit)
  return lanes.Lanes(env, count)


def _twice(collect, stage, learner, acting=0.25):
  """Two trajectories, one after the other, as host arrays."""
  found = []
  for turn in range(2):
    stage, trajectory = collect(
      np.float32(acting), stage, jax.random.fold_in(KEY, turn)
    )
    found.append(jax.device_get(trajectory))
  return found


def _pure(vector, learner):
  collect = jax.jit(
    lambda acting, stage, key: rollout.collect(
      vector, learner, acting, stage, key
    )
  )
  return _twice(collect, rollout.start(vector, learner, KEY), learner)


def _on_host(vector, learner):
  actor = rollout.HostActor(vector, learner)
  return _twice(actor.collect, actor.start(KEY), learner)


def _expected(tag, length, limit, acting=0.25):
  """What a lane sees and does, until its episode ends."""
  rows = []
  for t in range(1, 100):
    value = np.float32(acting) + t + (tag + t - 1)
    action = np.tanh(np.float32(0.1) * np.float32(value))
    terminated = t == length
    truncated = t == limit and not terminated
    final = acting + t + 100 * (tag + t) if truncated else 0
    rows.append((tag, t - 1, t == 1, value, t + action, final))
    if terminated or truncated:
      return rows, terminated
  return rows, False


@pytest.mark.parametrize(
  ('run', 'length', 'limit'),
  [
    *((_pure, 3, 5), (_pure, 0, 4), (_on_host, 3, 5)),
    pytest.param(_on_host, 0, 4, marks=pytest.mark.slow),
  ],
)
def test_rows_follow_each_other(run, length, limit):
  learner = agent_cases.CountingLearner(STEPS)
  vector = _vector(length, limit)
  if run is _on_host:
    vector = agent_cases.Host(vector)
  two = run(vector, learner)
  fields = ('observation', 'first', 'reward', 'terminated', 'truncated')
  joined = {n: np.concatenate([getattr(t, n) for t in two]) for n in fields}
  value = np.concatenate([t.extras['value'] for t in two])
  final = np.concatenate([t.final for t in two])
  assert all(t.valid.all() for t in two)
  for lane in range(3):
    t = 0
    while t < 2 * STEPS:
      tag = joined['observation'][t, lane, 0]
      rows, terminated = _expected(tag, length, limit)
      for i, row in enumerate(rows[: 2 * STEPS - t]):
        at = (t + i, lane)
        got = (*joined['observation'][at], joined['first'][at], value[at])
        got = (*got, joined['reward'][at], final[at])
        np.testing.assert_allclose(got, row, rtol=1e-5)
        last = i == len(rows) - 1
        assert joined['terminated'][at] == (last and terminated)
        assert joined['truncated'][at] == (last and not terminated)
      t += len(rows)
  # What the second one continues is what the first one ended with.
  np.testing.assert_array_equal(two[0].last_observation, two[1].observation[0])
  np.testing.assert_array_equal(two[0].last_first, two[1].first[0])
  np.testing.assert_array_equal(two[0].last_memory, two[1].memory)


def test_steps_that_reset_belong_to_no_episode():
  learner = agent_cases.CountingLearner(3 * STEPS)
  vector = agent_cases.Host(_vector(0, 4), resets_at_once=False)
  actor = rollout.HostActor(vector, learner)
  _, found = actor.collect(np.float32(0.25), actor.start(KEY), KEY)
  # Four steps, one to reset, and again.
  time = np.arange(3 * STEPS) % 5
  for lane in range(3):
    np.testing.assert_array_equal(found.valid[:, lane], time != 4)
    np.testing.assert_array_equal(found.first[:, lane], time == 0)
    np.testing.assert_array_equal(found.truncated[:, lane], time == 3)
    np.testing.assert_array_equal(found.reward[time == 4, lane], 0)
  # The reset step still shows the episode's last observation, which the step
  # before was judged by, with the memory of that episode.
  np.testing.assert_array_equal(found.observation[time == 4][:, :, 1], 4)
  ended = found.observation[4]
  judged = 0.25 + 4 + 100 * ended.sum(-1)
  np.testing.assert_allclose(found.final[3], judged, rtol=1e-6)
  tags = found.observation[:, :, 0]
  assert (tags[5] != tags[4]).all()
  assert (tags[:5] == tags[0]).all()
