"""The whole agent: what an iteration does, and that it learns."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import evaluation, rainbow
from rl.envs import cartpole, protocol, spaces
from tests import refusals
from tests.rl import agent_cases


@dataclasses.dataclass(frozen=True)
class Chain:
  """Five places in a row: 4 at the right end, a small lure at the left one."""

  max_steps: int = 20

  observation_space = spaces.Box((5,), 0.0, 1.0)
  action_space = spaces.Discrete(2)

  def reset(self, key):
    del key
    place = jnp.zeros((), jnp.int32)
    return place, jax.nn.one_hot(place, 5)

  def step(self, state, action, key):
    del key
    lure = (state == 0) & (action == 0)
    place = jnp.clip(state + 2 * action - 1, 0, 4)
    done = place == 4
    reward = jnp.where(done, 4.0, jnp.where(lure, 0.004, 0.0))
    return place, protocol.Step(jax.nn.one_hot(place, 5), reward, done, {})


SMALL = rainbow.Rainbow(
  hidden=(16,),
  num_atoms=11,
  v_min=0.0,
  v_max=1.0,
  n_step=2,
  reward_scale=0.5,
  reward_clip=1.0,
  capacity=512,
  min_replay=32,
  samples_per_insert=8.0,
  batch_size=16,
  target_interval=20,
  learning_rate=1e-2,
  epsilon=rainbow.Linear(1.0, 0.1, 1000),
)
LANES = 4
KEY = jax.random.key(0)


def made(settings, env=Chain()):
  return agent_cases.made(settings, env, LANES)


@functools.lru_cache(maxsize=1)
def program():
  """One for all tests of the small settings; counts its traces."""
  vector, learner = made(SMALL)
  traces = []

  def run(carry, key):
    traces.append(None)
    return agent_cases.iterate(vector, learner, carry, key)

  return vector, learner, jax.jit(run, donate_argnums=0), traces


def start(vector, learner, key=KEY):
  return jax.jit(functools.partial(agent_cases.begin, vector, learner))(key)


@functools.lru_cache(maxsize=1)
def history():
  """Carries and metrics of some iterations, on the host."""
  vector, learner, run, traces = program()
  carry = start(vector, learner)
  rows, carries = [], []
  for i in range(12):
    carry, metrics = run(carry, jax.random.fold_in(KEY, i))
    rows.append({k: float(v) for k, v in metrics.items()})
    carries.append(jax.device_get(carry))
  assert len(traces) == 1
  return carries, rows


def test_updates_begin_with_enough_to_sample():
  carries, rows = history()
  for (state, _), row in zip(carries, rows, strict=True):
    assert row['replay_size'] == state.replay.size
  waiting = [row['replay_size'] < SMALL.min_replay for row in rows]
  assert 0 < sum(waiting) < 6
  # 8 samples for each of 16 steps, in batches of 16.
  due = np.cumsum([0 if wait else 8 for wait in waiting])
  np.testing.assert_array_equal([row['updates'] for row in rows], due)
  first = carries[0][0]
  jax.tree.map(np.testing.assert_array_equal, first.params, first.target)
  assert rows[0]['loss'] == 0
  assert rows[-1]['loss'] > 0
  assert 0 < rows[-1]['weight'] <= 1


def test_the_target_is_copied_in_intervals():
  carries, _ = history()
  learning = [state for state, _ in carries if state.updates > 0]
  targets = [jax.tree.leaves(state.target)[-1] for state in learning]
  changed = [not np.array_equal(a, b) for a, b in itertools.pairwise(targets)]
  counts = [int(state.updates) for state in learning]
  # Copies are made after updates 20, 40, ...
  expected = [a // 20 != b // 20 for a, b in itertools.pairwise(counts)]
  assert changed == expected
  assert True in changed
  assert False in changed


def test_rewards_are_scaled_then_clipped():
  carries, _ = history()
  state, _ = carries[-1]
  stored = np.unique(state.replay.steps.reward)
  # Of 0.004 and 4; clipped first, the latter would be 0.5.
  np.testing.assert_allclose(stored, [0.0, 0.002, 1.0], rtol=1e-6)


def trained(vector, learner, iterations, num_seeds):
  """States and metrics of agents that were trained together."""

  def train(key):
    carry = agent_cases.begin(vector, learner, key)
    keys = jax.random.split(key, iterations)
    step = functools.partial(agent_cases.iterate, vector, learner)
    (state, _), metrics = jax.lax.scan(step, carry, keys)
    return state, metrics

  keys = jax.random.split(jax.random.key(1), num_seeds)
  return jax.jit(jax.vmap(train))(keys)


def check_chain(learner, state):
  """To the right from everywhere."""
  chosen = learner.greedy(
    learner.acting(state), (), jnp.eye(5)[:4], jnp.zeros(4, bool), KEY
  )
  np.testing.assert_array_equal(chosen.action, 1)


def test_learns_the_chain():
  vector, learner, run, traces = program()
  carry = start(vector, learner, jax.random.key(1))
  with pytest.raises(AssertionError):
    check_chain(learner, carry[0])
  for i in range(200):
    carry, metrics = run(carry, jax.random.fold_in(KEY, i))
  check_chain(learner, carry[0])
  assert metrics['overflow'] < 0.2
  assert len(traces) == 1


@pytest.mark.slow
def test_agents_of_the_other_kind_learn_it_together():
  changed = dataclasses.replace(
    SMALL,
    double=False,
    dueling=False,
    prioritized=False,
    noisy=True,
    n_step=1,
    max_grad_norm=10.0,
  )
  vector, learner = made(changed)
  states, metrics = trained(vector, learner, 200, 2)
  assert metrics['overflow'].max() < 0.2
  for agent in range(2):
    check_chain(learner, jax.tree.map(lambda x, i=agent: x[i], states))


@pytest.mark.slow
def test_balances_a_pole():
  settings = rainbow.Rainbow(
    v_min=0.0,
    v_max=100.0,
    capacity=50_000,
    learning_rate=1e-3,
    samples_per_insert=8.0,
  )
  vector, learner = made(settings, cartpole.CartPoleBalance())
  states, _ = trained(vector, learner, 4000, 3)
  score = lambda state: evaluation.evaluate(
    vector, learner, learner.acting(state), KEY, episodes=10
  ).returns.mean()
  found = jax.jit(jax.vmap(score))(states)
  assert (found >= 400).all(), found


test_rejects_settings = refusals.settings(
  functools.partial(dataclasses.replace, SMALL),
  ({'v_min': 2.0}, 'low < high'),
  ({'min_replay': 0}, 'min_replay'),
  ({'greedy_epsilon': 1.5}, 'greedy_epsilon'),
  ({'priority_exponent': 0.0}, 'priority_exponent'),
  ({'reward_clip': -1.0}, 'reward_clip'),
  ({'initial_priority': 1.0, 'prioritized': False}, 'initial_priority'),
)


def test_rejects_what_does_not_fit_the_task():
  box = spaces.Box((2,), -1.0, 1.0)
  with pytest.raises(ValueError, match='discrete'):
    SMALL.learner(box, box, LANES)
  odd = dataclasses.replace(SMALL, batch_size=24)
  with pytest.raises(ValueError, match=r'batch_size.*positive whole'):
    odd.learner(box, spaces.Discrete(2), LANES)
  large = dataclasses.replace(SMALL, min_replay=400)
  with pytest.raises(ValueError, match='half of the replay'):
    large.learner(box, spaces.Discrete(2), LANES)


def test_published_settings():
  found = rainbow.procgen(None, discount=0.999)
  assert (found.n_step, found.batch_size, found.discount) == (7, 256, 0.999)
  learner = found.learner(spaces.Box((2,), 0.0, 1.0), spaces.Discrete(15), 4)
  assert learner.num_updates == 1
  assert learner.replay.length * 4 == 500_000 // 64 * 64
