"""Tasks that are learnt in seconds, and a whole training of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from rl import evaluation
from rl.envs import protocol, spaces
from tests.rl import agent_cases


@dataclasses.dataclass(frozen=True)
class Recall:
  """The first observation is -1 or 1; `delay` steps later name it.

  With a delay of 0 every step shows what to name. Reward 1 for the right name,
  only at the end; observed are the cue, or 0, and the time.
  """

  delay: int = 2
  continuous: bool = False

  observation_space = spaces.Box((2,), -1.0, 10.0)

  @property
  def max_steps(self):
    return self.delay + 1

  @property
  def action_space(self):
    return spaces.Box((1,), 0.0, 4.0) if self.continuous else spaces.Discrete(2)

  def reset(self, key):
    cue = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
    return jnp.stack([cue, 0.0]), jnp.stack([cue, 0.0])

  def step(self, state, action, key):
    del key
    state = state + jnp.array([0.0, 1.0])
    ends = state[1] > self.delay
    if self.continuous:
      named = jnp.where(action[0] > 2, 1.0, -1.0)
    else:
      named = 2.0 * action - 1
    reward = jnp.where(ends & (named == state[0]), 1.0, 0.0)
    shown = state * jnp.array([0.0, 1.0])
    return state, protocol.Step(shown, reward, ends, {})


def train(algorithm, env, *, lanes_count, iterations, seeds, episodes):
  """Mean returns of evaluation, [seeds], and metrics, [seeds, iterations]."""
  vector, learner = agent_cases.made(algorithm, env, lanes_count)

  def one(key):
    begin, run, test = jax.random.split(key, 3)
    (state, _), metrics = jax.lax.scan(
      functools.partial(agent_cases.iterate, vector, learner),
      agent_cases.begin(vector, learner, begin),
      jax.random.split(run, iterations),
    )
    found = evaluation.evaluate(
      vector, learner, learner.acting(state), test, episodes=episodes
    )
    return found.returns.mean(), metrics

  return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), seeds))
