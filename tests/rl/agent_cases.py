"""All agents; a learner whose every number can be foretold; simulators."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from rl import learner as learner_lib
from rl import networks, ppo, rainbow, rollout, sac
from rl.envs import cartpole, checks, lanes, pendulum, protocol, spaces

KEY = jax.random.key(12)


class Agent(NamedTuple):
  """A row of the table: small settings, a task, and actions it refuses."""

  algorithm: Any
  env: Any
  refuses: Any


_POLE = cartpole.CartPoleBalance(max_steps=7)
_PENDULUM = pendulum.Pendulum(max_steps=7)
_BOX = spaces.Box((2,), -1.0, 1.0)
_PPO = {
  'encoder': networks.MLP((8,)),
  'unroll_length': 8,
  'num_minibatches': 2,
  'normalize_observations': True,
}
_REPLAY = {
  'hidden': (8,),
  'capacity': 256,
  'min_replay': 40,
  'batch_size': 16,
  'unroll_length': 8,
}

# Every agent of `rl`; what each does is in `test_agents`.
AGENTS = {
  'ppo': Agent(ppo.PPO(**_PPO), _POLE, spaces.Box((2,), 0, 9, 'int32')),
  'ppo with a memory': Agent(
    ppo.PPO(**_PPO, core=networks.GRU(4)),
    _PENDULUM,
    spaces.Box((2,), 0, 9, 'int32'),
  ),
  'rainbow': Agent(
    rainbow.Rainbow(**_REPLAY, num_atoms=5, samples_per_insert=1.0), _POLE, _BOX
  ),
  'sac': Agent(
    sac.SAC(**_REPLAY, random_steps=64, updates_per_step=0.0625),
    _PENDULUM,
    spaces.Discrete(2),
  ),
}


@flax.struct.dataclass
class CounterState:
  bias: Any
  seen: Any


@dataclasses.dataclass(frozen=True)
class CountingLearner:
  """Remembers how many steps an episode has; its bias moves with rewards."""

  unroll_length: int = 5
  action_size: int | None = None
  noise: float = 0.0

  def init(self, key):
    return CounterState(jax.random.normal(key), jnp.zeros((), jnp.int32))

  def params(self, state):
    return {'bias': state.bias}

  def acting(self, state):
    return state.bias

  def initial_memory(self, num_lanes):
    return jnp.zeros(num_lanes, jnp.int32)

  def act(self, acting, memory, observation, first, key):
    memory = jnp.where(first, 0, memory) + 1
    value = acting + memory + observation.reshape(len(first), -1).sum(-1)
    value += self.noise * jax.random.normal(key, value.shape)
    action = jnp.tanh(0.1 * value)
    if self.action_size is not None:
      action = jnp.broadcast_to(action[:, None], (len(first), self.action_size))
    return learner_lib.Action(memory, action, {'value': value})

  def greedy(self, acting, memory, observation, first, key):
    return self.act(acting, memory, observation, first, key)

  def final(self, acting, memory, observation):
    return acting + memory + 100 * observation.reshape(len(memory), -1).sum(-1)

  def learn(self, state, trajectory, key):
    reward = jnp.sum(trajectory.reward * trajectory.valid)
    final = jnp.sum(trajectory.final)
    nudge = 0.01 * jnp.tanh(reward) + 1e-3 * jax.random.normal(key)
    bias = state.bias + nudge + 1e-4 * jnp.tanh(final)
    seen = state.seen + jnp.sum(trajectory.valid)
    return CounterState(bias, seen), {'bias': bias}


@dataclasses.dataclass(frozen=True)
class Counting:
  """Settings of `CountingLearner`."""

  unroll_length: int = 5
  noise: float = 0.0

  def learner(self, observation_space, action_space, num_lanes):
    del observation_space, num_lanes
    size = action_space.shape[0] if action_space.shape else None
    return CountingLearner(self.unroll_length, size, self.noise)


@functools.cache
def _programs(inner):
  """Reset and step of equal lanes, compiled once for all tests."""
  return jax.jit(inner.reset), jax.jit(inner.step)


class HostState(NamedTuple):
  inner: Any
  waits: Any
  stats: lanes.EpisodeStats


class Host:
  """Lanes as a simulator; resets at once, or in a step of its own."""

  pure = False

  def __init__(self, inner: lanes.Lanes, *, resets_at_once: bool = True):
    self._inner = inner
    self.resets_at_once = resets_at_once
    self.num_lanes = inner.num_lanes
    self.observation_space = inner.observation_space
    self.action_space = inner.action_space
    self.closed = False

  def reset(self, keys):
    state, shown = _programs(self._inner)[0](keys)
    shown = np.asarray(shown)
    waits = np.zeros(self.num_lanes, bool)
    return HostState(state, waits, jax.device_get(state.stats)), shown

  def step(self, state, action):
    assert not self.closed
    assert isinstance(action, np.ndarray)
    checks.check_action(self.action_space, action, num_lanes=self.num_lanes)
    inner, seen = jax.device_get(_programs(self._inner)[1](state.inner, action))
    if self.resets_at_once:
      return HostState(inner, state.waits, inner.stats), seen
    return self._spend_a_step(state, inner, seen)

  def _spend_a_step(self, state, inner, seen):
    """Lanes that wait stay where they are and show their first observation."""
    pick = lambda new, old: np.where(
      state.waits.reshape(-1, *[1] * (new.ndim - 1)), old, new
    )
    unkeyed = lambda s: s._replace(keys=None)
    kept = jax.tree.map(pick, unkeyed(inner), unkeyed(state.inner))
    kept = kept._replace(keys=inner.keys)
    ended = (seen.terminated | seen.truncated) & ~state.waits
    shown = np.where(ended[:, None], seen.final_observation, seen.observation)
    now = np.asarray(state.inner.observation)
    shown = np.where(state.waits[:, None], now, shown)
    valid = ~state.waits
    transition = protocol.Transition(
      shown,
      np.where(valid, seen.reward, 0).astype(np.float32),
      seen.terminated & valid,
      seen.truncated & valid,
      shown,
      valid,
      {},
    )
    return HostState(kept, ended, kept.stats), transition

  def close(self):
    self.closed = True


def check_slopes(function, grad, x, atol):
  """A gradient is that of central differences, number by number."""
  step = 1e-6
  for index in np.ndindex(x.shape):
    high, low = x.copy(), x.copy()
    high[index] += step
    low[index] -= step
    slope = function(jnp.asarray(high)) - function(jnp.asarray(low))
    np.testing.assert_allclose(
      grad[index], float(slope) / (2 * step), atol=atol
    )


def made(settings, env, num_lanes):
  """Lanes of an environment, and the learner of them."""
  vector = lanes.Lanes(env, num_lanes)
  spaces_of = vector.observation_space, vector.action_space
  return vector, settings.learner(*spaces_of, num_lanes)


def begin(vector, learner, key):
  """A state of the learner, and a stage of the lanes."""
  return learner.init(key), rollout.start(vector, learner, key)


def iterate(vector, learner, carry, key):
  """Acts and learns once: the next state and stage, and metrics."""
  state, stage = carry
  act_key, learn_key = jax.random.split(key)
  stage, trajectory = rollout.collect(
    vector, learner, learner.acting(state), stage, act_key
  )
  state, metrics = learner.learn(state, trajectory, learn_key)
  return (state, stage), metrics
