"""Libraries that only some environments need."""

import importlib
import os
from types import ModuleType

__all__ = ['RendererError', 'choose_renderer', 'load']


class RendererError(RuntimeError):
  """Nothing can draw on this machine."""


def choose_renderer() -> None:
  """Without a display, lets MuJoCo draw by software.

  MUJOCO_GL is read when MuJoCo's renderer is first imported; it stays as it is
  where it is set.
  """
  if 'DISPLAY' not in os.environ:
    os.environ.setdefault('MUJOCO_GL', 'osmesa')


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
