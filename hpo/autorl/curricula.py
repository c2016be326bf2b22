"""Agents that learn in levels chosen for them.

In each iteration a curriculum gives every lane a level. The lane plays it from its
start for the whole iteration, again and again. The curriculum is told how it went,
and the agent learns.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped, UInt

from hpo.autorl import levels, programs
from rl import evaluation, ppo, rollout
from rl import learner as learner_lib
from rl.envs import lanes, protocol
from rl.ppo import losses

__all__ = ['Curriculum', 'Outcome', 'PrioritizedLevels', 'Program', 'State']


class _LevelLanes(lanes.Lanes):
  """Lanes that begin the same level again where an episode ended."""

  def _restart(
    self,
    done: Bool[Array, ' n'],
    keys: Key[Array, ' n'],
    clock: UInt[Array, ' n'],
    env: PyTree,
    observation: Shaped[Array, 'n ...'],
  ) -> tuple[PyTree, Shaped[Array, 'n ...']]:
    del keys, clock
    fresh = jax.vmap(self.env.restart)(env)
    pick = lambda new, old: jnp.where(
      done.reshape(-1, *[1] * (new.ndim - 1)), new, old
    )
    return jax.tree.map(pick, fresh, (env, observation))

  def begin(
    self, levels_: PyTree, keys: Key[Array, ' n']
  ) -> tuple[lanes.LanesState, Shaped[Array, 'n ...']]:
    """As `reset`, in given levels, states of the environment [n, ...]."""
    state, _ = self.reset(keys)
    env, observation = jax.vmap(self.env.restart)(levels_)
    return state._replace(env=env, observation=observation), observation


class Outcome(NamedTuple):
  """How an iteration went, in each of n lanes.

  Attributes:
    advantage: generalised ones of the steps, [T, n].
    valid: which steps count, bool [T, n].
    episode_return: mean of the finished episodes; 0 where none finished.
    episodes: how many finished, float32.
  """

  advantage: Float[Array, 'T n']
  valid: Bool[Array, 'T n']
  episode_return: Float[Array, ' n']
  episodes: Float[Array, ' n']


@runtime_checkable
class Curriculum(Protocol):
  """Chooses levels; hashable settings, pure functions."""

  def init(self) -> PyTree:
    """The state before the first iteration."""
    ...

  def draw(
    self, env: Any, state: PyTree, key: Key[Array, ''], count: int
  ) -> tuple[PyTree, PyTree, PyTree]:
    """Levels for some lanes.

    Args:
      env: builds levels, such as `mazes.Maze`.
      state: before.
      key: of this draw.
      count: n.

    Returns:
      The state after; levels, states of the environment [n, ...]; and what
      `update` needs to know of the draw.
    """
    ...

  def update(
    self, state: PyTree, drawn: PyTree, outcome: Outcome
  ) -> tuple[PyTree, Bool[Array, ' n'], dict[str, Array]]:
    """The state after an iteration, lanes to learn from, and metrics."""
    ...


@dataclasses.dataclass(frozen=True)
class PrioritizedLevels:
  """Numbered levels by prioritised replay; uniform draws with `uniform`.

  Attributes:
    replay: which levels; see `levels.Replay`.
    score: of a lane: `levels.value_l1`, `levels.positive_value_loss`.
    start_level: number of the first level.
    uniform: all levels are drawn alike, and the agent learns from all: the
      baseline. Scores are still kept.
  """

  replay: levels.Replay
  score: Any = levels.positive_value_loss
  start_level: int = 0
  uniform: bool = False

  def init(self) -> levels.State:
    """See `Curriculum`."""
    return self.replay.init()

  def draw(
    self, env: Any, state: levels.State, key: Key[Array, ''], count: int
  ) -> tuple[levels.State, PyTree, levels.Drawn]:
    """See `Curriculum`."""
    if self.uniform:
      level = jax.random.randint(key, (count,), 0, self.replay.num_levels)
      drawn = levels.Drawn(level, state.seen[level])
    else:
      state, drawn = self.replay.draw(state, key, count)
    built = jax.vmap(env.build)(self.start_level + drawn.level)
    return state, built, drawn

  def update(
    self, state: levels.State, drawn: levels.Drawn, outcome: Outcome
  ) -> tuple[levels.State, Bool[Array, ' n'], dict[str, Array]]:
    """See `Curriculum`."""
    score = self.score(outcome.advantage, outcome.valid)
    state = self.replay.update(state, drawn, score)
    learns = jnp.ones_like(drawn.replayed)
    if not self.uniform:
      learns = self.replay.learns(drawn)
    return (
      state,
      learns,
      {
        'score': jnp.mean(score),
        'replayed': jnp.mean(drawn.replayed),
        'seen': jnp.mean(state.seen),
      },
    )


@flax.struct.dataclass
class State:
  """All that changes.

  Attributes:
    learner: state of the agent.
    curriculum: state of the curriculum.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  learner: Any
  curriculum: Any


@dataclasses.dataclass(frozen=True)
class Program:
  """PPO in levels that a curriculum chooses; a `programs.Program`.

  Attributes:
    agent: settings of PPO, without memory.
    env: whose levels are played: it has `build` and `restart`.
    curriculum: chooses levels.
    num_lanes: n.
    eval_env: lanes of tests.

  Raises:
    ValueError: if the agent has a memory.
  """

  agent: ppo.PPO
  env: Any
  curriculum: Curriculum
  num_lanes: int
  eval_env: protocol.VectorEnvironment

  def __post_init__(self) -> None:
    if self.agent.core is not None:
      raise ValueError(
        'a curriculum starts lanes anew in each iteration, so its agent must '
        f'have no memory, got {self.agent.core=}'
      )

  @functools.cached_property
  def _lanes(self) -> _LevelLanes:
    return _LevelLanes(self.env, self.num_lanes)

  @functools.cached_property
  def learner(self) -> Any:
    """The agent, fitted to the task."""
    env = self.env
    return self.agent.learner(
      env.observation_space, env.action_space, self.num_lanes
    )

  def init(self, key: Key[Array, '']) -> State:
    """See `programs.Program`."""
    return State(self.learner.init(key), self.curriculum.init())

  def collect(
    self, state: State, key: Key[Array, '']
  ) -> tuple[PyTree, PyTree, learner_lib.Trajectory]:
    """Draws levels and plays them.

    Returns:
      The curriculum's state, what it drew, and the steps.
    """
    draw_key, lanes_key, act_key = jax.random.split(key, 3)
    after, built, drawn = self.curriculum.draw(
      self.env, state.curriculum, draw_key, self.num_lanes
    )
    keys = jax.random.split(lanes_key, self.num_lanes)
    env, observation = self._lanes.begin(built, keys)
    first = jnp.ones(self.num_lanes, bool)
    stage = rollout.Stage(env, observation, first, ())
    _, trajectory = rollout.collect(
      self._lanes,
      self.learner,
      self.learner.acting(state.learner),
      stage,
      act_key,
    )
    return after, drawn, trajectory

  def outcome(
    self, learner: PyTree, trajectory: learner_lib.Trajectory
  ) -> Outcome:
    """How it went, with the values of the agent before it learns."""
    last = self.learner.final(
      self.learner.acting(learner), (), trajectory.last_observation
    )
    found = losses.advantages(
      trajectory.reward,
      trajectory.extras['value'],
      last,
      trajectory.final,
      terminated=trajectory.terminated,
      truncated=trajectory.truncated,
      valid=trajectory.valid,
      discount=self.agent.discount,
      trace=self.agent.trace,
    )
    ended = trajectory.terminated | trajectory.truncated
    count = jnp.sum(ended, 0).astype(jnp.float32)
    total = jnp.sum(trajectory.episode_return * ended, 0)
    mean = total / jnp.maximum(count, 1)
    return Outcome(found.advantages, trajectory.valid, mean, count)

  def step(
    self, state: State, key: Key[Array, '']
  ) -> tuple[State, dict[str, Array]]:
    """See `programs.Program`."""
    play_key, learn_key = jax.random.split(key)
    curriculum, drawn, trajectory = self.collect(state, play_key)
    outcome = self.outcome(state.learner, trajectory)
    curriculum, learns, metrics = self.curriculum.update(
      curriculum, drawn, outcome
    )
    kept = trajectory._replace(valid=trajectory.valid & learns)
    learner, found = self.learner.learn(state.learner, kept, learn_key)
    # Without a gradient, an optimiser with momentum would still move.
    learner = jax.tree.map(
      lambda new, old: jnp.where(learns.any(), new, old), learner, state.learner
    )
    metrics |= {
      'entropy': found['entropy'],
      'episode_return': losses.mean(outcome.episode_return, outcome.episodes),
      programs.STEPS: jnp.sum(trajectory.valid).astype(jnp.float32),
    }
    return State(learner, curriculum), metrics

  def evaluate(self, state: State, key: Key[Array, '']) -> dict[str, Array]:
    """See `programs.Program`."""
    acting = self.learner.acting(state.learner)
    found = evaluation.evaluate(self.eval_env, self.learner, acting, key)
    return {'episode_return': jnp.mean(found.returns)}
