"""PPO's acting and learning.

Reference: Schulman et al. (2017), arXiv:1707.06347, algorithm 1.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from jax import flatten_util
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from rl import learner as learner_lib
from rl import normalizer
from rl.envs import spaces
from rl.ppo import advantages, losses, masked, networks, rewards, shuffle
from rl.ppo import settings as settings_lib

__all__ = ['Acting', 'PPOLearner', 'PPOState']


class Acting(NamedTuple):
  """What acting needs.

  Attributes:
    params: of the network.
    observations: statistics; () if they are not normalised.
  """

  params: PyTree
  observations: PyTree


@flax.struct.dataclass
class PPOState:
  """All that changes.

  Attributes:
    params: of the network.
    opt_state: of the optimiser, on the parameters as one vector.
    observations: `normalizer.Statistics`; () if they are not normalised.
    rewards: `rewards.RewardState`; () if they are not normalised.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  params: Any
  opt_state: Any
  observations: Any
  rewards: Any


class _Steps(NamedTuple):
  """What gradients are taken of: s steps, or all steps of some lanes.

  The last axis of `numbers`: see `_Numbers`.
  """

  memory: PyTree
  observation: Any
  first: Any
  action: Any
  numbers: Any


class _Numbers(NamedTuple):
  """Numbers of a step, kept in one array to be moved about as one."""

  log_prob: Any
  value: Any
  advantage: Any
  target: Any
  weight: Any


@dataclasses.dataclass(frozen=True)
class PPOLearner:
  """See `learner.Learner`.

  Attributes:
    network: policy and values.
    settings: all others.
    observation_space: of a lane.
    action_space: of a lane.
    num_lanes: n.
  """

  network: networks.ActorCritic
  settings: settings_lib.Settings
  observation_space: spaces.Space
  action_space: spaces.Space
  num_lanes: int

  @property
  def unroll_length(self) -> int:
    """T."""
    return self.settings.unroll_length

  @functools.cached_property
  def _optimizer(self) -> optax.GradientTransformation:
    chosen = self.settings
    return optax.chain(
      optax.clip_by_global_norm(chosen.max_grad_norm),
      optax.adam(chosen.learning_rate, eps=chosen.adam_eps),
    )

  def init(self, key: Key[Array, '']) -> PPOState:
    """See `Learner`."""
    space, chosen = self.observation_space, self.settings
    params = self.network.init(
      key,
      self.initial_memory(1),
      jnp.zeros((1, 1, *space.shape), space.dtype),
      jnp.ones((1, 1), bool),
    )
    vector, _ = flatten_util.ravel_pytree(params)
    seen = normalizer.empty(space.shape)
    return PPOState(
      params,
      self._optimizer.init(vector),
      seen if chosen.normalize_observations else (),
      rewards.init(self.num_lanes) if chosen.normalize_rewards else (),
    )

  def params(self, state: PPOState) -> PyTree:
    """See `Learner`."""
    return state.params

  def acting(self, state: PPOState) -> Acting:
    """See `Learner`."""
    return Acting(state.params, state.observations)

  def initial_memory(self, num_lanes: int) -> PyTree:
    """See `Learner`."""
    return self.network.initial_memory(num_lanes)

  def _seen(
    self, statistics: PyTree, observation: Shaped[Array, '...']
  ) -> Shaped[Array, '...']:
    """What the network sees of observations."""
    if not self.settings.normalize_observations:
      return observation
    return normalizer.normalize(
      statistics, observation, clip=self.settings.observation_clip
    )

  def _apply(
    self,
    acting: Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
  ) -> networks.Outputs:
    """The network at one step."""
    seen = self._seen(acting.observations, observation)
    out = self.network.apply(acting.params, memory, seen[None], first[None])
    policy, value = jax.tree.map(lambda x: x[0], (out.policy, out.value))
    return networks.Outputs(out.memory, policy, value[None])

  def act(
    self,
    acting: Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> learner_lib.Action:
    """Draws from the policy; see `Learner`."""
    out = self._apply(acting, memory, observation, first)
    return self._action(out, out.policy.sample(key))

  def greedy(
    self,
    acting: Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> learner_lib.Action:
    """Draws too, or takes the mode, as the settings say; see `Learner`."""
    out = self._apply(acting, memory, observation, first)
    policy = out.policy
    drawn = policy.mode() if self.settings.greedy else policy.sample(key)
    return self._action(out, drawn)

  def _action(
    self, out: networks.Outputs, drawn: Shaped[Array, 'n ...']
  ) -> learner_lib.Action:
    """The action, and what it was chosen by."""
    extras = {'log_prob': out.policy.log_prob(drawn), 'value': out.value[0]}
    if isinstance(self.action_space, spaces.Discrete):
      return learner_lib.Action(out.memory, drawn, extras)
    # Learning needs what was drawn, not what the bounds left of it.
    action = _to_box(self.action_space, drawn)
    return learner_lib.Action(out.memory, action, {**extras, 'drawn': drawn})

  def final(
    self, acting: Acting, memory: PyTree, observation: Shaped[Array, 'n ...']
  ) -> Float[Array, ' n']:
    """Values, [n]; see `Learner`."""
    first = jnp.zeros(observation.shape[0], bool)
    return self._apply(acting, memory, observation, first).value[0]

  def learn(
    self,
    state: PPOState,
    trajectory: learner_lib.Trajectory,
    key: Key[Array, ''],
  ) -> tuple[PPOState, dict[str, Array]]:
    """Several epochs of minibatches of these steps.

    Args:
      state: before.
      trajectory: T steps of n lanes.
      key: for this iteration only.

    Returns:
      The state after; and means over the updates of the terms of the loss, the
      KL divergence from the policy that acted, the share of steps outside the
      clip range and the norm of the gradient before clipping, and the variance
      of the targets that the values explained before the updates.
    """
    state, estimates = self._estimate(state, trajectory)
    valid = trajectory.valid.astype(jnp.float32)
    numbers = _Numbers(
      trajectory.extras['log_prob'],
      trajectory.extras['value'],
      estimates.advantages,
      estimates.targets,
      valid,
    )
    steps = _Steps(
      trajectory.memory,
      self._seen(state.observations, trajectory.observation),
      trajectory.first,
      trajectory.extras.get('drawn', trajectory.action),
      jnp.stack(numbers, -1),
    )
    explained = losses.explained_variance(numbers.value, numbers.target, valid)
    params, opt_state, metrics = self._updates(state, steps, key)
    if self.settings.normalize_observations:
      new = masked.statistics(trajectory.observation, valid)
      state = state.replace(
        observations=normalizer.merge(state.observations, new)
      )
    state = state.replace(params=params, opt_state=opt_state)
    return state, {**metrics, 'explained_variance': explained}

  def _estimate(
    self, state: PPOState, trajectory: learner_lib.Trajectory
  ) -> tuple[PPOState, advantages.Estimates]:
    """Advantages and targets, of scaled rewards."""
    chosen = self.settings
    reward = trajectory.reward
    if chosen.normalize_rewards:
      discount = chosen.reward_discount
      scales, reward = rewards.scale(
        state.rewards,
        reward,
        first=trajectory.first[0],
        ended=trajectory.terminated | trajectory.truncated,
        valid=trajectory.valid,
        discount=chosen.discount if discount is None else discount,
        clip=chosen.reward_clip,
      )
      state = state.replace(rewards=scales)
    last = self._apply(
      self.acting(state),
      trajectory.last_memory,
      trajectory.last_observation,
      trajectory.last_first,
    )
    return state, advantages.estimate(
      reward,
      trajectory.extras['value'],
      last.value[0],
      trajectory.final,
      terminated=trajectory.terminated,
      truncated=trajectory.truncated,
      valid=trajectory.valid,
      discount=chosen.discount,
      trace=chosen.trace,
    )

  def _updates(
    self, state: PPOState, steps: _Steps, key: Key[Array, '']
  ) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """Parameters, optimiser and metrics after all minibatches."""
    if self.settings.core is None:
      # One row of all steps: any of them may stand beside any other.
      flat = lambda x: x.reshape(1, -1, *x.shape[2:])
      steps = jax.tree.map(flat, steps._replace(memory=()))
    indices = self._indices(key, steps.first.shape[1])
    numbers = jnp.moveaxis(steps.numbers[:, indices], 1, 0)
    if self.settings.normalize_advantages:
      numbers = jax.vmap(_standardized)(numbers)

    def update(carry: tuple, batch: tuple) -> tuple[tuple, dict[str, Array]]:
      params, opt_state = carry
      chosen, numbers = batch
      some = _Steps(
        jax.tree.map(lambda x: x[chosen], steps.memory),
        steps.observation[:, chosen],
        steps.first[:, chosen],
        steps.action[:, chosen],
        numbers,
      )
      # Else the gathering is fused into each layer that reads it, and repeated.
      some = jax.lax.optimization_barrier(some)
      grads, metrics = jax.grad(self._loss, has_aux=True)(params, some)
      # As one vector: the optimiser's price is the number of its operations.
      vector, unravel = flatten_util.ravel_pytree(grads)
      change, opt_state = self._optimizer.update(vector, opt_state)
      params = optax.apply_updates(params, unravel(change))
      norm = optax.tree.norm(vector)
      return (params, opt_state), {**metrics, 'grad_norm': norm}

    carry = (state.params, state.opt_state)
    carry, metrics = jax.lax.scan(update, carry, (indices, numbers))
    return *carry, jax.tree.map(jnp.mean, metrics)

  def _indices(self, key: Key[Array, ''], count: int) -> Array:
    """Of the members of every minibatch, [updates, count // minibatches]."""
    order = shuffle.permutations(key, self.settings.num_epochs, count)
    return order.reshape(-1, count // self.settings.num_minibatches)

  def _loss(
    self, params: PyTree, steps: _Steps
  ) -> tuple[Float[Array, ''], dict[str, Array]]:
    chosen = self.settings
    old = _split(steps.numbers)
    out = self.network.apply(
      params, steps.memory, steps.observation, steps.first
    )
    log_ratio = out.policy.log_prob(steps.action) - old.log_prob
    terms = {
      'policy_loss': losses.policy_loss(
        log_ratio, old.advantage, chosen.clip_ratio
      ),
      'value_loss': losses.value_loss(
        out.value, old.value, old.target, chosen.value_clip
      ),
      'entropy': out.policy.entropy(),
      'kl': losses.kl(log_ratio),
      'clip_fraction': losses.outside(log_ratio, chosen.clip_ratio),
    }
    means = {name: masked.mean(x, old.weight) for name, x in terms.items()}
    loss = (
      means['policy_loss']
      + chosen.value_cost * means['value_loss']
      - chosen.entropy_cost * means['entropy']
    )
    return loss, means


def _split(numbers: Float[Array, '... 5']) -> _Numbers:
  return _Numbers(*(numbers[..., i] for i in range(len(_Numbers._fields))))


def _standardized(numbers: Float[Array, '... 5']) -> Float[Array, '... 5']:
  """With advantages of mean 0 and deviation 1."""
  old = _split(numbers)
  scaled = masked.standardize(old.advantage, old.weight)
  return jnp.stack(old._replace(advantage=scaled), -1)


def _to_box(
  box: spaces.Box, drawn: Float[Array, 'n d']
) -> Float[Array, 'n ...']:
  """Within the bounds; [-1, 1] spans a bounded box."""
  low, high = box.bounds
  action = drawn.reshape(-1, *box.shape)
  if box.bounded:
    action = low + (jnp.clip(action, -1, 1) + 1) / 2 * (high - low)
  return jnp.clip(action, low, high).astype(box.dtype)
