"""Returns of a policy, from the same number of episodes in every lane.

Taking the first episodes that end among all lanes would favour short ones.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from rl import learner as learner_lib
from rl import ranges, rollout
from rl.envs import checks, protocol, spaces

__all__ = ['Episodes', 'RandomPlayer', 'evaluate', 'evaluate_on_host']


class Episodes(NamedTuple):
  """Finished episodes, e of each of n lanes.

  Attributes:
    returns: undiscounted, float32 [n, e].
    lengths: in steps, int32 [n, e].
  """

  returns: Float[Array | np.ndarray, 'n e']
  lengths: Int[Array | np.ndarray, 'n e']


@dataclasses.dataclass(frozen=True)
class RandomPlayer:
  """Acts uniformly at random; every agent should surpass it.

  It has what `evaluate` needs of a learner; `acting` may be anything.

  Attributes:
    action_space: discrete, or a bounded box.
  """

  action_space: spaces.Space

  def initial_memory(self, num_lanes: int) -> PyTree:
    """None."""
    del num_lanes
    return ()

  def greedy(
    self, acting: Any, memory: Any, observation: Any, first: Any, key: Array
  ) -> learner_lib.Action:
    """One draw per lane."""
    del acting, observation
    keys = jax.random.split(key, len(first))
    return learner_lib.Action(
      memory, jax.vmap(self.action_space.sample)(keys), ()
    )


class _Carry(NamedTuple):
  stage: rollout.Stage
  time: Any
  count: Any
  found: Episodes


def evaluate(
  env: protocol.VectorEnvironment,
  learner: learner_lib.Learner | RandomPlayer,
  acting: PyTree,
  key: Key[Array, ''],
  *,
  episodes: int = 1,
) -> Episodes:
  """Acts in pure lanes until each finished so many episodes; may be traced.

  Args:
    env: the lanes, `pure`, which reset themselves.
    learner: learner whose `greedy` acts.
    acting: `Learner.acting` of its state.
    key: of lanes and actions.
    episodes: e, of each lane.

  Returns:
    The first e episodes of every lane.

  Raises:
    ValueError: if episodes < 1, or more than one is asked of lanes that do not
      reset themselves.
  """
  _check(env, episodes)
  key, reset_key = jax.random.split(key)
  none = jnp.zeros((env.num_lanes, episodes))
  first = _Carry(
    rollout.start(env, learner, reset_key),
    jnp.zeros((), jnp.int32),
    jnp.zeros(env.num_lanes, jnp.int32),
    Episodes(none, none.astype(jnp.int32)),
  )

  def step(carry: _Carry) -> _Carry:
    chosen = _chosen(learner, acting, carry.stage, key, carry.time)
    stage, ended = _step(env, carry.stage, chosen)
    stats = stage.env.stats
    # If no episode ended, or enough ended, the column is out of range: dropped.
    column = jnp.where(ended, carry.count, episodes)
    rows = jnp.arange(env.num_lanes)
    put = lambda into, value: into.at[rows, column].set(value, mode='drop')
    found = Episodes(
      put(carry.found.returns, stats.last_return),
      put(carry.found.lengths, stats.last_length),
    )
    return _Carry(stage, carry.time + 1, carry.count + ended, found)

  going = lambda carry: jnp.any(carry.count < episodes)
  return jax.lax.while_loop(going, step, first).found


def _check(env: protocol.VectorEnvironment, episodes: int) -> None:
  ranges.check_counts(episodes=episodes)
  if episodes > 1:
    checks.check_resets(env)


def _chosen(
  learner: learner_lib.Learner | RandomPlayer,
  acting: PyTree,
  stage: PyTree,
  key: Key[Array, ''],
  time: Array,
) -> learner_lib.Action:
  key = jax.random.fold_in(key, time)
  return learner.greedy(
    acting, stage.memory, stage.observation, stage.first, key
  )


def _step(
  env: protocol.VectorEnvironment,
  stage: rollout.Stage,
  chosen: learner_lib.Action,
) -> tuple[rollout.Stage, Any]:
  """The next stage, and in which lanes an episode ended."""
  state, seen = env.step(stage.env, chosen.action)
  first = rollout.begins(env, seen)
  stage = rollout.Stage(state, seen.observation, first, chosen.memory)
  return stage, seen.valid & (seen.terminated | seen.truncated)


def evaluate_on_host(
  env: protocol.VectorEnvironment,
  learner: learner_lib.Learner | RandomPlayer,
  acting: PyTree,
  key: Key[Array, ''],
  *,
  episodes: int = 1,
) -> Episodes:
  """Like `evaluate`, in simulators; NumPy arrays."""
  _check(env, episodes)
  act = _jitted(learner)
  key, reset_key = jax.random.split(key)
  stage = rollout.start(env, learner, reset_key)
  count = np.zeros(env.num_lanes, np.int32)
  found = Episodes(
    np.zeros((env.num_lanes, episodes), np.float32),
    np.zeros((env.num_lanes, episodes), np.int32),
  )
  time = 0
  while (count < episodes).any():
    chosen = act(acting, stage._replace(env=None), key, time)
    chosen = chosen._replace(action=np.asarray(chosen.action))
    stage, ended = _step(env, stage, chosen)
    rows = np.flatnonzero(ended & (count < episodes))
    found.returns[rows, count[rows]] = stage.env.stats.last_return[rows]
    found.lengths[rows, count[rows]] = stage.env.stats.last_length[rows]
    count[rows] += 1
    time += 1
  return found


@functools.lru_cache(maxsize=8)
def _jitted(learner: learner_lib.Learner | RandomPlayer) -> Any:
  """One program per learner, however often it is evaluated."""
  return jax.jit(functools.partial(_chosen, learner))
