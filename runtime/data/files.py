"""Plain and gzip files, told apart by their first bytes, not by their names."""

import gzip
import zlib

__all__ = ['gunzip', 'is_gzip']

_GZIP = b'\x1f\x8b'


def is_gzip(path: str) -> bool:
  """Tells whether a file begins as gzip files do."""
  with open(path, 'rb') as stream:
    return stream.read(len(_GZIP)) == _GZIP


def gunzip(path: str) -> bytes:
  """Returns the content of a gzip file.

  Raises:
    ValueError: it is no whole gzip file; the message names it.
  """
  try:
    with gzip.open(path, 'rb') as stream:
      return stream.read()
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise ValueError(f'{path}: the gzip file must be whole: {error}') from error
