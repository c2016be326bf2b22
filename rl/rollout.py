"""Acting in lanes for T steps, traced in JAX or with simulators on the host."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, PyTree, Shaped

from rl import learner as learner_lib
from rl.envs import protocol

__all__ = ['HostActor', 'Stage', 'begins', 'collect', 'start']


class Stage(NamedTuple):
  """The state of acting between two steps.

  Attributes:
    env: state of the lanes.
    observation: present observations of the lanes, [n, ...].
    first: whether that is the first of an episode, bool [n].
    memory: of a recurrent policy, before the observation.
  """

  env: PyTree
  observation: Shaped[Array | np.ndarray, 'n ...']
  first: Bool[Array | np.ndarray, ' n']
  memory: PyTree


class _Row(NamedTuple):
  """One step of all lanes: the fields of `learner.Trajectory` that have time."""

  observation: PyTree
  first: PyTree
  action: PyTree
  extras: PyTree
  reward: PyTree
  terminated: PyTree
  truncated: PyTree
  valid: PyTree
  final: PyTree
  episode_return: PyTree
  episode_length: PyTree


def start(
  env: protocol.VectorEnvironment,
  learner: Any,
  key: Key[Array, ''],
) -> Stage:
  """Starts an episode in every lane.

  Args:
    env: the lanes.
    learner: whose memory goes along: a `learner.Learner`, or another that has
      `initial_memory`.
    key: of all lanes.

  Returns:
    The stage before the first step.
  """
  state, observation = env.reset(jax.random.split(key, env.num_lanes))
  first = jnp.ones(env.num_lanes, bool)
  return Stage(state, observation, first, learner.initial_memory(env.num_lanes))


def collect(
  env: protocol.VectorEnvironment,
  learner: learner_lib.Learner,
  acting: PyTree,
  stage: Stage,
  key: Key[Array, ''],
) -> tuple[Stage, learner_lib.Trajectory]:
  """Acts in pure lanes; may be traced.

  Args:
    env: the lanes, `pure`.
    learner: the learner that acts.
    acting: `Learner.acting` of its state.
    stage: stage to begin from.
    key: of these steps only.

  Returns:
    Where the lanes are now, and `learner.unroll_length` steps.
  """

  def step(stage: Stage, key: Key[Array, '']) -> tuple[Stage, _Row]:
    chosen = learner.act(
      acting, stage.memory, stage.observation, stage.first, key
    )
    state, seen = env.step(stage.env, chosen.action)
    judge = functools.partial(learner.final, acting, chosen.memory)
    none = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
      jax.eval_shape(judge, seen.final_observation),
    )
    final = none
    if jax.tree.leaves(none):
      # A network's price, paid only at the steps that need it.
      final = jax.lax.cond(
        jnp.any(seen.truncated),
        lambda x: _keep(seen.truncated, judge(x)),
        lambda x: none,
        seen.final_observation,
      )
    row = _row(stage, chosen, seen, final, state.stats)
    first = begins(env, seen)
    return Stage(state, seen.observation, first, chosen.memory), row

  keys = jax.random.split(key, learner.unroll_length)
  end, rows = jax.lax.scan(step, stage, keys)
  return end, _trajectory(stage, rows, end)


def _keep(where: Array | np.ndarray, values: PyTree) -> PyTree:
  """Zeros elsewhere."""
  return jax.tree.map(
    lambda x: jnp.where(where.reshape(-1, *[1] * (x.ndim - 1)), x, 0), values
  )


def begins(
  env: protocol.VectorEnvironment, seen: protocol.Transition
) -> Shaped[Array | np.ndarray, ' n']:
  """Whether the new observations begin an episode, bool [n].

  Args:
    env: the lanes.
    seen: result of the step.
  """
  if env.resets_at_once:
    return seen.terminated | seen.truncated
  return ~seen.valid


def _row(
  stage: Stage,
  chosen: learner_lib.Action,
  seen: protocol.Transition,
  final: PyTree,
  stats: PyTree,
) -> _Row:
  return _Row(
    stage.observation,
    stage.first,
    chosen.action,
    chosen.extras,
    seen.reward,
    seen.terminated,
    seen.truncated,
    seen.valid,
    final,
    stats.last_return,
    stats.last_length,
  )


def _trajectory(begin: Stage, rows: _Row, end: Stage) -> learner_lib.Trajectory:
  return learner_lib.Trajectory(
    *rows, begin.memory, end.memory, end.observation, end.first
  )


class HostActor:
  """Acts in simulators: networks are jitted, lanes are stepped on the host.

  Args:
    env: the lanes.
    learner: the learner that acts.
  """

  def __init__(
    self, env: protocol.VectorEnvironment, learner: learner_lib.Learner
  ) -> None:
    self._env = env
    self._learner = learner
    self._act = jax.jit(self._chosen)
    self._final = jax.jit(learner.final)

  def _chosen(
    self, acting: PyTree, stage: PyTree, key: Key[Array, ''], time: Array
  ) -> learner_lib.Action:
    observation, first, memory = stage
    key = jax.random.fold_in(key, time)
    return self._learner.act(acting, memory, observation, first, key)

  def start(self, key: Key[Array, '']) -> Stage:
    """See `rollout.start`."""
    return start(self._env, self._learner, key)

  def collect(
    self, acting: PyTree, stage: Stage, key: Key[Array, '']
  ) -> tuple[Stage, learner_lib.Trajectory]:
    """See `rollout.collect`; the trajectory's leaves are NumPy arrays."""
    begin, rows, none = stage, [], None
    for time in range(self._learner.unroll_length):
      seen_before = (stage.observation, stage.first, stage.memory)
      chosen = self._act(acting, seen_before, key, time)
      state, seen = self._env.step(stage.env, np.asarray(chosen.action))
      judged = (acting, chosen.memory, seen.final_observation)
      if none is None:
        none = _zeros(jax.eval_shape(self._final, *judged))
      final = none
      if seen.truncated.any():
        final = _keep(seen.truncated, self._final(*judged))
      rows.append(jax.device_get(_row(stage, chosen, seen, final, state.stats)))
      first = begins(self._env, seen)
      stage = Stage(state, seen.observation, first, chosen.memory)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    return stage, jax.device_get(_trajectory(begin, stacked, stage))


def _zeros(shapes: PyTree) -> PyTree:
  return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
