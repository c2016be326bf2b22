"""The settings of training by chunks."""

import dataclasses

from performer.slim import drift, strategies

__all__ = ['Slim']


@dataclasses.dataclass(frozen=True)
class Slim:
  """The way a trainer computes gradients: strategy, chunk, budget.

  None of them changes parameters, checkpoints or, beyond rounding, losses: a
  run may continue under other ones.

  Attributes:
    strategy: a member of `strategies.STRATEGIES`, or 'auto': see `planner.plan`.
    chunk: positions of a chunk; None: chosen with the strategy.
    memory_budget_gb: 10^9 bytes per device for what a step needs beside
      parameters, their gradient, the optimiser and the batch; None: no limit.
    drift_threshold: of subtraction: from this relative error of what queries
      read from a recovered state on, a layer is named in a warning.

  Raises:
    ValueError: if an option is unknown or out of range, or a chunk is given to
      `full`.
  """

  strategy: str = 'auto'
  chunk: int | None = None
  memory_budget_gb: float | None = None
  drift_threshold: float = drift.THRESHOLD

  def __post_init__(self) -> None:
    known = ('auto', *strategies.STRATEGIES)
    if self.strategy not in known:
      raise ValueError(
        f'strategy must be one of {known}, got {self.strategy!r}'
      )
    if self.strategy == 'full' and self.chunk is not None:
      raise ValueError(
        f"strategy='full' has one chunk, the sequence; got {self.chunk=}"
      )
    for name in ('chunk', 'memory_budget_gb', 'drift_threshold'):
      value = getattr(self, name)
      if value is not None and not value > 0:
        raise ValueError(f'{name} must be positive, got {name}={value}')
