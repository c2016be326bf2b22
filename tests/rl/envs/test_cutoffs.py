"""Cut episodes: when, what counts, when the next one begins."""

import jax
import numpy as np
import pytest

from rl.envs import cutoffs, host_vector, lanes, protocol, spaces
from rl.es import policies, population, vector_evaluator
from tests import refusals
from tests.rl.envs import env_cases

KEYS = jax.random.split(jax.random.key(1), 2)


class Scripted(host_vector.HostVector):
  """Lane i earns the i-th script again and again; the episode is its length.

  It observes the number of the episode and of the step.
  """

  def __init__(self, *scripts, terminates=False):
    super().__init__(
      num_lanes=len(scripts),
      observation_space=spaces.Box((2,), 0.0, 100.0),
      action_space=spaces.Box((1,), -1.0, 1.0),
      resets_at_once=False,
    )
    self.scripts, self.terminates = scripts, terminates
    self.resets = self.steps = 0

  def _reset(self, seeds):
    self.resets += 1
    self.place = np.zeros((self.num_lanes, 2), int)
    return self.place

  def _step(self, action):
    self.steps += 1
    rewards, ended = [], []
    for lane, script in enumerate(self.scripts):
      episode, time = self.place[lane]
      over = time == len(script)
      self.place[lane] = (episode + 1, 0) if over else (episode, time + 1)
      rewards.append(0.0 if over else script[time])
      ended.append(self.place[lane, 1] == len(script))
    ended = np.array(ended)
    no = np.zeros_like(ended)
    end = (ended, no) if self.terminates else (no, ended)
    return host_vector.Seen(self.place, np.array(rewards), *end, {})

  def _close(self):
    self.closed = True


def drive(env, steps):
  """Statistics and moves."""
  actions = np.zeros((steps, env.num_lanes, 1), np.float32)
  _, moves, stats = env_cases.drive(env, KEYS[: env.num_lanes], actions)
  return stats, moves


def test_cut_where_one_too_many_comes():
  """Beside a lane that is never cut; two negative rewards are endured."""
  bad = [1, -1, -1, 0, -1, -1, -1, 9, 9]
  good = [-1, -1, 0, -1, -1]
  env = cutoffs.CutOff(Scripted(bad, good), most=2)
  assert isinstance(env, protocol.VectorEnvironment)
  stats, moves = drive(env, 18)
  # Step 7 is the third in a row; 8 and 9 and the reset pass unseen.
  once = np.array([1] * 7 + [0] * 3)
  valid = np.concatenate([once, once[:8]])
  np.testing.assert_array_equal(moves.valid[:, 0], valid)
  np.testing.assert_array_equal(
    moves.reward[:, 0], [*bad[:7], 0, 0, 0, *bad[:7], 0]
  )
  np.testing.assert_array_equal(np.flatnonzero(moves.truncated[:, 0]), [6, 16])
  assert not moves.terminated.any()
  # The step before the first of an episode shows its beginning.
  np.testing.assert_array_equal(moves.observation[9, 0], [1, 0])
  np.testing.assert_array_equal(moves.observation[10, 0], [1, 1])
  np.testing.assert_array_equal(stats.last_return, [-4, -4])
  np.testing.assert_array_equal(stats.last_length, [7, 5])
  np.testing.assert_array_equal(stats.episodes, [2, 3])
  _, plain = drive(Scripted(bad, good), 18)
  for ours, theirs in zip(moves[:-1], plain[:-1], strict=True):
    np.testing.assert_array_equal(ours[:, 1], theirs[:, 1])
  env.close()
  assert env.env.closed


@pytest.mark.parametrize('terminates', [False, True])
def test_own_ends_come_first(terminates):
  """The third negative reward is the task's last: it says how it ended."""
  env = cutoffs.CutOff(Scripted([-1, -1, -1], terminates=terminates), most=2)
  stats, moves = drive(env, 8)
  ends = moves.terminated if terminates else moves.truncated
  np.testing.assert_array_equal(ends[:, 0], [0, 0, 1, 0] * 2)
  np.testing.assert_array_equal(moves.valid[:, 0], [1, 1, 1, 0] * 2)
  assert not (moves.terminated & moves.truncated).any()
  assert (moves.terminated | moves.truncated).sum() == 2
  np.testing.assert_array_equal(stats.episodes, [2])


def test_a_run_of_negatives_does_not_cross_episodes():
  env = cutoffs.CutOff(Scripted([0, -1, -1]), most=3)
  _, moves = drive(env, 12)
  np.testing.assert_array_equal(moves.valid[:, 0], [1, 1, 1, 0] * 3)
  cut = cutoffs.CutOff(Scripted([0, *[-1] * 9]), most=3)
  np.testing.assert_array_equal(
    drive(cut, 22)[1].valid[:, 0], ([1] * 5 + [0] * 6) * 2
  )


def test_a_reset_forgets():
  env = cutoffs.CutOff(Scripted([-1] * 9), most=2)
  for _ in range(2):
    stats, moves = drive(env, 5)
    np.testing.assert_array_equal(moves.valid[:, 0], [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(stats.episodes, [1])


def test_rollouts_end_with_the_last_cut():
  inner = Scripted([-1.0] * 50, [1.0, *[-1.0] * 49])
  env = cutoffs.CutOff(inner, most=4)
  policy = policies.MLP(env.observation_space, env.action_space, hidden=())
  run = vector_evaluator.VectorEvaluator(env, policy)
  thetas = np.zeros((4, policy.size), np.float32)
  keys = jax.random.split(jax.random.key(0), 4)
  listed = population.Listed(jax.numpy.asarray(thetas))
  found = run.evaluate(listed, keys, None)
  np.testing.assert_array_equal(found.returns, [-5, -4] * 2)
  np.testing.assert_array_equal(found.lengths, [5, 6] * 2)
  # Two rounds of six steps, none of fifty.
  assert inner.resets == 2
  assert inner.steps == 12


test_rejects = refusals.all_with(
  'got',
  lambda: cutoffs.CutOff(Scripted([0.0]), most=0),
  lambda: cutoffs.CutOff(lanes.Lanes(env_cases.Scripted(), 2)),
)
