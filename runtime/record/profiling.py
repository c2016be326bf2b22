"""Traces of early steps, and the memory that devices report."""

import os
import pathlib

import jax
from absl import logging
from jaxtyping import PyTree

__all__ = ['Profiler', 'memory_metrics']

# The first steps compile and warm caches up.
_SKIPPED_STEPS = 5


class Profiler:
  """Traces `num_steps` early steps into `workdir/profile`, if any are asked."""

  def __init__(self, workdir: str | os.PathLike, num_steps: int):
    self._folder = str(pathlib.Path(workdir) / 'profile')
    self._num_steps = num_steps
    self._running = False

  def before_step(self, steps_done: int, state: PyTree) -> None:
    """Starts or stops the trace.

    Args:
      steps_done: since this start.
      state: result of the last of them.
    """
    edges = _SKIPPED_STEPS, _SKIPPED_STEPS + self._num_steps
    if not self._num_steps or steps_done not in edges:
      return
    jax.block_until_ready(state)  # Steps are only dispatched so far.
    if steps_done == _SKIPPED_STEPS:
      jax.profiler.start_trace(self._folder)
      self._running = True
    else:
      self.close()

  def close(self) -> None:
    """Ends a running trace."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      logging.info('the profile lies in %s', self._folder)


def memory_metrics() -> dict[str, float]:
  """Peak bytes on the first local device, where the back end counts them."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' not in stats:
    return {}
  return {'memory/peak_bytes': float(stats['peak_bytes_in_use'])}
