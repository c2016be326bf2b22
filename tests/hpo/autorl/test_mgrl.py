"""Meta-gradients against finite differences in float64; agents that use them."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hpo.autorl import actor_critic, chain, knobs, meta, mgrl, programs
from rl import rollout
from rl.envs import lanes, spaces
from tests import seeds, trees

ALL = (
  knobs.Knob('discount', 0.8),
  knobs.Knob('trace', 0.7),
  knobs.Knob('leak', 0.4),
  knobs.Knob('policy_cost', 0.9, 0.0, 2.0),
  knobs.Knob('value_cost', 0.4, 0.0, 2.0),
  knobs.Knob('entropy_cost', 0.05, 1e-3, 1.0, 'LOG'),
  knobs.Knob('learning_rate', 0.02, 1e-3, 1.0, 'LOG'),
)
STACX = mgrl.MetaActorCritic(
  knobs=ALL,
  outer_kl=0.3,
  condition=3,
  heads=2,
  unroll_length=5,
  horizon=3,
  outer=actor_critic.Loss(discount=0.95, entropy_cost=0.01),
)
LANES = 3


def batches(learner, count):
  """Random steps that another policy took."""
  rng, chosen = seeds.rng(5), learner.settings
  t, n = chosen.unroll_length, learner.num_lanes
  lead = (count, t, n)
  ends = rng.random((2, *lead)) < 0.1
  truncated = ends[1] & ~ends[0]
  return actor_critic.Batch(
    observation=rng.normal(size=(*lead, 4)),
    action=rng.integers(2, size=lead),
    log_prob=np.log(rng.uniform(0.2, 0.9, lead)),
    reward=rng.normal(size=lead),
    terminated=ends[0],
    truncated=truncated,
    valid=np.ones(lead, bool),
    final=rng.normal(size=(*lead, chosen.heads)) * truncated[..., None],
    last_observation=rng.normal(size=(count, n, 4)),
  )


def fitted(settings):
  return settings.learner(
    spaces.Box((4,), -9.0, 9.0), spaces.Discrete(2), LANES
  )


@pytest.mark.slow
def test_an_outer_setting_beyond_its_knob_is_read_as_the_end():
  """No entropy in the outer loss, and a knob for it on a logarithmic scale."""
  ends = [
    dataclasses.replace(
      STACX, outer=actor_critic.Loss(discount=0.95, entropy_cost=cost)
    )
    for cost in (0.0, 1e-3)
  ]
  learners = [fitted(settings) for settings in ends]
  state = learners[0].init(seeds.key(1))
  fresh = jax.tree.map(lambda x: x[0], batches(learners[0], 1))
  fresh = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), fresh)
  found = [
    learner.outer(state.agent, state.agent, state.free, fresh)
    for learner in learners
  ]
  assert np.isfinite(found).all()
  # The two read the same, and differ by their entropy cost alone.
  assert abs(found[0] - found[1]) < 1e-3 * np.log(2) + 1e-6


def test_meta_gradient_is_that_of_finite_differences():
  with jax.enable_x64(True):
    learner = fitted(STACX)
    state = jax.device_get(jax.jit(learner.init)(seeds.key(1)))
    # Larger weights: else the policy is uniform, and little depends on it.
    rng = seeds.rng(2)
    big = lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape))
    params = jax.tree.map(big, state.agent[0])
    start = params, jax.jit(learner.settings.direction.init)(params)
    data = batches(learner, 4)
    kept = jax.tree.map(lambda x: jnp.asarray(x[:3]), data)
    fresh = jax.tree.map(lambda x: jnp.asarray(x[3]), data)

    def outer(agent):
      return learner.outer(agent, start, state.free, fresh)

    found = jax.jit(
      lambda free: meta.meta_gradient(learner.update, outer, start, free, kept)
    )
    # Constants to the gradient, held fixed: what the network reads, and the
    # advantages and targets of the outer loss.
    free = jax.tree.map(np.float64, state.free)
    frozen = _reading(learner, free)
    unroll = jax.jit(
      lambda free: meta.unrolled(learner.update, start, free, kept)
    )
    judge = unroll(free)[0]

    @jax.jit
    def value(free):
      end = meta.unrolled(frozen.update, start, free, kept)
      return learner.outer(end, start, state.free, fresh, judge)

    total, grads = found(free)
    np.testing.assert_allclose(total, value(free), rtol=1e-8)
    for name, x in free.items():
      for head in range(2):
        way = np.arange(2) == head
        at = lambda step, name=name, x=x, way=way: float(
          value({**free, name: x + step * way})
        )
        want = (at(1e-4) - at(-1e-4)) / 2e-4
        assert abs(want) > 1e-9 or (name == 'learning_rate' and head == 1)
        np.testing.assert_allclose(
          grads[name][head], want, rtol=1e-3, atol=1e-10, err_msg=name
        )


def _reading(learner, free):
  """The learner whose network reads these knobs, whatever they become."""

  @dataclasses.dataclass(frozen=True)
  class Frozen(mgrl.MetaLearner):
    def _read(self, _):
      return mgrl.MetaLearner._read(self, free)

  return Frozen(
    learner.network,
    learner.settings,
    learner.observation_space,
    learner.num_lanes,
  )


def test_the_unrolled_updates_are_a_loop():
  update = lambda state, eta, batch: state * eta + batch
  data = jnp.array([1.0, -2.0, 3.0])
  want = jnp.float32(0.5)
  for x in data:
    want = update(want, 0.9, x)
  got = meta.unrolled(update, jnp.float32(0.5), jnp.float32(0.9), data)
  np.testing.assert_allclose(got, want, rtol=1e-6)


def played(settings, iterations, length=4):
  """Learner, and its states from the first on."""
  env = lanes.Lanes(chain.Chain(length), LANES)
  learner = settings.learner(env.observation_space, env.action_space, LANES)
  state, stage = jax.jit(learner.init)(seeds.key(3)), None
  stage = rollout.start(env, learner, seeds.key(4))

  @jax.jit
  def step(state, stage, key):
    acting = learner.acting(state)
    stage, seen = rollout.collect(env, learner, acting, stage, key)
    state, metrics = learner.learn(state, seen, key)
    return state, stage, metrics

  states = [state]
  for i in range(iterations):
    state, stage, metrics = step(state, stage, jax.random.fold_in(KEY, i))
    assert all(np.isfinite(x) for x in metrics.values())
    states.append(state)
  return learner, states


KEY = seeds.key(6)
SMALL = mgrl.MetaActorCritic(
  knobs=ALL[:2], unroll_length=6, horizon=2, meta_optimizer=optax.sgd(0.1)
)


@pytest.mark.slow
def test_kept_batches_lead_to_the_present_agent_and_knobs_move_when_due():
  learner, states = played(SMALL, 5)
  for state in (states[2], states[4]):
    assert state.count == 2
    again = meta.unrolled(learner.update, state.start, state.free, state.kept)
    trees.check_close(again, state.agent, rtol=1e-4, atol=1e-6)
  moves = [
    float(b.free['discount'][0] - a.free['discount'][0])
    for a, b in itertools.pairwise(states)
  ]
  assert [move != 0 for move in moves] == [False, False, True, False, True]


@pytest.mark.slow
def test_knobs_that_stay_change_nothing():
  still = dataclasses.replace(SMALL, meta_optimizer=optax.sgd(0.0))
  plain = mgrl.MetaActorCritic(
    inner=actor_critic.Loss(discount=0.8, trace=0.7), unroll_length=6
  )
  (_, one), (_, two) = played(still, 3), played(plain, 3)
  trees.check_close(one[-1].agent, two[-1].agent, rtol=1e-4, atol=1e-6)
  assert one[-1].free['discount'] == one[0].free['discount']


@pytest.mark.slow
def test_auxiliary_heads_leave_the_first_head_s_outer_loss():
  """Without a shared layer, the second head's knobs have no gradient."""
  unclipped = optax.identity()
  learner = fitted(
    dataclasses.replace(STACX, condition=0, direction=unclipped, horizon=2)
  )
  state = jax.jit(learner.init)(seeds.key(1))
  start = state.agent[0], unclipped.init(state.agent[0])
  data = jax.tree.map(jnp.float32, batches(learner, 3))
  data = data._replace(
    action=data.action.astype(jnp.int32),
    **{k: getattr(data, k) > 0 for k in ('terminated', 'truncated', 'valid')},
  )
  kept = jax.tree.map(lambda x: x[:2], data)
  fresh = jax.tree.map(lambda x: x[2], data)
  outer = lambda agent: learner.outer(agent, start, state.free, fresh)
  _, grads = jax.jit(
    lambda free: meta.meta_gradient(learner.update, outer, start, free, kept)
  )(state.free)
  assert all(abs(g[1]) == 0 for g in grads.values())
  assert all(abs(g[0]) > 0 for g in grads.values())


def agent(knob, outer, far=2.0):
  return programs.Agent(
    mgrl.MetaActorCritic(
      knobs=(knob,),
      inner=actor_critic.Loss(entropy_cost=0.05),
      outer=actor_critic.Loss(discount=outer, entropy_cost=0.0),
      learning_rate=0.02,
      meta_optimizer=optax.adam(0.03),
    ),
    lanes.Lanes(chain.Chain(far=far), 16),
    lanes.Lanes(chain.Chain(far=far), 100),
  )


@pytest.mark.slow
def test_the_discount_moves_to_the_side_that_pays():
  threshold = chain.Chain().threshold
  assert 0.92 < threshold < 0.93
  for start, outer, above in ((0.8, 0.99, True), (0.98, 0.7, False)):
    program = agent(knobs.Knob('discount', start), outer)
    found = programs.run(program, (0, 1), 600, records=2)
    ends = found['train/discount'][:, -1]
    assert ((ends > threshold) == above).all(), ends


def test_the_chain_has_the_threshold_that_it_says():
  env = chain.Chain(length=5, near=1.0, far=3.0)
  walk, _ = env.reset(KEY)
  total, factor = 0.0, 1.0
  for _ in range(5):
    walk, step = env.step(walk, jnp.int32(1), KEY)
    total += factor * float(step.reward)
    factor *= env.threshold
  assert step.terminated
  np.testing.assert_allclose(total, 1.0, rtol=1e-5)
  _, leave = env.step(env.reset(KEY)[0], jnp.int32(0), KEY)
  assert leave.terminated
  assert leave.reward == 1


def test_settings_are_checked():
  for bad, words in (
    ({'knobs': (knobs.Knob('clip', 0.5),)}, 'knobs must be among'),
    ({'heads': 2}, 'condition and heads need knobs'),
    ({'inner': actor_critic.Loss(discount=1.5)}, 'discount'),
    ({'horizon': 0}, 'horizon must be positive'),
  ):
    with pytest.raises(ValueError, match=words):
      mgrl.MetaActorCritic(**bad)
  with pytest.raises(ValueError, match='discrete actions'):
    STACX.learner(spaces.Box((4,), 0.0, 1.0), spaces.Box((1,), 0.0, 1.0), 2)
