"""Finds gin files."""

import os
import pathlib
from collections.abc import Sequence

from runtime import paths
from runtime.config import errors

__all__ = ['PROJECT_ROOT', 'available', 'find', 'read', 'shown']

# The folder that holds the packages and, in a checkout, `configs/`.
PROJECT_ROOT = pathlib.Path(__file__).resolve().parents[2]


def shown(path: pathlib.Path) -> str:
  """Returns a path as a message should print it: relative where possible."""
  for folder in (pathlib.Path.cwd(), PROJECT_ROOT):
    if path.is_relative_to(folder):
      return str(path.relative_to(folder))
  return str(path)


def available(package: str = '') -> list[str]:
  """Lists the gin files that ship with the project.

  Args:
    package: only those of `configs/<package>/`; all where it is empty.

  Returns:
    Sorted paths relative to the project root; empty outside a checkout.
  """
  folder = PROJECT_ROOT / 'configs' / package
  return sorted(str(p.relative_to(PROJECT_ROOT)) for p in folder.rglob('*.gin'))


def find(
  name: str | os.PathLike[str], *, beside: Sequence[pathlib.Path] = ()
) -> pathlib.Path:
  """Finds a gin file.

  Args:
    name: a path; a relative one is tried in `beside`, then in the working
      directory, then in the project root.
    beside: folders to try first, such as that of the including file.

  Returns:
    The absolute path.

  Raises:
    ConfigError: if there is no such file; names the places and near names.
  """
  name = paths.local(name)
  folders = dict.fromkeys([*beside, pathlib.Path.cwd(), PROJECT_ROOT])
  tried = dict.fromkeys((folder / name).resolve() for folder in folders)
  for path in tried:
    if path.is_file():
      return path
  siblings = {
    shown(sibling) for path in tried for sibling in path.parent.glob('*.gin')
  }
  hint = _near(str(name), siblings.union(available()))
  places = ' and '.join(map(str, tried))
  raise errors.ConfigError(
    f'no such gin file: {str(name)!r}; looked for {places}{hint}'
  )


def _near(name: str, choices: set[str]) -> str:
  """Says which files have a similar path, else a similar file name."""
  hint = errors.nearest(name, choices)
  if hint.startswith('; did you mean'):
    return hint
  by_name = {pathlib.Path(choice).name: choice for choice in sorted(choices)}
  last = errors.nearest(pathlib.Path(name).name, by_name, limit=1)
  for file_name, choice in by_name.items():
    if last == f'; did you mean {file_name}?':
      return f'; did you mean {choice}?'
  return hint


def read(path: pathlib.Path) -> str:
  """Returns the text of a gin file.

  Args:
    path: an existing file.

  Returns:
    Its text.

  Raises:
    ConfigError: if it cannot be read or is not UTF-8.
  """
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise errors.ConfigError(f'cannot be read: {error}', shown(path)) from error
