"""Pools: calls of functions, each in a process of its own, several at a time.

```python
with pool_lib.make(workers=2) as pool:
  pool.start('a', math.sqrt, 2.0)
  [outcome] = pool.wait()
```

Processes are spawned, as JAX does not survive a fork, and live for one call, as
memory stays. They end soon after the process that started them.
"""

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

__all__ = ['LostError', 'Outcome', 'Pool', 'Resources', 'make', 'results']


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


def make(
  workers: int,
  *,
  resources: Resources = Resources(),
  ray_address: str | None = None,
) -> Pool:
  """A pool on this machine, or on a Ray cluster.

  Args:
    workers: number of calls at a time.
    resources: of each call.
    ray_address: HOST:PORT of the head, or 'local' for a Ray of its own on this
      machine; None: without Ray.

  Raises:
    ValueError: workers or resources do not fit this machine.
    ConnectionError: there is no cluster at the address.
  """
  if workers < 1:
    raise ValueError(f'workers must be positive, got {workers}')
  if ray_address is None:
    from runtime.sweeping import processes

    return processes.Processes(workers, resources)
  from runtime.sweeping import ray_tasks

  return ray_tasks.RayTasks(workers, resources, ray_address)


def results(
  pool: Pool,
  calls: Mapping[Any, tuple[Any, ...]],
  *,
  retries: int = 0,
  log: str = '',
) -> Iterator[tuple[Any, Any]]:
  """Runs many calls.

  Args:
    pool: runs them.
    calls: function and arguments by key.
    retries: how often a call is started again whose process was lost.
    log: file that gets what the processes print; empty: they print here.

  Yields:
    Keys and values as calls finish.

  Raises:
    LostError: a process was lost too often.
    Exception: what a call raised.
  """
  waiting = list(calls)[::-1]
  tries = dict.fromkeys(calls, 0)
  while waiting or pool.running:
    while waiting and len(pool.running) < pool.workers:
      key = waiting.pop()
      pool.start(key, *calls[key], log=log)
    for outcome in pool.wait():
      if outcome.error is None:
        yield outcome.key, outcome.value
        continue
      tries[outcome.key] += 1
      lost = isinstance(outcome.error, LostError)
      if not lost or tries[outcome.key] > retries:
        raise outcome.error
      waiting.append(outcome.key)
