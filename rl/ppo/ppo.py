"""PPO: its settings, acting and learning.

Reference: Schulman et al. (2017), arXiv:1707.06347, algorithm 1.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import flatten_util
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from rl import distributions, normalizer, ranges, reward_scale, shuffle
from rl import learner as learner_lib
from rl import networks as networks_lib
from rl.envs import spaces
from rl.ppo import losses, networks

__all__ = ['PPO', 'Acting', 'PPOLearner', 'PPOState']


@dataclasses.dataclass(frozen=True)
class PPO:
  """Clipped surrogate, clipped values, TD(lambda) targets.

  The defaults are those published for Procgen with 64 lanes. Numbers may be traced
  arrays, which serve agents with different settings in one program.

  Attributes:
    encoder: [n, ...] -> [n, features]; None: the flat observation.
    core: makes the agent recurrent; minibatches then are whole lanes.
    separate: whether policy and values have encoders of their own.
    policy_init: of the last kernel of the policy.
    value_init: of the last kernel of the values.
    log_std: of continuous actions at first, in half widths of a bounded box,
      else in units of the action.
    unroll_length: T, steps per lane and iteration.
    num_minibatches: per epoch; they share out the steps, or the lanes.
    num_epochs: passes over the steps of an iteration.
    learning_rate: of Adam; or a schedule over its updates, of which an
      iteration has `num_minibatches * num_epochs`.
    adam_eps: added to the root of the second moment.
    max_grad_norm: of the gradient of all parameters together.
    clip_ratio: epsilon of the surrogate.
    value_clip: largest change of a value that is rewarded; None: any.
    value_cost: factor on the squared error of the values.
    entropy_cost: factor on the entropy, nats.
    discount: per step.
    trace: lambda of advantages and targets.
    normalize_advantages: to mean 0 and deviation 1, per minibatch.
    normalize_rewards: by the deviation of discounted returns.
    reward_discount: of these returns; None: `discount`.
    reward_clip: largest reward after that.
    normalize_observations: to mean 0 and deviation 1 of all seen so far, those
      of the running iteration apart.
    observation_clip: largest observation after that.
    greedy: whether evaluation takes the most probable action; it draws
      otherwise.

  Raises:
    ValueError: if a number is out of range, or nothing reads
      `reward_discount`.

  Reference: arXiv:2106.02229, the code of its authors
    (google/brain_autorl, rl_darts/algorithms/ppo).
  """

  encoder: nn.Module | None = None
  core: networks_lib.GRU | None = None
  separate: bool = False
  policy_init: nn.initializers.Initializer = networks_lib.SMALL
  value_init: nn.initializers.Initializer = networks.SMALL_UNIFORM
  log_std: float = 0.0
  unroll_length: int = 1024
  num_minibatches: int = 32
  num_epochs: int = 2
  learning_rate: ranges.Real | optax.Schedule = 5e-4
  adam_eps: ranges.Real = 1e-5
  max_grad_norm: ranges.Real = 0.5
  clip_ratio: ranges.Real = 0.2
  value_clip: ranges.Real | None = 0.2
  value_cost: ranges.Real = 0.5
  entropy_cost: ranges.Real = 0.01
  discount: ranges.Real = 0.999
  trace: ranges.Real = 0.95
  normalize_advantages: bool = True
  normalize_rewards: bool = True
  reward_discount: ranges.Real | None = None
  reward_clip: ranges.Real = 10.0
  normalize_observations: bool = False
  observation_clip: float = 10.0
  greedy: bool = False

  def __post_init__(self) -> None:
    ranges.check_counts(
      unroll_length=self.unroll_length,
      num_minibatches=self.num_minibatches,
      num_epochs=self.num_epochs,
    )
    ranges.check_positive(
      max_grad_norm=self.max_grad_norm,
      clip_ratio=self.clip_ratio,
      value_clip=self.value_clip,
      reward_clip=self.reward_clip,
      observation_clip=self.observation_clip,
    )
    ranges.check_not_negative(
      learning_rate=self.learning_rate,
      adam_eps=self.adam_eps,
      value_cost=self.value_cost,
      entropy_cost=self.entropy_cost,
    )
    ranges.check_shares(
      discount=self.discount,
      trace=self.trace,
      reward_discount=self.reward_discount,
    )
    if self.reward_discount is not None and not self.normalize_rewards:
      raise ValueError(
        'reward_discount is read only with normalize_rewards, got '
        f'{self.reward_discount=} {self.normalize_rewards=}'
      )

  def learner(
    self,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    num_lanes: int,
  ) -> 'PPOLearner':
    """See `learner.Algorithm`.

    Raises:
      ValueError: if continuous actions are not floats, observations to be
        normalised are not, or minibatches do not share out what there is.
    """
    floats = lambda space: jnp.issubdtype(space.dtype, jnp.floating)
    discrete = isinstance(action_space, spaces.Discrete)
    if not discrete and not floats(action_space):
      raise ValueError(
        f'PPO needs discrete actions or a box of floats, got {action_space}'
      )
    if self.normalize_observations and not floats(observation_space):
      raise ValueError(
        'normalize_observations needs observations of floats, got '
        f'{observation_space}'
      )
    self._check_minibatches(num_lanes)
    size = action_space.n if discrete else math.prod(action_space.shape)
    network = networks.ActorCritic(
      size,
      discrete,
      self.encoder,
      self.core,
      self.separate,
      self.policy_init,
      self.value_init,
      self.log_std,
    )
    return PPOLearner(network, self, observation_space, action_space, num_lanes)

  def _check_minibatches(self, num_lanes: int) -> None:
    units = num_lanes * (1 if self.core is not None else self.unroll_length)
    what = 'lanes, as the agent is recurrent,' if self.core else 'steps'
    if units % self.num_minibatches:
      raise ValueError(
        f'num_minibatches must divide the {what} of an iteration, got '
        f'{self.num_minibatches=} for {units} {num_lanes=}'
      )
    steps = num_lanes * self.unroll_length // self.num_minibatches
    if self.normalize_advantages and steps < 2:
      raise ValueError(
        'normalize_advantages needs minibatches of two steps or more, got '
        f'{self.num_minibatches=} for {num_lanes=} {self.unroll_length=}'
      )


class Acting(NamedTuple):
  """The part of the state that acting needs.

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
    rewards: `reward_scale.RewardState`; () if they are not normalised.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  params: Any
  opt_state: Any
  observations: Any
  rewards: Any


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
  settings: PPO
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
    """See `learner.Learner`."""
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
      reward_scale.init(self.num_lanes) if chosen.normalize_rewards else (),
    )

  def params(self, state: PPOState) -> PyTree:
    """See `learner.Learner`."""
    return state.params

  def acting(self, state: PPOState) -> Acting:
    """See `learner.Learner`."""
    return Acting(state.params, state.observations)

  def initial_memory(self, num_lanes: int) -> PyTree:
    """See `learner.Learner`."""
    return self.network.initial_memory(num_lanes)

  def _seen(
    self, statistics: PyTree, observation: Shaped[Array, '...']
  ) -> Shaped[Array, '...']:
    """Observations as the network sees them."""
    if not self.settings.normalize_observations:
      return observation
    clip = self.settings.observation_clip
    return normalizer.normalize(statistics, observation, clip=clip)

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
    """Draws from the policy; see `learner.Learner`."""
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
    """Draws, or takes the mode, as set; see `learner.Learner`."""
    out = self._apply(acting, memory, observation, first)
    policy = out.policy
    drawn = policy.mode() if self.settings.greedy else policy.sample(key)
    return self._action(out, drawn)

  def _action(
    self, out: networks.Outputs, drawn: Shaped[Array, 'n ...']
  ) -> learner_lib.Action:
    """The action, and the outputs that it was chosen by."""
    extras = {'log_prob': out.policy.log_prob(drawn), 'value': out.value[0]}
    if isinstance(self.action_space, spaces.Discrete):
      return learner_lib.Action(out.memory, drawn, extras)
    # Learning needs the action as drawn, before it is clipped to its bounds.
    action = distributions.to_box(self.action_space, drawn)
    return learner_lib.Action(out.memory, action, {**extras, 'drawn': drawn})

  def final(
    self, acting: Acting, memory: PyTree, observation: Shaped[Array, 'n ...']
  ) -> Float[Array, ' n']:
    """Values, [n]; see `learner.Learner`."""
    first = jnp.zeros(observation.shape[0], bool)
    return self._apply(acting, memory, observation, first).value[0]

  def learn(
    self,
    state: PPOState,
    trajectory: learner_lib.Trajectory,
    key: Key[Array, ''],
  ) -> tuple[PPOState, dict[str, Array]]:
    """Several epochs of minibatches of these steps; see `learner.Learner`.

    Metrics are means over the updates of the terms of the loss, the KL
    divergence from the policy that acted, the share of steps outside the clip
    range and the gradient's norm before clipping; and the variance of the
    targets that the values explained before the updates.
    """
    state, reward = self._rewards(state, trajectory)
    last = self._apply(
      self.acting(state),
      trajectory.last_memory,
      trajectory.last_observation,
      trajectory.last_first,
    )
    chosen = self.settings
    numbers = losses.numbers(
      trajectory, reward, last.value[0], chosen.discount, chosen.trace
    )
    steps = losses.Steps(
      trajectory.memory,
      self._seen(state.observations, trajectory.observation),
      trajectory.first,
      trajectory.extras.get('drawn', trajectory.action),
      jnp.stack(numbers, -1),
    )
    explained = losses.explained_variance(
      numbers.value, numbers.target, numbers.weight
    )
    params, opt_state, metrics = self._updates(state, steps, key)
    if chosen.normalize_observations:
      new = normalizer.weighted(trajectory.observation, numbers.weight)
      state = state.replace(
        observations=normalizer.merge(state.observations, new)
      )
    state = state.replace(params=params, opt_state=opt_state)
    return state, {**metrics, 'explained_variance': explained}

  def _rewards(
    self, state: PPOState, trajectory: learner_lib.Trajectory
  ) -> tuple[PPOState, Float[Array, 'T n']]:
    """Rewards as the learner uses them."""
    chosen, reward = self.settings, trajectory.reward
    if not chosen.normalize_rewards:
      return state, reward
    discount = chosen.reward_discount
    scales, reward = reward_scale.scale(
      state.rewards,
      reward,
      first=trajectory.first[0],
      ended=trajectory.terminated | trajectory.truncated,
      valid=trajectory.valid,
      discount=chosen.discount if discount is None else discount,
      clip=chosen.reward_clip,
    )
    return state.replace(rewards=scales), reward

  def _updates(
    self, state: PPOState, steps: losses.Steps, key: Key[Array, '']
  ) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """Parameters, optimiser and metrics after all minibatches."""
    if self.settings.core is None:
      # One row of all steps: any of them may stand beside any other.
      flat = lambda x: x.reshape(1, -1, *x.shape[2:])
      steps = jax.tree.map(flat, steps._replace(memory=()))
    count = steps.first.shape[1]
    order = shuffle.permutations(key, self.settings.num_epochs, count)
    indices = order.reshape(-1, count // self.settings.num_minibatches)
    numbers = jnp.moveaxis(steps.numbers[:, indices], 1, 0)
    if self.settings.normalize_advantages:
      numbers = jax.vmap(losses.standardized)(numbers)

    def update(carry: tuple, batch: tuple) -> tuple[tuple, dict[str, Array]]:
      params, opt_state = carry
      chosen, numbers = batch
      some = steps.gathered(chosen, numbers)
      # Else the gathering is fused into each layer that reads it, and repeated.
      some = jax.lax.optimization_barrier(some)
      grads, metrics = jax.grad(self._loss, has_aux=True)(params, some)
      # As one vector, because an optimiser's time grows with its operations.
      vector, unravel = flatten_util.ravel_pytree(grads)
      change, opt_state = self._optimizer.update(vector, opt_state)
      params = optax.apply_updates(params, unravel(change))
      norm = optax.tree.norm(vector)
      return (params, opt_state), {**metrics, 'grad_norm': norm}

    carry = (state.params, state.opt_state)
    carry, metrics = jax.lax.scan(update, carry, (indices, numbers))
    return *carry, jax.tree.map(jnp.mean, metrics)

  def _loss(
    self, params: PyTree, steps: losses.Steps
  ) -> tuple[Float[Array, ''], dict[str, Array]]:
    chosen = self.settings
    out = self.network.apply(params, *steps[:3])
    means = losses.terms(
      out.policy.log_prob(steps.action),
      out.value,
      out.policy.entropy(),
      losses.split(steps.numbers),
      clip_ratio=chosen.clip_ratio,
      value_clip=chosen.value_clip,
    )
    loss = means['policy_loss'] + chosen.value_cost * means['value_loss']
    return loss - chosen.entropy_cost * means['entropy'], means
