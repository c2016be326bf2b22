"""HOOF against sums in NumPy; and an agent that chooses its own steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.autorl import chain, hoof, knobs, mgrl
from rl import rollout
from rl.envs import lanes
from tests import seeds, trees

LIMITS = hoof.Limits(max_kl=0.1, log_clip=2.0, min_share=0.3)
C, N = 6, 9


def some():
  rng = seeds.rng(1)
  log_weight = rng.normal(size=(C, N)) * np.linspace(0, 2.5, C)[:, None]
  mask = rng.random(N) < 0.8
  return (
    jnp.float32(log_weight),
    jnp.float32(rng.normal(size=N)),
    jnp.array(mask),
  )


def test_weights_are_those_of_the_formula_and_their_scale_does_not_matter():
  log_weight, returns, mask = some()
  mean, share = hoof.weighted_returns(log_weight, returns, mask)
  kept = np.asarray(mask)
  w = np.exp(np.float64(log_weight))[:, kept]
  r = np.float64(returns)[kept]
  np.testing.assert_allclose(mean, (w * r).sum(1) / w.sum(1), rtol=1e-4)
  want = w.sum(1) ** 2 / (w**2).sum(1) / kept.sum()
  np.testing.assert_allclose(share, want, rtol=1e-4)
  for shift in (-200.0, 7.0, 200.0):
    again = hoof.weighted_returns(log_weight + shift, returns, mask)
    np.testing.assert_allclose(again[0], mean, rtol=1e-3)
    np.testing.assert_allclose(again[1], share, rtol=1e-3)


def test_nothing_to_compare():
  mean, share = hoof.weighted_returns(
    jnp.zeros((2, 3)), jnp.ones(3), jnp.zeros(3, bool)
  )
  np.testing.assert_array_equal(mean, [0, 0])
  np.testing.assert_array_equal(share, [0, 0])


def test_the_best_within_the_limits_is_chosen():
  log_weight, returns, mask = some()
  kl = jnp.array([0.0, 0.01, 0.2, 0.05, 0.0, 0.09])
  got = hoof.choose(log_weight, returns, mask, kl, LIMITS)
  kept = np.asarray(mask)
  w = np.exp(np.clip(np.float64(log_weight), -2, 2))[:, kept]
  r = np.float64(returns)[kept]
  r = (r - r.min()) / (r.max() - r.min())
  value = (w * r).sum(1) / w.sum(1)
  share = w.sum(1) ** 2 / (w**2).sum(1) / kept.sum()
  accepted = (np.asarray(kl) <= 0.1) & (share >= 0.3)
  np.testing.assert_array_equal(got.accepted, accepted)
  assert 0 < accepted.sum() < C
  np.testing.assert_allclose(got.value, value, rtol=1e-4)
  assert got.index == np.argmax(np.where(accepted, value, -1))
  none = hoof.choose(log_weight, returns, mask, kl + 1, LIMITS)
  assert not none.found
  broken = hoof.choose(log_weight * jnp.nan, returns, mask, kl, LIMITS)
  assert not broken.found


def test_pieces_end_with_episodes_and_with_the_batch():
  rng, T, n = seeds.rng(2), 7, 3
  ratio, reward, after = (
    rng.normal(size=s) for s in ((2, T, n), (T, n), (T, n))
  )
  ended = rng.random((T, n)) < 0.3
  valid = rng.random((T, n)) < 0.9
  valid[-1, 0] = False
  got = hoof.pieces(
    *(jnp.float32(x) for x in (ratio, reward, after)),
    ended=jnp.asarray(ended),
    valid=jnp.asarray(valid),
    discount=0.9,
  )
  for lane in range(n):
    weight, total, factor = np.zeros(2), 0.0, 1.0
    for t in range(T):
      if valid[t, lane]:
        weight = weight + ratio[:, t, lane]
        total += factor * reward[t, lane]
        factor *= 0.9
      ends = (ended[t, lane] or t == T - 1) and valid[t, lane]
      assert got.mask[t, lane] == ends
      if ends:
        np.testing.assert_allclose(
          got.log_weight[:, t, lane], weight, rtol=1e-4, atol=1e-5
        )
        want = total + factor * after[t, lane]
        np.testing.assert_allclose(
          got.returns[t, lane], want, rtol=1e-4, atol=1e-5
        )
      if ended[t, lane]:
        weight, total, factor = np.zeros(2), 0.0, 1.0


AGENT = hoof.HOOF(
  mgrl.MetaActorCritic(unroll_length=12),
  directions=2,
  rates_each=3,
  rates=(1e-3, 0.3),
)


@pytest.mark.slow
def test_an_agent_chooses_or_stays_as_it_is():
  env = lanes.Lanes(chain.Chain(4), 4)
  moved = {}
  for name, limits in (
    ('some', hoof.Limits(max_kl=10.0, min_share=0.0)),
    ('none', hoof.Limits(max_kl=1e-12)),
  ):
    settings = dataclasses.replace(AGENT, limits=limits)
    learner = settings.learner(env.observation_space, env.action_space, 4)

    @jax.jit
    def step(key, learner=learner):
      state = learner.init(key)
      stage = rollout.start(env, learner, key)
      acting = learner.acting(state)
      _, seen = rollout.collect(env, learner, acting, stage, key)
      after, metrics = learner.learn(state, seen, key)
      return learner.params(state), learner.params(after), after.high, metrics

    before, after, high, metrics = step(seeds.key(3))
    moved[name] = trees.differ(before, after)
    if name == 'some':
      assert metrics['accepted'] == 1
      assert high == np.float32(0.3)
      assert 1e-3 <= metrics['learning_rate'] <= 0.3
      assert 1e-4 <= metrics['entropy_cost'] <= 0.1
    else:
      assert metrics['accepted'] == 0
      assert metrics['learning_rate'] == 0
      np.testing.assert_allclose(high, 0.24, rtol=1e-5)
  assert moved == {'some': True, 'none': False}


def test_settings_are_checked():
  knobbed = mgrl.MetaActorCritic(knobs=(knobs.Knob('discount', 0.5),))
  for bad, words in (
    ({'agent': knobbed}, 'without knobs'),
    ({'agent': AGENT.agent, 'rates': (0.1, 0.1)}, 'rates must be'),
  ):
    with pytest.raises(ValueError, match=words):
      hoof.HOOF(**bad)
  with pytest.raises(ValueError, match='max_kl must be positive'):
    hoof.Limits(max_kl=0.0)
