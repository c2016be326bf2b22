"""Paths as users write them."""

import os
import pathlib
import re

__all__ = ['local']

_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+://')


def local(path: str | os.PathLike[str]) -> pathlib.Path:
  """A path as a user wrote it, with `~` expanded.

  Args:
    path: of a file or folder, which need not exist.

  Raises:
    ValueError: for a URL such as `gs://bucket/run`, or a home that is unknown.
  """
  if _URL.match(os.fspath(path)):
    raise ValueError(
      f'{path} is a URL: give a folder of this machine, or mount the bucket'
    )
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise ValueError(f'{path}: {error}') from error
