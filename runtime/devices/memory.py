"""Devices that run out of memory."""

import contextlib
from collections.abc import Iterator

import jax

from runtime import errors

__all__ = ['OutOfMemoryError', 'shortage_told']


class OutOfMemoryError(errors.RunError):
  """The devices have less memory than a program needs."""


@contextlib.contextmanager
def shortage_told() -> Iterator[None]:
  """Turns XLA's report of a shortage inside the block into one line.

  Raises:
    OutOfMemoryError: naming what XLA could not allocate.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    first = str(error).partition('\n')[0]
    if not first.startswith('RESOURCE_EXHAUSTED'):
      raise
    raise OutOfMemoryError(
      'the devices have too little memory: take smaller batches or a smaller '
      f'model, or more devices; --dry_run tells the needs of the state. {first}'
    ) from error
