"""Libraries that only some experiments need."""

import importlib
import types

__all__ = ['load']


def load(name: str, *, extra: str) -> types.ModuleType:
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
    package = name.partition('.')[0]
    if error.name is None or error.name.partition('.')[0] != package:
      raise
    raise ImportError(
      f"{package} is not installed; run pip install 'attune[{extra}]'"
    ) from error
