"""Agents of `rl` as inner loops: PPO, or any algorithm whose settings are floats."""

import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hpo.autorl import inner
from rl import evaluation, ranges, rollout
from rl import learner as learner_lib
from rl.envs import checks, protocol

__all__ = ['HORIZON', 'Agent', 'AgentState']

# 1 / (1 - discount): a discount on the scale on which it matters.
HORIZON = 'horizon'


@flax.struct.dataclass
class AgentState:
  """All that changes.

  Attributes:
    learner: state of the algorithm.
    stage: the lanes.
    score: mean return of the last episodes, float32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  learner: Any
  stage: Any
  score: Any


@dataclasses.dataclass(frozen=True)
class Agent:
  """An agent of `rl` in JAX environments; an `inner.Inner`.

  A setting is a field of the algorithm, whose value at each update is the one in
  zeta, or 'horizon', which sets the discount to 1 - 1 / horizon. The score is the
  mean return of the episodes that ended in an update; of the last update in which
  one did, where none ends; of the running episodes, where none has ended yet. It
  is NaN where a metric of the learner is not finite.

  Attributes:
    algorithm: values of all settings that zeta does not have.
    env: the lanes to learn in; they reset themselves.
    judge: the lanes of tests.
    iterations: of acting and learning, in one update.

  Raises:
    ValueError: the environments are not in JAX or do not reset themselves, or
      the number is not positive.
  """

  algorithm: learner_lib.Algorithm
  env: protocol.VectorEnvironment
  judge: protocol.VectorEnvironment
  iterations: int = 1

  def __post_init__(self) -> None:
    ranges.check_counts(iterations=self.iterations)
    for env in (self.env, self.judge):
      checks.check_resets(env)
      if not env.pure:
        raise ValueError(f'an agent is tuned in JAX environments, got {env}')

  @functools.cached_property
  def _learner(self) -> learner_lib.Learner:
    return self._fitted(self.algorithm)

  def _fitted(self, algorithm: learner_lib.Algorithm) -> learner_lib.Learner:
    env = self.env
    return algorithm.learner(
      env.observation_space, env.action_space, env.num_lanes
    )

  @property
  def steps(self) -> int:
    """See `inner.Inner`."""
    return self.iterations * self._learner.unroll_length * self.env.num_lanes

  def init(self, key: Key[Array, '']) -> AgentState:
    """See `inner.Inner`."""
    first, second = jax.random.split(key)
    return AgentState(
      self._learner.init(first),
      rollout.start(self.env, self._learner, second),
      jnp.float32(0),
    )

  def with_settings(self, zeta: inner.Zeta) -> learner_lib.Learner:
    """The learner with some settings.

    Raises:
      ValueError: a name is not that of a setting, or of one that is a schedule.
    """
    known = {field.name for field in dataclasses.fields(self.algorithm)}
    unknown = sorted(set(zeta) - known - {HORIZON})
    if unknown or {'discount', HORIZON} <= set(zeta):
      raise ValueError(
        f'settings must be fields of {type(self.algorithm).__name__}, or '
        f'{HORIZON!r} in the place of the discount; got {sorted(zeta)}, '
        f'{unknown=}'
      )
    schedules = [n for n in zeta if callable(getattr(self.algorithm, n, None))]
    if schedules:
      raise ValueError(
        f'a setting that is tuned has one value, but {schedules} are schedules'
      )
    changes = dict(zeta)
    if HORIZON in changes:
      changes['discount'] = 1 - 1 / changes.pop(HORIZON)
    return self._fitted(dataclasses.replace(self.algorithm, **changes))

  def update(
    self, state: AgentState, zeta: inner.Zeta, key: Key[Array, '']
  ) -> inner.Update:
    """See `inner.Inner`."""
    learner = self.with_settings(zeta)

    def iterate(carry: tuple, key: Key[Array, '']) -> tuple[tuple, tuple]:
      agent, stage = carry
      first, second = jax.random.split(key)
      stage, seen = rollout.collect(
        self.env, learner, learner.acting(agent), stage, first
      )
      agent, values = learner.learn(agent, seen, second)
      return (agent, stage), (values, *_ended(seen))

    start = (state.learner, state.stage)
    keys = jax.random.split(key, self.iterations)
    (agent, stage), (values, total, count) = jax.lax.scan(iterate, start, keys)
    values = jax.tree.map(jnp.mean, values)
    score = self._score(state, stage, total.sum(), count.sum())
    sound = jnp.isfinite(jnp.stack([*values.values()])).all()
    score = jnp.where(sound, score, jnp.nan)
    return inner.Update(AgentState(agent, stage, score), score, values)

  def _score(
    self, state: AgentState, stage: rollout.Stage, total: Array, count: Array
  ) -> Float[Array, '']:
    stats = stage.env.stats
    kept = jnp.where(
      (stats.episodes > 0).any(), state.score, stats.running_return.mean()
    )
    return jnp.where(count > 0, total / jnp.maximum(count, 1), kept)

  def evaluate(
    self, state: AgentState, key: Key[Array, '']
  ) -> Float[Array, '']:
    """See `inner.Inner`: mean return of an episode in each lane of `judge`."""
    acting = self._learner.acting(state.learner)
    found = evaluation.evaluate(self.judge, self._learner, acting, key)
    return found.returns.mean()


def _ended(seen: learner_lib.Trajectory) -> tuple[Array, Array]:
  """Sum of the returns of episodes that ended, and their number."""
  ended = (seen.terminated | seen.truncated) & seen.valid
  return jnp.where(ended, seen.episode_return, 0).sum(), ended.sum()
