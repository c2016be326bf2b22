"""What every agent does, whatever its algorithm."""

import functools
import importlib
import pkgutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rl
from rl import learner as learner_lib
from rl import rollout
from tests import marks, trees
from tests.rl import agent_cases

KEY = agent_cases.KEY
LANES, ITERATIONS = 4, 8


class Run(NamedTuple):
  """Some iterations, with the programs that made them."""

  learner: Any
  collect: Any
  learn: Any
  traces: list
  carries: list
  trajectories: list
  metrics: list


def made(agent):
  return agent_cases.made(agent.algorithm, agent.env, LANES)


@functools.cache
def run(name):
  vector, learner = made(agent_cases.AGENTS[name])
  traces = []

  def collect(state, stage, key):
    acting = learner.acting(state)
    return rollout.collect(vector, learner, acting, stage, key)

  def learn(state, trajectory, key):
    traces.append(name)
    return learner.learn(state, trajectory, key)

  collect = jax.jit(collect)
  learn = jax.jit(learn, donate_argnums=0)
  begin = functools.partial(agent_cases.begin, vector, learner)
  state, stage = jax.jit(begin)(KEY)
  found = Run(learner, collect, learn, traces, [], [], [])
  for i in range(ITERATIONS):
    found.carries.append(jax.device_get((state, stage)))
    act_key, learn_key = jax.random.split(jax.random.fold_in(KEY, i))
    stage, trajectory = collect(state, stage, act_key)
    state, metrics = learn(state, trajectory, learn_key)
    found.trajectories.append(jax.device_get(trajectory))
    found.metrics.append(jax.device_get(metrics))
  found.carries.append(jax.device_get((state, stage)))
  return found


@pytest.fixture(
  # The one with a memory has all that the other PPO has.
  params=[*marks.slow('ppo'), *list(agent_cases.AGENTS)[1:]]
)
def name(request):
  return request.param


def test_the_table_has_every_agent():
  """Packages of `rl` that offer an algorithm."""
  offered = set()
  for module in pkgutil.iter_modules(rl.__path__):
    package = importlib.import_module(f'rl.{module.name}')
    for name in getattr(package, '__all__', ()) if module.ispkg else ():
      kind = getattr(package, name)
      if isinstance(kind, type) and hasattr(kind, 'learner'):
        offered.add(kind)
  tested = {type(agent.algorithm) for agent in agent_cases.AGENTS.values()}
  assert offered == tested


def test_protocols(name):
  agent = agent_cases.AGENTS[name]
  learner = run(name).learner
  assert isinstance(agent.algorithm, learner_lib.Algorithm)
  assert isinstance(learner, learner_lib.Learner)
  # Settings that are equal are one program.
  assert hash(agent.algorithm) == hash(agent.algorithm)
  assert hash(learner) == hash(made(agent)[1])
  assert learner == made(agent)[1]


def test_it_compiles_once_and_metrics_are_finite_numbers(name):
  found = run(name)
  assert len(found.traces) == 1
  assert jax.tree.leaves(found.learner.params(found.carries[0][0]))
  for metrics in found.metrics:
    for key, value in metrics.items():
      assert value.shape == (), key
      assert np.isfinite(value), key


def test_trajectories_are_within_their_spaces(name):
  found, env = run(name), agent_cases.AGENTS[name].env
  for trajectory in found.trajectories:
    assert trajectory.reward.shape == (found.learner.unroll_length, LANES)
    for actions in trajectory.action:
      assert all(env.action_space.contains(one) for one in actions)
  ended = np.stack([t.truncated for t in found.trajectories])
  assert ended.any(), 'the time must be up sometimes'


def test_it_learns_from_what_it_is_shown(name):
  found = run(name)
  before, after = (
    trees.bits(found.learner.params(found.carries[i][0])) for i in (0, -1)
  )
  assert any(
    np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True)
  )


def test_greedy_actions_are_within_the_space(name):
  found, env = run(name), agent_cases.AGENTS[name].env
  state, stage = found.carries[-1]
  memory = found.learner.initial_memory(LANES)
  acting = found.learner.acting(jax.tree.map(jnp.asarray, state))
  chosen = jax.jit(found.learner.greedy)(
    acting, memory, jnp.asarray(stage.observation), jnp.ones(LANES, bool), KEY
  )
  assert all(
    env.action_space.contains(one) for one in np.asarray(chosen.action)
  )
  shape = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
  assert shape(chosen.memory) == shape(memory)


def test_resumes_bit_for_bit(name):
  """From a copy on the host, the same iterations follow."""
  found = run(name)
  state, stage = jax.tree.map(jnp.asarray, found.carries[5])
  for i in range(5, ITERATIONS):
    act_key, learn_key = jax.random.split(jax.random.fold_in(KEY, i))
    stage, trajectory = found.collect(state, stage, act_key)
    state, metrics = found.learn(state, trajectory, learn_key)
  trees.check_same((state, stage), found.carries[-1])
  trees.check_same(metrics, found.metrics[-1])
  assert len(found.traces) == 1


def with_resets(trajectory, counted, fill):
  """As of a simulator that resets in a step of its own, which holds anything."""
  ended = trajectory.terminated | trajectory.truncated
  valid = np.ones_like(ended)
  valid[1:] = ~ended[:-1]
  assert not valid.all()
  first = trajectory.first.copy()
  first[1:] = ~valid[:-1]

  def poisoned(x):
    where = valid.reshape(valid.shape + (1,) * (x.ndim - 2))
    return np.where(where, x, np.asarray(fill).astype(x.dtype))

  return trajectory._replace(
    observation=poisoned(trajectory.observation),
    action=poisoned(trajectory.action),
    extras=jax.tree.map(poisoned, trajectory.extras),
    first=first,
    reward=np.where(valid, trajectory.reward, 0),
    terminated=trajectory.terminated & valid,
    truncated=trajectory.truncated & valid,
    valid=valid | counted,
  )


def test_steps_that_reset_change_nothing(name):
  found = run(name)

  def learnt(counted, fill):
    state = jax.tree.map(jnp.asarray, found.carries[0][0])
    for i, trajectory in enumerate(found.trajectories):
      shown = with_resets(trajectory, counted, fill)
      state, _ = found.learn(state, shown, jax.random.fold_in(KEY, i))
    return trees.bits(found.learner.params(state))

  want = learnt(counted=False, fill=0)
  for a, b in zip(learnt(counted=False, fill=1), want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  # Were they counted, what they hold would show.
  wrong = [learnt(counted=True, fill=fill) for fill in (0, 1)]
  assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(*wrong, strict=True))


def test_actions_it_cannot_take_are_refused(name):
  agent = agent_cases.AGENTS[name]
  with pytest.raises(ValueError, match='got'):
    agent.algorithm.learner(agent.env.observation_space, agent.refuses, LANES)
