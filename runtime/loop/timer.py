"""Wall time of training steps, apart from everything else a run does."""

import contextlib
import time
from collections.abc import Iterator

__all__ = ['StepTimer']


class StepTimer:
  """Times steps, without compilation, evaluation and saving.

  Attributes:
    steps: steps since the last lap; the loop counts them.
    total: seconds of all steps since the timer was made.
  """

  def __init__(self) -> None:
    self.steps = 0
    self.total = 0.0
    self._lap = 0.0
    self._since = time.perf_counter()

  def restart(self) -> None:
    """Forgets the time since the last lap, pause or restart."""
    self._since = time.perf_counter()

  def lap(self) -> float | None:
    """Seconds per step since the last lap; None if there was no step."""
    self._collect()
    steps, seconds = self.steps, self._lap
    self.steps, self._lap = 0, 0.0
    return seconds / steps if steps else None

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Does not count the time in the block."""
    self._collect()
    try:
      yield
    finally:
      self.restart()

  def _collect(self) -> None:
    now = time.perf_counter()
    self._lap += now - self._since
    self.total += now - self._since
    self._since = now
