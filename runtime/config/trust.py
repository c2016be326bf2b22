"""The modules that a configuration may name.

A gin file is code: it calls the functions that it names. Files come from mails
and downloads, so only the workspace and the libraries that its configurations
need may be named; users add modules of their own by `--allow_module`.
"""

import importlib.util
import sys
import types
from collections.abc import Collection
from typing import Any

from runtime.config import errors

__all__ = ['TRUSTED', 'check_allowed', 'check_module', 'check_object']

TRUSTED = ('performer', 'rl', 'nas', 'hpo', 'runtime', 'flax', 'jax', 'optax')


def _is_trusted(module: str, allowed: Collection[str]) -> bool:
  return any(module == a or module.startswith(f'{a}.') for a in allowed)


def check_allowed(names: Collection[str]) -> None:
  """Raises ConfigError for a name of no module; imports nothing."""
  for name in names:
    top = name.partition('.')[0]
    if top not in sys.modules and importlib.util.find_spec(top) is None:
      raise errors.ConfigError(f'--allow_module={name}: no module {top!r}')


def check_module(name: str, allowed: Collection[str]) -> None:
  """Checks a module before it is imported.

  Args:
    name: dotted name of the module.
    allowed: modules that may be named, with all that lies in them.

  Raises:
    ConfigError: if it may not be named.
  """
  if not _is_trusted(name, allowed):
    raise errors.ConfigError(
      f'module {name} may not be named: configurations run what they name. '
      f'If you trust it: --allow_module={name.partition(".")[0]}'
    )


def check_object(found: Any, path: str, allowed: Collection[str]) -> None:
  """Checks an object on the way of a selector, and the module it comes from.

  Args:
    found: a module, class or function on the way of a selector.
    path: the selector until there.
    allowed: modules that may be named.

  Raises:
    ConfigError: if the object is, or was defined in, a module that may not
      be named.
  """
  if isinstance(found, types.ModuleType):
    check_module(found.__name__, allowed)
    return
  home = getattr(found, '__module__', None) or getattr(
    type(found), '__module__', ''
  )
  if not _is_trusted(home, allowed):
    raise errors.ConfigError(
      f'{path} comes from module {home}, which may not be named. '
      f'If you trust it: --allow_module={home.partition(".")[0]}'
    )
