"""Small environments, functions with known answers, and all evaluators."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from rl.envs import lanes, protocol, spaces
from rl.es import (
  directions,
  evaluator,
  jax_evaluator,
  population,
  ray_evaluator,
  vector_evaluator,
)
from tests.rl import agent_cases


class DriftState(NamedTuple):
  position: jax.Array
  step: jax.Array


@dataclasses.dataclass(frozen=True)
class Drift:
  """x' = x + a + noise, reward -x'^2; ends where |x| > bound."""

  max_steps: int = 7
  bound: float = 1.5
  noise: float = 0.3

  observation_space = spaces.Box((2,), -100.0, 100.0)
  action_space = spaces.Box((1,), -1.0, 1.0)

  def reset(self, key):
    position = jax.random.uniform(key, (), minval=-1.0, maxval=1.0)
    state = DriftState(position, jnp.zeros((), jnp.int32))
    return state, self._observe(state)

  def step(self, state, action, key):
    noise = self.noise * jax.random.normal(key)
    position = state.position + action[0] + noise
    new = DriftState(position, state.step + 1)
    ended = jnp.abs(position) > self.bound
    # Whoever goes on after the end meets infinity.
    position = jnp.where(
      jnp.abs(state.position) > self.bound, jnp.inf, position
    )
    new = new._replace(position=position)
    return new, protocol.Step(self._observe(new), -(position**2), ended, {})

  def _observe(self, state):
    return jnp.stack([state.position, state.step.astype(jnp.float32) + 5.0])


@dataclasses.dataclass(frozen=True)
class Function:
  """An evaluator of f(theta); `lost` marks members that never come back."""

  function: object
  lost: object = None
  pure = True
  observation_shape = ()

  def close(self):
    pass

  def evaluate(self, candidates, keys, normalizer):
    thetas = population.all_members(candidates, keys.shape[0])
    returns = jax.vmap(self.function)(thetas)
    valid = jnp.ones(returns.shape, bool)
    if self.lost is not None:
      valid = ~self.lost(keys, returns)
      returns = jnp.where(valid, returns, jnp.nan)
    lengths = jnp.ones(returns.shape, jnp.int32)
    return evaluator.Evaluation(returns, lengths, None, valid)


class Walk:
  """Adds the action; ends beyond 5; a reward of 1 a step."""

  observation_space = spaces.Box((1,), -10.0, 10.0)
  action_space = spaces.Box((1,), -1.0, 1.0)
  max_steps = 50

  def reset(self, key):
    del key
    return jnp.zeros(1), jnp.zeros(1)

  def step(self, state, action, key):
    del key
    state = state + action
    ended = jnp.abs(state[0]) > 5
    return state, protocol.Step(state, jnp.float32(1), ended, {})


class Constant:
  """Its parameter is the action."""

  observation_space, action_space = Walk.observation_space, Walk.action_space
  size = 1

  def init(self, key):
    del key
    return jnp.zeros(1)

  def unravel(self, theta):
    return theta

  def initial_memory(self):
    return ()

  def act(self, params, memory, observation):
    del observation
    return memory, params


@dataclasses.dataclass(frozen=True)
class Shared:
  """A member is a table of weights, and the places that take them.

  A place that takes the number `size` has no weight.
  """

  size: int = 3

  def init(self, key):
    return jax.random.normal(key, (self.size,))

  def unravel(self, member):
    table, places = member
    return jnp.append(table, 0.0)[places]

  def initial_memory(self):
    return ()

  def act(self, params, memory, observation):
    # As products: their order must not depend on the number of lanes.
    return memory, jnp.tanh(observation @ jnp.stack([params, params], 1))[:1]


@flax.struct.dataclass
class Architectures:
  """A population whose members also have an architecture, drawn by row."""

  inner: Any
  logits: Any
  key: Any
  paired: bool = flax.struct.field(pytree_node=False, default=True)
  size = property(lambda self: self.inner.size)
  sides = property(lambda self: self.inner.sides)
  rows = property(lambda self: self.inner.rows)
  rows_per_block = property(lambda self: self.inner.rows_per_block)

  def members(self, start, *, count):
    row = start + jnp.arange(count)
    side = jnp.arange(self.sides) * (not self.paired)

    def draw(side, row):
      key = jax.random.fold_in(jax.random.fold_in(self.key, row), side)
      return jax.random.categorical(key, self.logits)

    drawn = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(side, row)
    return self.inner.members(start, count=count), drawn

  def gradient(self, weights):
    return self.inner.gradient(weights)

  def keep(self, count):
    return self.replace(inner=self.inner.keep(count))


def in_one_program(env, policy, **options):
  return jax_evaluator.JaxEvaluator(env, policy, **options)


def in_lanes(env, policy, **options):
  return vector_evaluator.VectorEvaluator(
    lanes.Lanes(env, 3), policy, **options
  )


def in_a_simulator(env, policy, **options):
  host = agent_cases.Host(lanes.Lanes(env, 3))
  return vector_evaluator.VectorEvaluator(host, policy, **options)


def on_ray(env, policy, **options):
  return ray_evaluator.RayEvaluator(
    functools.partial(in_lanes, env, policy, **options),
    num_workers=1,
    directions_per_task=2,
    # Several may wait at the same time for the one core.
    cpus=0.1,
    observation_shape=env.observation_space.shape,
  )


EVALUATORS = {
  'one program': in_one_program,
  'lanes': in_lanes,
  'simulator': in_a_simulator,
  'ray': on_ray,
}


def perturbed(policy, kind='gaussian', mirrored=True):
  """Members around a policy's first parameters."""
  return population.Perturbations(
    theta=policy.init(jax.random.key(0)),
    sigma=jnp.float32(0.5),
    key=jax.random.key(1),
    directions=directions.Directions(kind, block=4),
    mirrored=mirrored,
  )


def check_against_loop(found, thetas, episodes, rtol):
  """Every member's returns, lengths and observations are those of a loop.

  Args:
    found: an evaluation.
    thetas: of all members.
    episodes: of a theta and the member's number; return and observations of each.
    rtol: of returns.
  """
  visited, lengths = [], []
  for i, theta in enumerate(thetas):
    returns, seen = zip(*episodes(theta, i), strict=True)
    np.testing.assert_allclose(found.returns[i], np.mean(returns), rtol=rtol)
    steps = [len(x) - 1 for x in seen]
    assert found.lengths[i] == sum(steps)
    visited += seen
    lengths += steps
  assert len(set(lengths)) > 2, 'episodes must end at different times'
  assert bool(jnp.all(found.valid))
  check_statistics(found.statistics, visited)


def evaluate(run, thetas):
  """Thetas of one number each."""
  keys = jax.random.split(jax.random.key(0), len(thetas))
  listed = population.Listed(jnp.array(thetas)[:, None])
  return run.evaluate(listed, keys, None)


def check_statistics(found, visited):
  """They are those of all observations, those at resets and ends included."""
  x = np.concatenate(visited)
  assert float(found.count) == len(x)
  np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-4, atol=1e-5)
  m2 = ((x - x.mean(0)) ** 2).sum(0)
  np.testing.assert_allclose(found.m2, m2, rtol=1e-3)
