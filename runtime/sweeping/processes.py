"""A pool of processes on this machine; see `calls`."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from typing import Any, NamedTuple

from runtime.sweeping import calls as calls_lib

__all__ = ['Processes', 'redirect', 'thread_limits']

# Seconds that a process has to save its work when it is asked to end.
GRACE = 60.0
_SPAWN = multiprocessing.get_context('spawn')


class _Running(NamedTuple):
  """A call: its key, its process, its end of the pipe, its place."""

  key: Any
  process: Any
  pipe: connection.Connection
  slot: int


class Processes:
  """A `calls.Pool` of processes on this machine.

  Each has its share of the machine's threads. With GPUs, call i of those that
  run at a time sees its own ones.

  Args:
    workers: number of calls at a time.
    resources: of each call.

  Raises:
    ValueError: the machine has fewer GPUs than `CUDA_VISIBLE_DEVICES` names, or
      a resource belongs to Ray.
  """

  def __init__(self, workers: int, resources: calls_lib.Resources) -> None:
    if resources.others:
      raise ValueError(
        f'resources {dict(resources.others)} need a Ray cluster: --ray_address'
      )
    self.workers = workers
    self._resources = resources
    self._gpus = _visible_gpus(workers * resources.gpus)
    self._running: dict[int, _Running] = {}  # By slot.

  @property
  def running(self) -> Sequence[Any]:
    """Keys of the calls that have not been reported."""
    return [one.key for one in self._running.values()]

  def start(
    self, key: Any, function: Callable[..., Any], *args: Any, log: str = ''
  ) -> None:
    """See `calls.Pool`."""
    slot = next(i for i in range(self.workers) if i not in self._running)
    ours, theirs = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_call, args=(theirs, log, function, args))
    with _environment(self._settings(slot)):
      process.start()
    theirs.close()
    self._running[slot] = _Running(key, process, ours, slot)

  def _settings(self, slot: int) -> dict[str, str]:
    cpus = self._resources.cpus
    if cpus is None:
      cpus = max(1, (os.cpu_count() or 1) // self.workers)
    count = self._resources.gpus
    own = self._gpus[slot * count : (slot + 1) * count]
    return thread_limits(cpus) | (
      {'CUDA_VISIBLE_DEVICES': ','.join(own)} if own else {}
    )

  def wait(self, seconds: float | None = None) -> list[calls_lib.Outcome]:
    """See `calls.Pool`."""
    if not self._running:
      return []
    pipes = {one.pipe: one for one in self._running.values()}
    # A process that dies closes its end of the pipe.
    ready = connection.wait(list(pipes), seconds)
    return [self._outcome(pipes[pipe]) for pipe in ready]

  def _outcome(self, one: _Running) -> calls_lib.Outcome:
    del self._running[one.slot]
    try:
      value, error = one.pipe.recv()
    except EOFError:
      value, error = None, None
    one.pipe.close()
    one.process.join()
    if value is None and error is None:
      code = one.process.exitcode
      how = signal.Signals(-code).name if code < 0 else f'exit code {code}'
      error = calls_lib.LostError(f'{one.key}: the process ended with {how}')
    return calls_lib.Outcome(one.key, value and value[0], error)

  def __enter__(self) -> 'Processes':
    return self

  def __exit__(self, *error: types.TracebackType | None) -> None:
    """Asks what still runs to save and end, and waits for it."""
    rest = [one.process for one in self._running.values()]
    for process in rest:
      process.terminate()
    until = time.monotonic() + GRACE
    for process in rest:
      process.join(max(0.0, until - time.monotonic()))
      process.kill()
      process.join()
    self._running = {}


def _visible_gpus(needed: int) -> list[str]:
  """Numbers of GPUs for the calls, from those that this process may use."""
  listed = os.environ.get('CUDA_VISIBLE_DEVICES')
  if listed is None:
    return [str(i) for i in range(needed)]
  found = [name for name in listed.split(',') if name]
  if len(found) < needed:
    raise ValueError(
      f'workers x gpus must not exceed the visible GPUs, got {needed} and '
      f'CUDA_VISIBLE_DEVICES={listed}'
    )
  return found


def thread_limits(threads: int) -> dict[str, str]:
  """Variables that bound the threads of XLA and BLAS; those set before stay.

  Args:
    threads: of one process.
  """
  names = ('PJRT_NPROC', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
  return {name: os.environ.get(name, str(threads)) for name in names}


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
  """Variables that a new process starts with; libraries read them early."""
  before = {name: os.environ.get(name) for name in settings}
  os.environ.update(settings)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


def _call(
  pipe: connection.Connection,
  log: str,
  function: Callable[..., Any],
  args: tuple[Any, ...],
) -> None:
  """The life of a process: sends ((value,), None) or (None, error)."""
  threading.Thread(target=_follow_parent, daemon=True).start()
  if log:
    redirect(log)
  try:
    pipe.send(((function(*args),), None))
  except Exception as error:  # Raised again in the process that waits.
    pipe.send((None, _portable(error)))


def _portable(error: Exception) -> Exception:
  """The error with its traceback as a note; only that, if it does not pickle."""
  text = traceback.format_exc()
  error.add_note(text)
  try:
    return pickle.loads(pickle.dumps(error))
  except Exception:  # Whatever the class of the error does.
    return RuntimeError(text)


def _follow_parent() -> None:
  """Ends this process after its parent, with time to save."""
  multiprocessing.parent_process().join()
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(GRACE)
  os._exit(1)


def redirect(log: str) -> None:
  """Appends all that this process prints to a file.

  Args:
    log: the file; its folder exists.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  with open(log, 'ab') as stream:
    for number in (1, 2):
      os.dup2(stream.fileno(), number)
