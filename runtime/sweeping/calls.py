"""Calls of functions in processes of their own, and what runs them.

Processes are spawned, as JAX does not survive a fork, and live for one call, as
memory stays. They end soon after the process that started them.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

__all__ = ['LostError', 'Outcome', 'Pool', 'Resources']


class LostError(RuntimeError):
  """A process ended without a result: it was killed, or crashed."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a call ended.

  Attributes:
    key: of the call.
    value: what the function returned; None if it failed.
    error: what it raised, or `LostError`; None if it returned.
  """

  key: Any
  value: Any = None
  error: Exception | None = None


@dataclasses.dataclass(frozen=True)
class Resources:
  """What one call gets.

  Attributes:
    cpus: threads that it may use; None: an equal share of the machine.
    gpus: devices that it sees.
    others: further resources of Ray, such as `{'TPU': 4}`.
  """

  cpus: int | None = None
  gpus: int = 0
  others: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    if (self.cpus is not None and self.cpus < 1) or self.gpus < 0:
      raise ValueError(
        'cpus must be positive and gpus must not be negative, got '
        f'{self.cpus=} {self.gpus=}'
      )


class Pool(Protocol):
  """Runs calls; a context that ends what still runs.

  Attributes:
    workers: number of calls at a time.
  """

  workers: int

  @property
  def running(self) -> Sequence[Any]:
    """Keys of the calls that have not been reported."""
    ...

  def start(
    self, key: Any, function: Callable[..., Any], *args: Any, log: str = ''
  ) -> None:
    """Starts a call.

    Args:
      key: to know its outcome by.
      function: of a module that processes can import.
      *args: to be pickled.
      log: file that gets what the process prints; empty: it prints here.
    """
    ...

  def wait(self, seconds: float | None = None) -> list[Outcome]:
    """Waits for outcomes.

    Args:
      seconds: the longest time; None: until there is one.

    Returns:
      Outcomes; none where no call runs, or the time is over.
    """
    ...

  def __enter__(self) -> 'Pool': ...

  def __exit__(self, *error: types.TracebackType | None) -> None: ...
