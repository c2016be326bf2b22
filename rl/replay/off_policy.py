"""The common part of agents that learn from a replay.

Such an agent is two classes in one file: its settings, a `Settings` with a
method `learner`, and a `Learner` with its networks, how it acts, and its loss.
"""

import abc
import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree, Shaped

from rl import learner as learner_lib
from rl import ranges
from rl.envs import spaces
from rl.replay import buffer

__all__ = ['Learner', 'Settings', 'State']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The settings that every agent with a replay has.

  `discount` and `learning_rate` may be traced values, as where populations vary them.

  Attributes:
    encoder: [n, ...] -> [n, features]; None: the flat observation.
    discount: per step.
    reward_scale: factor on rewards.
    reward_clip: bound on the absolute value of scaled rewards; None: none.
    capacity: of the replay, steps of all lanes; rounded down to iterations.
    min_replay: steps that can be sampled before learning starts.
    batch_size: samples per update.
    learning_rate: of Adam.
    adam_eps: its epsilon, in the unit of a gradient.
    max_grad_norm: bound on the global norm of a gradient; None: none.
    unroll_length: T, steps per lane and iteration.

  Raises:
    ValueError: if a number is out of range.
  """

  encoder: nn.Module | None = None
  discount: ranges.Real = 0.99
  reward_scale: float = 1.0
  reward_clip: float | None = None
  capacity: int = 100_000
  min_replay: int = 1000
  batch_size: int = 256
  learning_rate: ranges.Real = 3e-4
  adam_eps: float = 1e-8
  max_grad_norm: float | None = None
  unroll_length: int = 1

  def __post_init__(self) -> None:
    ranges.check_counts(
      capacity=self.capacity,
      min_replay=self.min_replay,
      batch_size=self.batch_size,
      unroll_length=self.unroll_length,
    )
    ranges.check_positive(
      reward_clip=self.reward_clip, max_grad_norm=self.max_grad_norm
    )
    ranges.check_not_negative(
      learning_rate=self.learning_rate, adam_eps=self.adam_eps
    )
    ranges.check_shares(discount=self.discount)

  def fit(
    self,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    num_lanes: int,
    *,
    updates: float,
    knobs: str,
    **replay: Any,
  ) -> dict[str, Any]:
    """The fields of a `Learner` that do not depend on the agent.

    Args:
      observation_space: of a lane.
      action_space: of a lane.
      num_lanes: n.
      updates: per iteration.
      knobs: the settings that `updates` comes from, for the error message.
      **replay: further settings of `buffer.Replay`.

    Raises:
      ValueError: if the replay cannot hold an iteration, `min_replay` is more
        than half of it, or `updates` is no positive whole number.
    """
    length = self.capacity // (num_lanes * self.unroll_length)
    if length < 1:
      raise ValueError(
        'capacity must be at least num_lanes * unroll_length, got '
        f'{self.capacity=} {num_lanes=} {self.unroll_length=}'
      )
    length *= self.unroll_length
    # The newest steps, and truncated ones, cannot be sampled.
    if 2 * self.min_replay > length * num_lanes:
      raise ValueError(
        'min_replay must be at most half of the replay, got '
        f'{self.min_replay=} and room for {length * num_lanes}'
      )
    if updates < 1 or updates != round(updates):
      raise ValueError(
        f'num_lanes * unroll_length * {knobs}, the updates per iteration, must '
        f'be a positive whole number, got {updates} for {num_lanes=} and '
        f'{self.unroll_length=}'
      )
    return {
      'settings': self,
      'replay': buffer.Replay(
        length,
        num_lanes,
        self.unroll_length,
        discount=self.discount,
        **replay,
      ),
      'num_updates': round(updates),
      'observation_space': observation_space,
      'action_space': action_space,
    }


@flax.struct.dataclass
class State:
  """All that changes.

  Attributes:
    params: trained parameters.
    target: of the target network.
    opt_state: of the optimiser.
    replay: `buffer.ReplayState`.
    updates: so far, int32.
    steps: of all lanes together, int32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  params: Any
  target: Any
  opt_state: Any
  replay: Any
  updates: Any
  steps: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner(abc.ABC):
  """A `learner.Learner` without `acting`, `act` and `greedy`, which agents add.

  Attributes:
    settings: of the agent.
    replay: settings of the replay.
    num_updates: per iteration.
    observation_space: of a lane.
    action_space: of a lane.
  """

  settings: Any
  replay: buffer.Replay
  num_updates: int
  observation_space: spaces.Space
  action_space: spaces.Space

  @abc.abstractmethod
  def first_params(
    self, key: Key[Array, ''], observation: Shaped[Array, '1 ...']
  ) -> PyTree:
    """Draws the first parameters."""

  @abc.abstractmethod
  def judge(self, params: PyTree) -> PyTree:
    """The part of the parameters that the target network follows."""

  @abc.abstractmethod
  def follow(
    self, judge: PyTree, target: PyTree, updates: Shaped[Array, '']
  ) -> PyTree:
    """The target after an update.

    Args:
      judge: of the parameters after it.
      target: before it.
      updates: so far, this one included.
    """

  @abc.abstractmethod
  def loss(
    self,
    params: PyTree,
    state: State,
    batch: buffer.Batch,
    key: Key[Array, ''],
  ) -> tuple[Array, tuple[Array | None, dict[str, Array]]]:
    """The loss of a batch.

    Args:
      params: parameters to differentiate by.
      state: before the update, without what the replay stores.
      batch: sampled steps.
      key: for this batch.

    Returns:
      A scalar, and beside it the priorities of the steps (None: they stay as
      they are) and metrics.
    """

  @property
  def unroll_length(self) -> int:
    """T."""
    return self.settings.unroll_length

  @functools.cached_property
  def _optimizer(self) -> optax.GradientTransformation:
    chosen = self.settings
    adam = optax.adam(chosen.learning_rate, eps=chosen.adam_eps)
    if chosen.max_grad_norm is None:
      return adam
    return optax.chain(optax.clip_by_global_norm(chosen.max_grad_norm), adam)

  def init(self, key: Key[Array, '']) -> State:
    """See `learner.Learner`."""
    space = self.observation_space
    params = self.first_params(key, jnp.zeros((1, *space.shape), space.dtype))
    # Each its own buffer: one cannot be donated twice.
    none = lambda: jnp.zeros((), jnp.int32)
    return State(
      params,
      jax.tree.map(jnp.copy, self.judge(params)),
      self._optimizer.init(params),
      self.replay.init(space, self.action_space),
      none(),
      none(),
    )

  def params(self, state: State) -> PyTree:
    """See `learner.Learner`."""
    return state.params

  def initial_memory(self, num_lanes: int) -> PyTree:
    """None."""
    del num_lanes
    return ()

  def final(
    self, acting: PyTree, memory: PyTree, observation: Shaped[Array, 'n ...']
  ) -> PyTree:
    """Nothing: windows end before a truncated step."""
    del acting, memory, observation
    return ()

  def learn(
    self, state: State, trajectory: learner_lib.Trajectory, key: Key[Array, '']
  ) -> tuple[State, dict[str, Array]]:
    """Inserts, then makes the updates due, once there is enough to sample.

    Args:
      state: before.
      trajectory: the next steps.
      key: for this iteration only.

    Returns:
      The state after and the means over the updates; zeros before the first.
    """
    rewards = self._rewards(trajectory.reward)
    replay = self.replay.insert(
      state.replay, trajectory._replace(reward=rewards)
    )
    steps = state.steps + rewards.size
    state = state.replace(replay=replay, steps=steps)
    state, metrics = self._updates(state, key)
    return state, {
      **metrics,
      'replay_size': state.replay.size.astype(jnp.float32),
      'updates': state.updates.astype(jnp.float32),
    }

  def _rewards(self, reward: Float[Array, 'T n']) -> Float[Array, 'T n']:
    reward = reward * self.settings.reward_scale
    bound = self.settings.reward_clip
    return reward if bound is None else jnp.clip(reward, -bound, bound)

  def _updates(
    self, state: State, key: Key[Array, '']
  ) -> tuple[State, dict[str, Array]]:
    """All updates of an iteration, if there is enough to sample."""
    # The replay stays outside of the branches, which would copy it.
    stored = state.replay.steps

    def hold(state: State, steps: Any) -> State:
      return state.replace(replay=state.replay.replace(steps=steps))

    def step(bare: State, key: Key[Array, '']) -> tuple[State, dict]:
      after, metrics = self._update(hold(bare, stored), key)
      return hold(after, None), metrics

    def run(bare: State) -> tuple[State, dict]:
      keys = jax.random.split(key, self.num_updates)
      bare, metrics = jax.lax.scan(step, bare, keys)
      return bare, jax.tree.map(jnp.mean, metrics)

    bare = hold(state, None)
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, bare)[1]
    )
    ready = state.replay.size >= self.settings.min_replay
    bare, metrics = jax.lax.cond(ready, run, lambda s: (s, zeros), bare)
    return hold(bare, stored), metrics

  def _update(
    self, state: State, key: Key[Array, '']
  ) -> tuple[State, dict[str, Array]]:
    """One batch; the loss is taken at the parameters before."""
    sample_key, loss_key = jax.random.split(key)
    batch = self.replay.sample(
      state.replay, sample_key, self.settings.batch_size
    )
    grads, (priority, metrics) = jax.grad(self.loss, has_aux=True)(
      state.params, state, batch, loss_key
    )
    change, opt_state = self._optimizer.update(
      grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, change)
    updates, replay = state.updates + 1, state.replay
    if priority is not None:
      replay = self.replay.update(replay, batch.index, priority)
    state = state.replace(
      params=params,
      target=self.follow(self.judge(params), state.target, updates),
      opt_state=opt_state,
      replay=replay,
      updates=updates,
    )
    return state, {**metrics, 'grad_norm': optax.tree.norm(grads)}
