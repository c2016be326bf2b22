"""What can be chosen about PPO."""

import dataclasses

import optax
from flax import linen as nn

from rl import networks, ranges

__all__ = ['Settings']

_VALUE_INIT = networks.symmetric_uniform(0.03)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Clipped surrogate, clipped values, TD(lambda) targets.

  The defaults are those published for Procgen with 64 lanes.

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
  core: networks.GRU | None = None
  separate: bool = False
  policy_init: nn.initializers.Initializer = networks.SMALL
  value_init: nn.initializers.Initializer = _VALUE_INIT
  log_std: float = 0.0
  unroll_length: int = 1024
  num_minibatches: int = 32
  num_epochs: int = 2
  learning_rate: float | optax.Schedule = 5e-4
  adam_eps: float = 1e-5
  max_grad_norm: float = 0.5
  clip_ratio: float = 0.2
  value_clip: float | None = 0.2
  value_cost: float = 0.5
  entropy_cost: float = 0.01
  discount: float = 0.999
  trace: float = 0.95
  normalize_advantages: bool = True
  normalize_rewards: bool = True
  reward_discount: float | None = None
  reward_clip: float = 10.0
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
