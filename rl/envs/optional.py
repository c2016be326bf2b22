"""Libraries that only some environments need."""

import importlib
from types import ModuleType

__all__ = ['load']


def load(name: str, *, extra: str = 'rl') -> ModuleType:
  """Imports a module of an optional dependency.

  Args:
    name: of the module.
    extra: of this project that installs it.

  Raises:
    ImportError: naming the extra, if the library is not installed.
  """
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name is None or error.name.split('.')[0] != name.split('.')[0]:
      raise
    package = name.split('.')[0]
    raise ImportError(
      f"{package} is not installed; run pip install 'attune[{extra}]'"
    ) from error
