"""The whole agent: what an iteration does, and that it learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import evaluation, sac
from rl.envs import pendulum, protocol, spaces
from tests import trees
from tests.rl import agent_cases


@dataclasses.dataclass(frozen=True)
class Aim:
  """Hit a point that is shown: reward -(a - x)^2, a in [0, 4]."""

  max_steps: int = 8

  observation_space = spaces.Box((1,), 1.0, 3.0)
  action_space = spaces.Box((1,), 0.0, 4.0)

  def reset(self, key):
    aim = jax.random.uniform(key, (1,), minval=1.0, maxval=3.0)
    return aim, aim

  def step(self, state, action, key):
    aim = jax.random.uniform(key, (1,), minval=1.0, maxval=3.0)
    reward = -jnp.sum((action - state) ** 2)
    return aim, protocol.Step(aim, reward, jnp.zeros((), bool), {})


SMALL = sac.SAC(
  hidden=(32,),
  discount=0.5,
  temperature=0.1,
  learning_rate=1e-2,
  tau=0.05,
  capacity=4096,
  min_replay=40,
  random_steps=64,
  batch_size=64,
  unroll_length=4,
)
LANES = 4
KEY = jax.random.key(0)


def made(settings, env=Aim()):
  return agent_cases.made(settings, env, LANES)


@functools.lru_cache(maxsize=1)
def history():
  """The first states and the last one, and the metrics of all iterations."""
  vector, learner = made(SMALL)
  traces = []

  def run(carry, key):
    traces.append(None)
    return agent_cases.iterate(vector, learner, carry, key)

  run = jax.jit(run, donate_argnums=0)
  carry = jax.jit(functools.partial(agent_cases.begin, vector, learner))(KEY)
  states, rows = [jax.device_get(carry[0])], []
  for i in range(130):
    carry, metrics = run(carry, jax.random.fold_in(KEY, i))
    if i < 8:
      states.append(jax.device_get(carry[0]))
    rows.append({k: float(v) for k, v in metrics.items()})
  states.append(jax.device_get(carry[0]))
  assert len(traces) == 1
  return learner, states, rows


@pytest.mark.slow
def test_updates_begin_with_enough_to_sample():
  _, states, rows = history()
  waiting = [row['replay_size'] < SMALL.min_replay for row in rows]
  due = np.cumsum([0 if wait else 16 for wait in waiting])
  np.testing.assert_array_equal([row['updates'] for row in rows], due)
  same = waiting.index(False)
  assert same > 0
  trees.check_same(states[0].params, states[same].params)


def test_uniform_actions_at_first_then_the_policy():
  learner, states, _ = history()
  random = [bool(learner.acting(state).random) for state in states[:8]]
  assert random == [True] * 4 + [False] * 4
  shown = jnp.full((2000, 1), 2.0)
  act = jax.jit(learner.act)
  first = act(learner.acting(states[0]), (), shown, shown[:, 0] > 0, KEY)
  assert first.action.shape == (2000, 1)
  quarters = np.histogram(first.action, np.linspace(0, 4, 5))[0]
  assert (np.abs(quarters - 500) < 100).all()
  later = act(learner.acting(states[-1]), (), shown, shown[:, 0] > 0, KEY)
  assert np.std(later.action) < 0.5 * np.std(first.action)


def test_learns_to_aim():
  learner, states, rows = history()
  shown = jnp.linspace(1.2, 2.8, 9)[:, None]
  act = jax.jit(learner.greedy)
  chosen = act(learner.acting(states[-1]), (), shown, shown[:, 0] > 0, KEY)
  # Always the middle would be off by 0.8 at the ends, 0.53 on average.
  assert np.abs(chosen.action - shown).mean() < 0.2
  # The temperature holds the entropy at its target, -1.
  entropy = np.mean([row['entropy'] for row in rows[-20:]])
  assert abs(entropy + 1) < 0.5
  assert learner.target_entropy == -1


def test_truncated_steps_are_not_learnt_from():
  _, states, _ = history()
  replay = states[-1].replay
  sampled = np.asarray(replay.tree.levels[0][:4096]).reshape(-1, LANES) > 0
  assert replay.steps.truncated.any()
  assert not sampled[replay.steps.truncated].any()
  rows = int(replay.inserted)
  kept = replay.steps.valid & ~replay.steps.truncated
  np.testing.assert_array_equal(sampled[: rows - 1], kept[: rows - 1])


@pytest.mark.slow
def test_swings_up():
  settings = sac.SAC(
    hidden=(64, 64),
    learning_rate=1e-3,
    batch_size=128,
    capacity=20_000,
    unroll_length=1,
  )
  vector, learner = made(settings, pendulum.Pendulum())

  def train(key):
    carry = agent_cases.begin(vector, learner, key)
    step = functools.partial(agent_cases.iterate, vector, learner)
    (state, _), _ = jax.lax.scan(step, carry, jax.random.split(key, 4000))
    return evaluation.evaluate(
      vector, learner, learner.acting(state), key, episodes=5
    ).returns.mean()

  found = jax.jit(jax.vmap(train))(jax.random.split(KEY, 3))
  # Random torques get about -1200.
  assert (found > -250).all(), found


def test_rejects_tasks():
  box = spaces.Box((1,), -1.0, 1.0)
  for wrong in (spaces.Discrete(2), spaces.Box((1,), -np.inf, 1.0)):
    with pytest.raises(ValueError, match='bounded box'):
      SMALL.learner(box, wrong, LANES)
  half = dataclasses.replace(SMALL, updates_per_step=0.3)
  with pytest.raises(ValueError, match='updates_per_step'):
    half.learner(box, box, LANES)
