"""Devices that run out of memory, and hosts that run out of memory maps."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax

from runtime import errors

__all__ = [
  'OutOfMemoryError',
  'check_fits',
  'forget_programs',
  'shortage_told',
]

_MOST = 2**46  # Bytes; the largest hosts have less, and devices far less.
# A compiled program takes some ten memory maps and two megabytes: what may stay
# has three gigabytes, far from the 65,530 maps that Linux allows a process.
_MOST_MAPS = 12_000


class OutOfMemoryError(errors.RunError):
  """The devices have less memory than a program needs."""


def check_fits(num_bytes: int) -> None:
  """Rejects needs that no device meets, such as those of a mistyped size.

  Args:
    num_bytes: that one device must hold.

  Raises:
    MemoryError: naming the need.
  """
  if num_bytes > _MOST:
    raise MemoryError(
      f'the state and population of a step need {num_bytes / 2**40:,.0f} TiB '
      f'on each device, and no device has {_MOST / 2**40:.0f} TiB'
    )


def forget_programs() -> None:
  """Drops JAX's compiled programs before their memory maps run out.

  A process that compiles for hours calls it between its jobs. Otherwise the
  compiler cannot allocate memory in the end, though there is some.
  """
  maps = pathlib.Path('/proc/self/maps')
  if maps.exists() and maps.read_bytes().count(b'\n') > _MOST_MAPS:
    jax.clear_caches()


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
