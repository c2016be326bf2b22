"""A pool of Ray tasks, for many machines; see `calls`.

All machines need the same file system, as runs write their workdirs, and the same
checkout. Ray starts a process for each call, and tells the call's resources apart.
"""

import os
import signal
import types
from collections.abc import Callable, Sequence
from typing import Any

from runtime.devices import ray_cluster
from runtime.sweeping import calls as calls_lib
from runtime.sweeping import processes

__all__ = ['RayTasks']


class RayTasks:
  """A `calls.Pool` of Ray tasks.

  Args:
    workers: number of calls at a time; Ray starts as many as resources allow.
    resources: of each call.
    address: HOST:PORT of the cluster's head, or 'local'.

  Raises:
    ImportError: without the extra `ray`.
    ConnectionError: there is no cluster at the address.
  """

  def __init__(
    self, workers: int, resources: calls_lib.Resources, address: str
  ) -> None:
    self.workers = workers
    if address == 'local':
      os.environ.pop(ray_cluster.ADDRESS, None)
    else:
      os.environ[ray_cluster.ADDRESS] = address
    # Ray puts in a handler of SIGTERM of its own.
    handler = signal.getsignal(signal.SIGTERM)
    self._ray, self._started = ray_cluster.connect()
    signal.signal(signal.SIGTERM, handler)
    cpus = resources.cpus or 1
    # One process for each call, which is never repeated behind our back.
    remote = self._ray.remote(max_calls=1, max_retries=0)(_call)
    self._call = remote.options(
      num_cpus=cpus,
      num_gpus=resources.gpus,
      resources=dict(resources.others),
      runtime_env={'env_vars': processes.thread_limits(cpus)},
    )
    self._running: dict[Any, Any] = {}  # Keys by reference.

  @property
  def running(self) -> Sequence[Any]:
    """Keys of the calls that have not been reported."""
    return list(self._running.values())

  def start(
    self, key: Any, function: Callable[..., Any], *args: Any, log: str = ''
  ) -> None:
    """See `calls.Pool`."""
    reference = self._call.remote(os.getcwd(), log, function, args)
    self._running[reference] = key

  def wait(self, seconds: float | None = None) -> list[calls_lib.Outcome]:
    """See `calls.Pool`."""
    if not self._running:
      return []
    done, _ = self._ray.wait(list(self._running), timeout=seconds)
    return [self._outcome(reference) for reference in done]

  def _outcome(self, reference: Any) -> calls_lib.Outcome:
    key = self._running.pop(reference)
    errors = self._ray.exceptions
    try:
      return calls_lib.Outcome(key, self._ray.get(reference))
    except errors.RayTaskError as error:
      # The exception of the call itself, whose text has the far traceback.
      cause = error.cause
      cause.add_note(str(error))
      return calls_lib.Outcome(key, error=cause)
    except errors.RayError as error:
      return calls_lib.Outcome(
        key, error=calls_lib.LostError(f'{key}: {error}')
      )

  def __enter__(self) -> 'RayTasks':
    return self

  def __exit__(self, *error: types.TracebackType | None) -> None:
    """Asks what still runs to save and end, and waits for it."""
    rest = list(self._running)
    for reference in rest:
      self._ray.cancel(reference, force=False)
    if rest:
      _, late = self._ray.wait(
        rest, num_returns=len(rest), timeout=processes.GRACE
      )
      for reference in late:
        self._ray.cancel(reference, force=True)
    self._running = {}
    if self._started:
      self._ray.shutdown()


def _call(
  folder: str, log: str, function: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
  """The life of a task, in the folder where the sweep was started."""
  os.chdir(folder)
  if log:
    processes.redirect(log)
  return function(*args)
