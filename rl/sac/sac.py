"""SAC: its settings, losses, acting and learning.

Reference: Haarnoja et al. (2018), arXiv:1812.05905, algorithm 1 and Eqs. 5, 7
  and 18.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from rl import distributions, ranges
from rl import learner as learner_lib
from rl.envs import spaces
from rl.replay import buffer, off_policy
from rl.sac import distribution, networks

__all__ = [
  'SAC',
  'Acting',
  'Parameters',
  'SACLearner',
  'critic_loss',
  'policy_loss',
  'soft_target',
  'temperature_loss',
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SAC(off_policy.Settings):
  """Twin critics, a tanh-Gaussian policy, an automatic temperature.

  Attributes beside those of `off_policy.Settings` (of whose encoder the policy
  and the critics each have one, with parameters of its own):
    hidden: widths of policy and critics.
    target_entropy: nats, of actions in [-1, 1]; None: minus the number of
      dimensions. Half of that is another common choice.
    temperature: alpha at first.
    tau: share of the critics that goes into their targets per update.
    random_steps: of all lanes together, in which actions are uniform.
    updates_per_step: updates per step acted.

  Raises:
    ValueError: if a number is out of range.
  """

  hidden: tuple[int, ...] = (256, 256)
  target_entropy: float | None = None
  temperature: float = 1.0
  tau: float = 0.005
  random_steps: int = 1000
  updates_per_step: float = 1.0

  def __post_init__(self) -> None:
    super().__post_init__()
    ranges.check_counts(hidden=self.hidden)
    ranges.check_counts(least=0, random_steps=self.random_steps)
    ranges.check_positive(
      temperature=self.temperature,
      tau=self.tau,
      updates_per_step=self.updates_per_step,
    )
    ranges.check_shares(tau=self.tau)

  def learner(
    self,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    num_lanes: int,
  ) -> 'SACLearner':
    """See `learner.Algorithm`.

    Raises:
      ValueError: if actions are not a bounded box of floats, the replay cannot
        hold an iteration, or an iteration is not a whole number of updates.
    """
    box = action_space
    if not (
      isinstance(box, spaces.Box)
      and box.bounded
      and jnp.issubdtype(box.dtype, jnp.floating)
    ):
      raise ValueError(f'SAC needs a bounded box of floats, got {box}')
    return SACLearner(
      policy=networks.Policy(math.prod(box.shape), self.hidden, self.encoder),
      critic=networks.Critic(self.hidden, self.encoder),
      **self.fit(
        observation_space,
        box,
        num_lanes,
        updates=self.updates_per_step * num_lanes * self.unroll_length,
        knobs='updates_per_step',
      ),
    )


class Acting(NamedTuple):
  """The part of the state that acting needs.

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACLearner(off_policy.Learner):
  """See `learner.Learner`.

  Attributes beside those of `off_policy.Learner`:
    policy: network.
    critic: networks; the target follows them.
  """

  policy: networks.Policy
  critic: networks.Critic

  @property
  def target_entropy(self) -> float:
    """Nats, of actions in [-1, 1]."""
    chosen = self.settings.target_entropy
    return -float(self.policy.size) if chosen is None else chosen

  def first_params(
    self, key: Key[Array, ''], observation: Shaped[Array, '1 ...']
  ) -> Parameters:
    """See `off_policy.Learner`."""
    policy_key, critic_key = jax.random.split(key)
    action = jnp.zeros((1, self.policy.size))
    return Parameters(
      self.policy.init(policy_key, observation),
      self.critic.init(critic_key, observation, action),
      jnp.log(jnp.float32(self.settings.temperature)),
    )

  def judge(self, params: Parameters) -> PyTree:
    """The critics."""
    return params.critic

  def follow(
    self, judge: PyTree, target: PyTree, updates: Shaped[Array, '']
  ) -> PyTree:
    """A moving average."""
    del updates
    return optax.incremental_update(judge, target, self.settings.tau)

  def acting(self, state: off_policy.State) -> Acting:
    """See `learner.Learner`."""
    random = state.steps < self.settings.random_steps
    return Acting(state.params.policy, random)

  def act(
    self,
    acting: Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> learner_lib.Action:
    """Draws from the policy, or uniformly at first; see `learner.Learner`."""
    del first
    draw_key, random_key = jax.random.split(key)
    drawn = distribution.sample(
      draw_key, *self.policy.apply(acting.policy, observation)
    ).action
    anything = jax.random.uniform(random_key, drawn.shape, minval=-1.0)
    unit = jnp.where(acting.random, anything, drawn)
    action = distributions.to_box(self.action_space, unit)
    return learner_lib.Action(memory, action, ())

  def greedy(
    self,
    acting: Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> learner_lib.Action:
    """The squashed mean; see `learner.Learner`."""
    del first, key
    mean, _ = self.policy.apply(acting.policy, observation)
    action = distributions.to_box(self.action_space, jnp.tanh(mean))
    return learner_lib.Action(memory, action, ())

  def loss(
    self,
    params: Parameters,
    state: off_policy.State,
    batch: buffer.Batch,
    key: Key[Array, ''],
  ) -> tuple[Array, tuple[None, dict[str, Array]]]:
    """The three losses; each has gradients in its own parameters only."""
    fixed = jax.lax.stop_gradient(params)
    temperature = jnp.exp(fixed.log_temperature)
    next_key, now_key = jax.random.split(key)
    after = distribution.sample(
      next_key, *self.policy.apply(fixed.policy, batch.next_observation)
    )
    goal = soft_target(
      self.critic.apply(state.target, batch.next_observation, after.action),
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
      'critic_loss': critic_loss(values, goal),
      'policy_loss': policy_loss(judged, now.log_prob, temperature),
      'temperature_loss': temperature_loss(
        params.log_temperature, now.log_prob, self.target_entropy
      ),
    }
    loss = sum(parts.values())
    return loss, (
      None,
      {
        **parts,
        'loss': loss,
        'q': values.mean(),
        'entropy': -now.log_prob.mean(),
        'temperature': temperature,
      },
    )


def soft_target(
  values: Float[Array, '2 b'],
  log_prob: Float[Array, ' b'],
  *,
  temperature: Float[Array, ''],
  reward: Float[Array, ' b'],
  discount: Float[Array, ' b'],
) -> Float[Array, ' b']:
  """Takes r + discount (min_i Q_i - temperature log pi); no gradient flows in.

  Args:
    values: of the target critics, at a drawn next action.
    log_prob: of that action.
    temperature: alpha.
    reward: before.
    discount: 0 where the task ended.

  Returns:
    Soft values to learn.
  """
  soft = values.min(axis=0) - temperature * log_prob
  return jax.lax.stop_gradient(reward + discount * soft)


def critic_loss(
  values: Float[Array, '2 b'], goal: Float[Array, ' b']
) -> Float[Array, '']:
  """sum_i mean (Q_i - goal)^2 / 2."""
  return 0.5 * jnp.sum(jnp.mean((values - goal) ** 2, axis=-1))


def policy_loss(
  values: Float[Array, '2 b'],
  log_prob: Float[Array, ' b'],
  temperature: Float[Array, ''],
) -> Float[Array, '']:
  """The mean of (temperature log pi - min_i Q_i), at actions of the policy."""
  temperature = jax.lax.stop_gradient(temperature)
  return jnp.mean(temperature * log_prob - values.min(axis=0))


def temperature_loss(
  log_temperature: Float[Array, ''],
  log_prob: Float[Array, ' b'],
  target_entropy: float,
) -> Float[Array, '']:
  """-log alpha mean(log pi + target entropy).

  With log alpha for alpha, as the authors' code has it: the sign of the
  gradient is the same and its size does not shrink with alpha.
  """
  gap = jax.lax.stop_gradient(log_prob + target_entropy)
  return -log_temperature * gap.mean()
