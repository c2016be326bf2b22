"""What PPO's learner computes: ratios, masks, updates, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import networks, ppo, rollout
from rl.envs import lanes, spaces
from rl.ppo import losses
from tests import refusals, trees
from tests.rl.ppo import ppo_cases

KEY = jax.random.key(4)
COMMON = {
  'encoder': networks.MLP((8,)),
  'unroll_length': 8,
  'num_minibatches': 2,
  'num_epochs': 1,
  'normalize_rewards': False,
}


def _learner(env, **changes):
  settings = ppo.PPO(**{**COMMON, **changes})
  return settings.learner(env.observation_space, env.action_space, 4)


def _setting(env, **changes):
  """A learner, its first state and a trajectory of it."""
  learner = _learner(env, **changes)
  vector = lanes.Lanes(env, 4, max_steps=3)

  @jax.jit
  def begin(key):
    state = learner.init(key)
    stage = rollout.start(vector, learner, key)
    acting = learner.acting(state)
    return state, rollout.collect(vector, learner, acting, stage, key)[1]

  return learner, *begin(KEY)


@pytest.mark.parametrize(
  ('continuous', 'changes'),
  [
    (False, {}),
    *(
      pytest.param(True, changes, marks=pytest.mark.slow)
      for changes in (
        {'normalize_observations': True},
        {'separate': True, 'core': networks.GRU(4)},
      )
    ),
  ],
)
def test_ratios_are_one_before_anything_is_learnt(continuous, changes):
  env = ppo_cases.Recall(4, continuous)
  big = jax.nn.initializers.normal(1.0)
  learner, state, trajectory = _setting(
    env, learning_rate=0.0, policy_init=big, **changes
  )
  learn = jax.jit(learner.learn)
  _, metrics = learn(state, trajectory, KEY)
  assert abs(metrics['kl']) < 1e-6
  assert metrics['clip_fraction'] == 0
  if 'core' in changes:
    # Without the starts of episodes the memory is another one.
    wrong = trajectory._replace(first=jnp.zeros_like(trajectory.first))
    assert learn(state, wrong, KEY)[1]['kl'] > 1e-5


def test_actions_span_the_box_and_are_judged_before_the_bounds():
  env = ppo_cases.Recall(4, continuous=True)
  learner, state, found = _setting(env, log_std=1.0)
  drawn = np.float64(found.extras['drawn'])
  assert (np.abs(drawn) > 1).any()
  np.testing.assert_allclose(
    found.action, 2 + 2 * np.clip(drawn, -1, 1), rtol=1e-5
  )
  acting = learner.acting(state)
  apply = jax.jit(learner.network.apply)
  out = apply(acting.params, (), found.observation, found.first)
  z = (drawn - np.float64(out.policy.mean)) / np.e
  want = (-0.5 * z**2 - 1 - 0.5 * np.log(2 * np.pi)).sum(-1)
  np.testing.assert_allclose(found.extras['log_prob'], want, rtol=1e-4)


def test_greedy_is_an_option():
  env = ppo_cases.Recall(4, continuous=True)
  first = (jnp.ones((4, 2)), jnp.ones(4, bool))
  for greedy in (False, True):
    learner = _learner(env, greedy=greedy)

    def choose(key, learner=learner):
      acting = learner.acting(learner.init(KEY))
      return learner.greedy(acting, (), *first, key).action

    actions = jax.jit(jax.vmap(choose))(jax.random.split(KEY, 2))
    assert (np.asarray(actions[0] == actions[1]).all()) == greedy


def test_one_update_is_the_gradient_of_the_written_out_loss():
  changes = {'num_minibatches': 1, 'max_grad_norm': 0.05}
  learner, state, found = _setting(ppo_cases.Recall(4), **changes)
  assert found.truncated.any()
  got, metrics = jax.jit(learner.learn)(state, found, KEY)
  chosen = learner.settings
  apply = lambda params, *x: learner.network.apply(params, (), *x)

  @jax.jit
  def gradient(start):
    last = apply(start, found.last_observation[None], found.last_first[None])
    judged = losses.advantages(
      found.reward,
      found.extras['value'],
      last.value[0],
      found.final,
      terminated=found.terminated,
      truncated=found.truncated,
      valid=found.valid,
      discount=chosen.discount,
      trace=chosen.trace,
    )
    centred = judged.advantages - judged.advantages.mean()
    scaled = centred / (judged.advantages.std() + 1e-8)

    def loss(params):
      out = apply(params, found.observation, found.first)
      log_p = jax.nn.log_softmax(out.policy.logits)
      taken = jnp.take_along_axis(log_p, found.action[..., None], -1)[..., 0]
      surrogate = losses.policy_loss(
        taken - found.extras['log_prob'], scaled, 0.2
      ).mean()
      errors = losses.value_loss(
        out.value, found.extras['value'], judged.targets, 0.2
      ).mean()
      entropy = -(jnp.exp(log_p) * log_p).sum(-1).mean()
      return surrogate + 0.5 * errors - 0.01 * entropy

    return jax.grad(loss)(start)

  grads = jax.device_get(gradient(state.params))
  norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
  assert norm > 0.05
  np.testing.assert_allclose(metrics['grad_norm'], norm, rtol=1e-4)
  # Adam's first step, by its definition.
  want = jax.tree.map(
    lambda p, g: p - 5e-4 * (c := g * 0.05 / norm) / (np.abs(c) + 1e-5),
    jax.device_get(state.params),
    grads,
  )
  trees.check_close(got.params, want, rtol=1e-4, atol=2e-6)


BOX, TWO = spaces.Box((2,), -1.0, 1.0), spaces.Discrete(2)


def fitted(seen=BOX, action=TWO, **settings):
  return ppo.PPO(**{**COMMON, **settings}).learner(seen, action, 4)


test_refusals = refusals.settings(
  fitted,
  ({'num_minibatches': 3}, 'must divide the steps'),
  ({'core': networks.GRU(2), 'num_minibatches': 8}, 'must divide the lanes'),
  ({'num_minibatches': 32}, 'two steps or more'),
  ({'discount': 1.5}, 'discount must be in'),
  ({'clip_ratio': 0.0}, 'clip_ratio must be positive'),
  ({'reward_discount': 0.9}, 'reward_discount is read only'),
  ({'action': spaces.Box((2,), 0, 9, 'int32')}, 'box of floats'),
  (
    {'seen': spaces.pixels(8), 'normalize_observations': True},
    'normalize_observations',
  ),
)
