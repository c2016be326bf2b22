"""Agents as inner loops: traced settings, scores, failures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.autorl import agents
from rl import rollout
from rl.envs import cartpole, lanes
from tests import trees
from tests.hpo.autorl import populations_cases

KEY = jax.random.key(0)


def zeta(**settings):
  return {name: jnp.float32(value) for name, value in settings.items()}


SETTINGS = zeta(
  learning_rate=3e-3, entropy_cost=0.02, clip_ratio=0.1, horizon=20.0
)


def make():
  algorithm = populations_cases.small_ppo(
    unroll_length=16, num_epochs=1, discount=0.99
  )
  env = lanes.Lanes(cartpole.CartPoleBalance(), 4)
  return agents.Agent(algorithm, env, env, iterations=1)


@functools.cache
def update():
  """An agent, its first state, and its update as one program for all tests."""
  agent = make()
  return agent, jax.jit(agent.init)(KEY), jax.jit(agent.update)


def test_traced_settings_are_those_of_the_algorithm():
  agent, state, learn = update()
  found = learn(state, SETTINGS, KEY)
  options = {name: float(x) for name, x in SETTINGS.items()}
  options['discount'] = 1 - 1 / options.pop(agents.HORIZON)
  fixed = dataclasses.replace(agent.algorithm, **options)
  env = agent.env
  learner = fixed.learner(env.observation_space, env.action_space, 4)

  @jax.jit
  def expected(state):
    first, second = jax.random.split(jax.random.split(KEY, 1)[0])
    acting = learner.acting(state.learner)
    _, seen = rollout.collect(env, learner, acting, state.stage, first)
    return learner.learn(state.learner, seen, second)[0].params

  trees.check_close(
    found.state.learner.params, expected(state), rtol=2e-4, atol=2e-6
  )


def test_the_score_is_the_mean_return_of_the_last_episodes():
  _, state, learn = update()
  settings = SETTINGS | zeta(learning_rate=0.0)
  for number in range(4):
    before = state
    found = learn(state, settings, jax.random.fold_in(KEY, number))
    state = found.state
    old, new = (s.stage.env.stats for s in (before, state))
    ended = np.asarray(new.episodes - old.episodes)
    if (ended <= 1).all() and ended.any():
      expected = np.asarray(new.last_return)[ended == 1].mean()
      np.testing.assert_allclose(found.score, expected, rtol=1e-6)
    if not ended.any() and not np.asarray(new.episodes).any():
      np.testing.assert_allclose(found.score, new.running_return.mean())


def test_a_failed_learner_has_no_score():
  _, state, learn = update()
  settings = SETTINGS | zeta(entropy_cost=jnp.nan)
  failed = learn(state, settings, KEY)
  failed = learn(failed.state, settings, KEY)
  assert np.isnan(failed.score)


def test_unknown_settings_are_refused():
  agent = make()
  with pytest.raises(ValueError, match='learning_rates'):
    agent.with_settings(zeta(learning_rates=0.1))
  with pytest.raises(ValueError, match='discount'):
    agent.with_settings(zeta(discount=0.9, horizon=10.0))
