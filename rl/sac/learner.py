"""SAC's acting and learning.

Reference: Haarnoja et al. (2018), arXiv:1812.05905, algorithm 1.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Key, PyTree, Shaped

from rl import learner as learner_lib
from rl.envs import spaces
from rl.replay import buffer, iterate
from rl.sac import distribution, losses, networks
from rl.sac import settings as settings_lib

__all__ = ['Acting', 'Parameters', 'SACLearner', 'SACState']


class Acting(NamedTuple):
  """What acting needs.

  Attributes:
    policy: parameters.
    random: whether actions are still uniform, bool scalar.
  """

  policy: PyTree
  random: Bool[Array, '']


class Parameters(NamedTuple):
  """All that gradients change.

  Attributes:
    policy: of `networks.Policy`.
    critic: of `networks.Critic`.
    log_temperature: log alpha, float32.
  """

  policy: Any
  critic: Any
  log_temperature: Any


@flax.struct.dataclass
class SACState:
  """All that changes.

  Attributes:
    params: `Parameters`.
    target: of the target critics.
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


@dataclasses.dataclass(frozen=True)
class SACLearner:
  """See `learner.Learner`.

  Attributes:
    policy: network.
    critic: networks.
    replay: settings of the replay, of single steps.
    settings: all others.
    num_updates: per iteration.
    observation_space: of a lane.
    action_space: of a lane.
  """

  policy: networks.Policy
  critic: networks.Critic
  replay: buffer.Replay
  settings: settings_lib.Settings
  num_updates: int
  observation_space: spaces.Space
  action_space: spaces.Box

  @property
  def unroll_length(self) -> int:
    """T."""
    return self.settings.unroll_length

  @property
  def target_entropy(self) -> float:
    """Nats, of actions in [-1, 1]."""
    chosen = self.settings.target_entropy
    return -float(self.policy.size) if chosen is None else chosen

  @functools.cached_property
  def _optimizer(self) -> optax.GradientTransformation:
    return optax.adam(self.settings.learning_rate)

  def init(self, key: Key[Array, '']) -> SACState:
    """See `Learner`."""
    space = self.observation_space
    observation = jnp.zeros((1, *space.shape), space.dtype)
    policy_key, critic_key = jax.random.split(key)
    critic = self.critic.init(
      critic_key, observation, jnp.zeros((1, self.policy.size))
    )
    params = Parameters(
      self.policy.init(policy_key, observation),
      critic,
      jnp.log(jnp.float32(self.settings.temperature)),
    )
    # Each its own buffer: one cannot be donated twice.
    none = lambda: jnp.zeros((), jnp.int32)
    return SACState(
      params,
      jax.tree.map(jnp.copy, critic),
      self._optimizer.init(params),
      self.replay.init(space, self.action_space),
      none(),
      none(),
    )

  def params(self, state: SACState) -> Parameters:
    """See `Learner`."""
    return state.params

  def acting(self, state: SACState) -> Acting:
    """See `Learner`."""
    random = state.steps < self.settings.random_steps
    return Acting(state.params.policy, random)

  def initial_memory(self, num_lanes: int) -> PyTree:
    """None."""
    del num_lanes
    return ()

  def act(
    self,
    acting: Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> learner_lib.Action:
    """Draws from the policy, or uniformly at first; see `Learner`."""
    del first
    draw_key, random_key = jax.random.split(key)
    drawn = distribution.sample(
      draw_key, *self.policy.apply(acting.policy, observation)
    ).action
    anything = jax.random.uniform(random_key, drawn.shape, minval=-1.0)
    unit = jnp.where(acting.random, anything, drawn)
    action = distribution.to_box(self.action_space, unit)
    return learner_lib.Action(memory, action, ())

  def greedy(
    self,
    acting: Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> learner_lib.Action:
    """The squashed mean; see `Learner`."""
    del first, key
    mean, _ = self.policy.apply(acting.policy, observation)
    action = distribution.to_box(self.action_space, jnp.tanh(mean))
    return learner_lib.Action(memory, action, ())

  def final(
    self, acting: Acting, memory: PyTree, observation: Shaped[Array, 'n ...']
  ) -> PyTree:
    """Nothing: truncated steps are not learnt from."""
    del acting, memory, observation
    return ()

  def learn(
    self,
    state: SACState,
    trajectory: learner_lib.Trajectory,
    key: Key[Array, ''],
  ) -> tuple[SACState, dict[str, Array]]:
    """Inserts, then makes the updates due, once there is enough to sample.

    Args:
      state: before.
      trajectory: the next steps.
      key: for this iteration only.

    Returns:
      The state after and the means over the updates; zeros before the first.
    """
    rewards = trajectory.reward * self.settings.reward_scale
    replay = self.replay.insert(
      state.replay, trajectory._replace(reward=rewards)
    )
    steps = state.steps + rewards.size
    state = state.replace(replay=replay, steps=steps)
    state, metrics = iterate.updates(
      self._update,
      state,
      key,
      count=self.num_updates,
      min_size=self.settings.min_replay,
    )
    return state, {
      **metrics,
      'replay_size': state.replay.size.astype(jnp.float32),
      'updates': state.updates.astype(jnp.float32),
    }

  def _update(
    self, state: SACState, key: Key[Array, '']
  ) -> tuple[SACState, dict[str, Array]]:
    """One batch; every loss is taken at the parameters before."""
    sample_key, loss_key = jax.random.split(key)
    batch = self.replay.sample(
      state.replay, sample_key, self.settings.batch_size
    )
    loss = functools.partial(self._loss, state.target, batch, loss_key)
    grads, metrics = jax.grad(loss, has_aux=True)(state.params)
    change, opt_state = self._optimizer.update(
      grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, change)
    state = state.replace(
      params=params,
      target=optax.incremental_update(
        params.critic, state.target, self.settings.tau
      ),
      opt_state=opt_state,
      updates=state.updates + 1,
    )
    return state, metrics

  def _loss(
    self,
    target: PyTree,
    batch: buffer.Batch,
    key: Key[Array, ''],
    params: Parameters,
  ) -> tuple[Array, dict[str, Array]]:
    """The three losses; each has gradients in its own parameters only."""
    fixed = jax.lax.stop_gradient(params)
    temperature = jnp.exp(fixed.log_temperature)
    next_key, now_key = jax.random.split(key)
    after = distribution.sample(
      next_key, *self.policy.apply(fixed.policy, batch.next_observation)
    )
    goal = losses.target(
      self.critic.apply(target, batch.next_observation, after.action),
      after.log_prob,
      temperature=temperature,
      reward=batch.reward,
      discount=batch.discount,
    )
    action = distribution.to_unit(self.action_space, batch.action)
    values = self.critic.apply(params.critic, batch.observation, action)
    now = distribution.sample(
      now_key, *self.policy.apply(params.policy, batch.observation)
    )
    judged = self.critic.apply(fixed.critic, batch.observation, now.action)
    parts = {
      'critic_loss': losses.critic_loss(values, goal),
      'policy_loss': losses.policy_loss(judged, now.log_prob, temperature),
      'temperature_loss': losses.temperature_loss(
        params.log_temperature, now.log_prob, self.target_entropy
      ),
    }
    loss = sum(parts.values())
    metrics = {
      **parts,
      'loss': loss,
      'q': values.mean(),
      'entropy': -now.log_prob.mean(),
      'temperature': temperature,
    }
    return loss, metrics
