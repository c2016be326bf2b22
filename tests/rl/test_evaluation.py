"""The same number of episodes from every lane."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import evaluation
from rl.envs import lanes, protocol, spaces
from tests.rl import agent_cases

KEY = jax.random.key(8)


@dataclasses.dataclass(frozen=True)
class Geometric:
  """Ends with probability 1/4 at each step; the reward is 1."""

  max_steps: int = 1000

  observation_space = spaces.Box((2,), 0.0, 1e9)
  action_space = spaces.Box((), -1.0, 1.0)

  def reset(self, key):
    return jnp.zeros(2), jnp.zeros(2)

  def step(self, state, action, key):
    ends = jax.random.uniform(key) < 0.25
    return state, protocol.Step(state, jnp.float32(1), ends, {})


def _run(host, episodes, lanes_count):
  vector = lanes.Lanes(Geometric(), lanes_count)
  learner = agent_cases.CountingLearner()
  if host:
    vector = agent_cases.Host(vector)
    return evaluation.evaluate_on_host(
      vector, learner, np.float32(0), KEY, episodes=episodes
    )
  run = jax.jit(
    lambda acting, key: evaluation.evaluate(
      vector, learner, acting, key, episodes=episodes
    )
  )
  return jax.device_get(run(jnp.float32(0), KEY))


def test_long_episodes_count_as_much_as_short_ones():
  found = _run(False, 64, 64)
  assert found.returns.shape == (64, 64)
  np.testing.assert_array_equal(found.returns, found.lengths)
  # Lengths are geometric, with mean 4 and variance 12.
  error = (12 / found.returns.size) ** 0.5
  assert abs(found.returns.mean() - 4) < 4 * error
  # The published way, the first that end among all lanes, fails this test.
  ends = np.cumsum(found.lengths, axis=1).ravel()
  first = np.argsort(ends, kind='stable')[:64]
  biased = found.lengths.ravel()[first].mean()
  assert abs(biased - 4) > 4 * (12 / 64) ** 0.5


def test_hosts_count_as_jax_does():
  pure, host = _run(False, 3, 5), _run(True, 3, 5)
  np.testing.assert_array_equal(pure.returns, host.returns)
  np.testing.assert_array_equal(pure.lengths, host.lengths)
  assert host.lengths.min() > 0


def test_no_episodes_are_refused():
  with pytest.raises(ValueError, match=r'episodes=0'):
    _run(False, 0, 2)


def test_lanes_that_wait_have_one_episode_only():
  """Asked for more, the loop would never end."""
  vector = lanes.Lanes(Geometric(), 2, auto_reset=False)
  player = evaluation.RandomPlayer(vector.action_space)
  key = jax.random.key(0)
  found = evaluation.evaluate(vector, player, (), key, episodes=1)
  assert found.lengths.shape == (2, 1)
  with pytest.raises(ValueError, match='must reset itself'):
    evaluation.evaluate(vector, player, (), key, episodes=2)
