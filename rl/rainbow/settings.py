"""What can be chosen about Rainbow."""

import dataclasses

from flax import linen as nn

from rl import ranges
from rl.rainbow import c51, schedules

__all__ = ['Settings']


@dataclasses.dataclass(frozen=True)
class Settings:
  """C51 with double Q, dueling streams, n steps and prioritised replay.

  Attributes:
    encoder: [n, ...] -> [n, features]; None: the flat observation.
    hidden: widths of the value and advantage streams.
    num_atoms: of the distribution.
    v_min: smallest return that it can represent.
    v_max: largest; the metric `overflow` says what did not fit.
    double: whether the online network chooses the action that is bootstrapped
      from, not the target network.
    dueling: whether there are two streams.
    noisy: whether the streams have learnt noise; the lanes share its draw.
    prioritized: whether cross-entropies are priorities; otherwise all steps
      are drawn alike, and the exponents below change nothing.
    priority_exponent: alpha.
    weight_exponent: beta, of the importance weights, at first.
    weight_exponent_last: beta after `weight_steps`; None: as at first.
    weight_steps: of all lanes together, over which beta changes linearly.
    initial_priority: of new steps; None: the largest so far.
    n_step: longest window.
    discount: per step.
    reward_scale: factor on rewards.
    reward_clip: bound on the absolute value of scaled rewards; None: none.
    capacity: of the replay, steps of all lanes; rounded down to iterations.
    min_replay: steps that can be sampled before learning starts.
    samples_per_insert: samples drawn per step acted.
    batch_size: samples per update.
    target_interval: updates between copies to the target network.
    learning_rate: of Adam.
    adam_eps: its epsilon, a gradient's size.
    max_grad_norm: bound on the global norm; None: none.
    epsilon: how often lanes act at random while training, with noise too: set
      it to zero where the noise is to explore alone.
    greedy_epsilon: alike in evaluation.
    unroll_length: T, steps per lane and iteration.

  Raises:
    ValueError: if a number is out of range, or nothing reads
      `initial_priority`.

  References: Hessel et al. (2017), arXiv:1710.02298; the names of the parts are
    beside their code.
  """

  encoder: nn.Module | None = None
  hidden: tuple[int, ...] = (128, 128)
  num_atoms: int = 51
  v_min: float = -10.0
  v_max: float = 10.0
  double: bool = True
  dueling: bool = True
  noisy: bool = False
  prioritized: bool = True
  priority_exponent: float = 0.5
  weight_exponent: float = 0.4
  weight_exponent_last: float | None = None
  weight_steps: int = 100_000
  initial_priority: float | None = None
  n_step: int = 3
  discount: float = 0.99
  reward_scale: float = 1.0
  reward_clip: float | None = None
  capacity: int = 100_000
  min_replay: int = 1000
  samples_per_insert: float = 8.0
  batch_size: int = 32
  target_interval: int = 250
  learning_rate: float = 2.5e-4
  adam_eps: float = 1e-5
  max_grad_norm: float | None = None
  epsilon: schedules.Epsilon = dataclasses.field(
    default_factory=schedules.Linear
  )
  greedy_epsilon: float = 0.0
  unroll_length: int = 4

  def __post_init__(self) -> None:
    ranges.check_counts(
      hidden=self.hidden,
      num_atoms=self.num_atoms,
      weight_steps=self.weight_steps,
      n_step=self.n_step,
      capacity=self.capacity,
      min_replay=self.min_replay,
      batch_size=self.batch_size,
      target_interval=self.target_interval,
      unroll_length=self.unroll_length,
    )
    ranges.check_positive(
      initial_priority=self.initial_priority,
      reward_clip=self.reward_clip,
      samples_per_insert=self.samples_per_insert,
      max_grad_norm=self.max_grad_norm,
    )
    ranges.check_not_negative(
      weight_exponent=self.weight_exponent,
      weight_exponent_last=self.weight_exponent_last,
      learning_rate=self.learning_rate,
      adam_eps=self.adam_eps,
    )
    ranges.check_shares(
      discount=self.discount, greedy_epsilon=self.greedy_epsilon
    )
    if self.prioritized and self.priority_exponent <= 0:
      raise ValueError(
        'prioritized needs a positive priority_exponent, got '
        f'{self.priority_exponent}'
      )
    if self.initial_priority is not None and not self.prioritized:
      raise ValueError(
        'initial_priority needs prioritized, got '
        f'{self.initial_priority=} {self.prioritized=}'
      )
    c51.support(self.v_min, self.v_max, self.num_atoms)
