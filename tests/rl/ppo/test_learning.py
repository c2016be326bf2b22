"""PPO learns: toy tasks in seconds, cart-pole on every seed."""

import numpy as np
import optax
import pytest

from rl import networks, ppo
from rl.envs import cartpole
from tests import marks
from tests.rl.ppo import ppo_cases

TOY = {
  'encoder': networks.MLP((16,)),
  'unroll_length': 12,
  'num_minibatches': 2,
  'num_epochs': 2,
  'learning_rate': 1e-2,
  'discount': 0.9,
}


def _scores(env, iterations=60, **changes):
  settings = ppo.PPO(**{**TOY, **changes})
  scores, metrics = ppo_cases.train(
    settings, env, lanes_count=16, iterations=iterations, seeds=3, episodes=20
  )
  for name, values in metrics.items():
    assert np.isfinite(values).all(), name
  return np.asarray(scores)


@pytest.mark.parametrize('continuous', [*marks.slow(False), True])
def test_what_is_shown_is_learnt(continuous):
  scores = _scores(ppo_cases.Recall(0, continuous), greedy=True)
  assert (scores > 0.95).all(), scores


@pytest.mark.slow
def test_only_a_memory_recalls():
  env = ppo_cases.Recall(2)
  forgetful = _scores(env)
  # A guess: 320 episodes have a standard error of 0.028.
  assert (forgetful < 0.65).all(), forgetful
  scores = _scores(env, core=networks.GRU(8))
  assert (scores > 0.9).all(), scores


@pytest.mark.slow
def test_cart_pole_on_ten_of_ten_seeds():
  iterations = 400
  settings = ppo.PPO(
    encoder=networks.MLP(),
    separate=True,
    value_init=networks.orthogonal(1.0),
    unroll_length=128,
    num_minibatches=4,
    num_epochs=4,
    learning_rate=optax.linear_schedule(2.5e-3, 0.0, 16 * iterations),
    value_cost=0.25,
    discount=0.99,
    normalize_rewards=False,
    greedy=True,
  )
  scores, _ = ppo_cases.train(
    settings,
    cartpole.CartPoleBalance(),
    lanes_count=4,
    iterations=iterations,
    seeds=10,
    episodes=25,
  )
  assert (np.asarray(scores) >= 475).all(), scores
