"""What can be chosen about SAC."""

import dataclasses

from flax import linen as nn

from rl import ranges

__all__ = ['Settings']


@dataclasses.dataclass(frozen=True)
class Settings:
  """Twin critics, a tanh-Gaussian policy, an automatic temperature.

  Attributes:
    hidden: widths of policy and critics.
    encoder: [n, ...] -> [n, features], one for the policy and one for the
      critics, each with its own parameters; None: the flat observation.
    discount: per step.
    reward_scale: factor on rewards.
    target_entropy: nats, of actions in [-1, 1]; None: minus the number of
      dimensions. Half of that is another common choice.
    temperature: alpha at first.
    tau: share of the critics that goes into their targets per update.
    learning_rate: of Adam, for everything.
    capacity: of the replay, steps of all lanes; rounded down to iterations.
    min_replay: steps that can be sampled before learning starts.
    random_steps: of all lanes together, in which actions are uniform.
    updates_per_step: updates per step acted.
    batch_size: samples per update.
    unroll_length: T, steps per lane and iteration.

  Raises:
    ValueError: if a number is out of range.
  """

  hidden: tuple[int, ...] = (256, 256)
  encoder: nn.Module | None = None
  discount: float = 0.99
  reward_scale: float = 1.0
  target_entropy: float | None = None
  temperature: float = 1.0
  tau: float = 0.005
  learning_rate: float = 3e-4
  capacity: int = 100_000
  min_replay: int = 1000
  random_steps: int = 1000
  updates_per_step: float = 1.0
  batch_size: int = 256
  unroll_length: int = 1

  def __post_init__(self) -> None:
    ranges.check_counts(
      hidden=self.hidden,
      capacity=self.capacity,
      min_replay=self.min_replay,
      batch_size=self.batch_size,
      unroll_length=self.unroll_length,
    )
    ranges.check_counts(least=0, random_steps=self.random_steps)
    ranges.check_positive(
      temperature=self.temperature,
      tau=self.tau,
      updates_per_step=self.updates_per_step,
    )
    ranges.check_not_negative(learning_rate=self.learning_rate)
    ranges.check_shares(discount=self.discount, tau=self.tau)
