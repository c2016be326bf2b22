"""Paths as users write them."""

import contextlib
import contextvars
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

__all__ = ['kept', 'local', 'nothing_kept', 'user_cache']

_scratch: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  'scratch', default=None
)


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
  """Lets caches be written to a temporary folder only, as in a dry run."""
  with tempfile.TemporaryDirectory() as folder:
    token = _scratch.set(folder)
    try:
      yield
    finally:
      _scratch.reset(token)


def kept(folder: str) -> str:
  """The folder that a cache may write to.

  Args:
    folder: of the cache.

  Returns:
    The folder itself; inside of `nothing_kept` one that will be removed.
  """
  scratch = _scratch.get()
  return folder if scratch is None else os.path.join(scratch, 'cache')


def user_cache(name: str) -> str:
  """The folder for files of a kind that are made once, in the user's cache."""
  base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.path.join(base, 'attune', name)


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
