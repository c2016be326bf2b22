"""Stopping politely: SIGTERM and Ctrl-C ask the loop to save and leave."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

__all__ = ['InterruptedByStop', 'StopRequest', 'listen']


class InterruptedByStop(BaseException):
  """Ends a block that can be done again; see `StopRequest.interruptible`."""


class StopRequest:
  """Whether somebody asked this job to stop.

  On several hosts the signal reaches them at different times; JAX's
  coordination service then picks one step at which all of them stop.
  """

  def __init__(self) -> None:
    self.signal_name: str | None = None
    self._interruptible = False

  @contextlib.contextmanager
  def interruptible(self) -> Iterator[None]:
    """Interrupts the block as soon as the job is asked to stop.

    On several hosts nothing is interrupted, because hosts must stay together.

    Raises:
      InterruptedByStop: inside the block, or before it begins.
    """
    try:
      self._interruptible = True
      self._interrupt()
      yield
    finally:
      self._interruptible = False

  def ask(self, signal_name: str) -> None:
    """Notes the signal; raises `InterruptedByStop` where that is allowed."""
    self.signal_name = signal_name
    self._interrupt()

  def _interrupt(self) -> None:
    if self._interruptible and self.signal_name and jax.process_count() == 1:
      self._interruptible = False
      raise InterruptedByStop

  def reached(self, step: int) -> bool:
    """True if the job must save and leave after `step` steps."""
    if jax.process_count() > 1:
      if multihost_utils.reached_preemption_sync_point(step):
        self.signal_name = self.signal_name or 'SIGTERM'
        return True
      return False
    return self.signal_name is not None


@contextlib.contextmanager
def listen() -> Iterator[StopRequest]:
  """Catches SIGTERM and SIGINT for the duration of the block.

  A second Ctrl-C raises KeyboardInterrupt at once. Off the main thread, where
  Python allows no handlers, nothing is caught.
  """
  request = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield request
    return

  def handle(number: int, frame: FrameType | None) -> None:
    del frame
    if number == signal.SIGINT and request.signal_name is not None:
      raise KeyboardInterrupt
    request.ask(signal.Signals(number).name)

  # On several hosts the signals belong to JAX's coordination service.
  numbers = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
  before = {number: signal.signal(number, handle) for number in numbers}
  try:
    yield request
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
