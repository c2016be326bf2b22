"""Learnt drifts: their invariants, and PPO as a special case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.autorl import drifts
from rl import rollout
from rl.envs import cartpole, lanes
from rl.ppo import losses
from tests import seeds, trees
from tests.hpo.autorl import populations_cases


def test_the_drift_is_zero_and_flat_at_the_acting_policy():
  network = drifts.Drift(8)
  advantage = jnp.linspace(-3.0, 3.0, 7)
  rng, init = seeds.rng(9), jax.jit(network.init)

  @jax.jit
  def run(params, x):
    f = lambda x: network.apply(params, x, advantage)
    return jax.jvp(f, (x,), (jnp.ones(7),))

  for i in range(3):
    params = init(seeds.key(i), advantage, advantage)
    params = jax.tree.map(
      lambda x: np.float32(x + rng.normal(size=x.shape)), params
    )
    value, slope = run(params, jnp.zeros(7))
    np.testing.assert_array_equal(value, np.zeros(7))
    np.testing.assert_array_equal(slope, np.zeros(7))
    for log_ratio in (-20.0, -0.5, 0.1, 3.0):
      value, _ = run(params, jnp.full(7, log_ratio))
      assert np.isfinite(value).all()
      assert (np.asarray(value) > 0).all()


def test_the_clipped_objective_is_one_of_them():
  rng = seeds.rng(1)
  log_ratio, advantage = (jnp.float32(rng.normal(size=50)) for _ in '12')
  got = drifts.clipping(log_ratio, advantage, 0.2)
  want = jnp.exp(log_ratio) * advantage + losses.policy_loss(
    log_ratio, advantage, 0.2
  )
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  assert (np.asarray(got) >= 0).all()


AGENT = populations_cases.small_ppo(num_epochs=3, learning_rate=0.02)
ENV = lanes.Lanes(cartpole.CartPoleBalance(), 4)


@pytest.mark.slow
def test_with_ppo_s_drift_it_is_ppo():
  theirs = drifts.Trained(AGENT, ENV, drifts.Clipped(0.2)).learner
  plain = AGENT.learner(ENV.observation_space, ENV.action_space, 4)

  @jax.jit
  def both(key):
    state = plain.init(key)
    stage = rollout.start(ENV, plain, key)
    _, seen = rollout.collect(ENV, plain, plain.acting(state), stage, key)
    one, _ = plain.learn(state, seen, key)
    two, _ = theirs.learn(theirs.born(key, {}), seen, key)
    return one.params, two.params

  one, two = both(seeds.key(2))
  trees.check_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_fitness_depends_on_the_drift():
  trained = drifts.Trained(AGENT, ENV, iterations=6, agents=2)
  assert trained.steps == 2 * 6 * 8 * 4
  fitness = jax.jit(trained.fitness)
  params = trained.init(seeds.key(3))
  other = jax.tree.map(lambda x: x + 3, params)
  one, two = (fitness(p, seeds.key(4)) for p in (params, other))
  assert np.isfinite([one, two]).all()
  assert one != two
  assert one == fitness(params, seeds.key(4))
