"""Pools: calls of functions, each in a process of its own, several at a time.

```python
with pool_lib.make(workers=2) as pool:
  pool.start('a', math.sqrt, 2.0)
  [outcome] = pool.wait()
```

What a pool is, and what a call gets, stands in `calls`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from runtime.sweeping import calls as calls_lib
from runtime.sweeping import processes, ray_tasks

__all__ = ['make', 'results']

_EQUAL = calls_lib.Resources()  # Calls share the machine.


def make(
  workers: int,
  *,
  resources: calls_lib.Resources = _EQUAL,
  ray_address: str | None = None,
) -> calls_lib.Pool:
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
    return processes.Processes(workers, resources)
  return ray_tasks.RayTasks(workers, resources, ray_address)


def results(
  pool: calls_lib.Pool,
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
      lost = isinstance(outcome.error, calls_lib.LostError)
      if not lost or tries[outcome.key] > retries:
        raise outcome.error
      waiting.append(outcome.key)
