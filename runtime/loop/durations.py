"""How long something lasts: steps, examples or epochs."""

import dataclasses
import math

__all__ = ['Duration']


@dataclasses.dataclass(frozen=True)
class Duration:
  """A length of training, given in exactly one unit.

  Attributes:
    steps: optimiser steps.
    examples: training examples, such as 2.5e9; rounded up to whole steps.
    epochs: passes over the training set (may be a fraction); rounded up.

  Raises:
    ValueError: if not exactly one unit is given, or it is negative.
  """

  steps: int | None = None
  examples: float | None = None
  epochs: float | None = None

  def __post_init__(self) -> None:
    given = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
    if len(given) != 1:
      raise ValueError(
        'a Duration needs exactly one unit, '
        f'got {self.steps=} {self.examples=} {self.epochs=}'
      )
    ((unit, value),) = given.items()
    if not 0 <= value < math.inf:
      raise ValueError(
        f'{unit} must not be negative, nor infinite, got {unit}={value}'
      )

  def to_steps(self, *, batch_size: int, num_examples: int | None) -> int:
    """Converts to steps.

    Args:
      batch_size: examples per step, over all devices.
      num_examples: size of the training set; needed for epochs only.

    Returns:
      The number of steps, rounded up.

    Raises:
      ValueError: if epochs are given and the size of the set is unknown.
    """
    if self.steps is not None:
      return self.steps
    examples = self.examples
    if examples is None:
      if num_examples is None:
        raise ValueError(
          f'a duration of {self.epochs} epochs needs a data set of known size; '
          'give steps or examples instead'
        )
      examples = self.epochs * num_examples
    return math.ceil(examples / batch_size)
