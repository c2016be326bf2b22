"""Access to gin's process-wide tables, which have no public way in.

No other file names a private part of gin.
"""

import contextlib
import copy
import functools
import pprint
import types
from collections.abc import Iterator, Mapping
from typing import Any

import gin
from gin import config as gin_config
from gin import selector_map

__all__ = ['bound_text', 'isolated', 'operative_text', 'parse_scope']

_TABLES = (
  '_CONFIG',
  '_CONFIG_IS_LOCKED',
  '_IMPORTS',
  '_INVERSE_REGISTRY',
  '_OPERATIVE_CONFIG',
  '_RENAMED_SELECTORS',
  '_SINGLETONS',
)

# gin sorts the keys of dictionaries, but their order may count: that of
# evaluations chooses their random keys.
_IN_ORDER = types.SimpleNamespace(
  pformat=functools.partial(pprint.pformat, sort_dicts=False)
)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
  """Gives the body gin's tables for itself, empty, and puts the old ones back.

  gin keeps one registry per process and cannot forget an entry. Two
  configurations that give one name to two modules would meet in it.
  """
  saved = {name: getattr(gin_config, name) for name in _TABLES}
  registry = gin_config._REGISTRY
  fresh = selector_map.SelectorMap()  # Its own copy shares the inner nodes.
  for selector, configurable in registry.items():
    fresh[selector] = configurable
  for name, value in saved.items():
    setattr(gin_config, name, copy.copy(value))
  gin_config._REGISTRY = fresh
  try:
    gin.clear_config()
    yield
  finally:
    for name, value in saved.items():
      setattr(gin_config, name, value)
    gin_config._REGISTRY = registry


@contextlib.contextmanager
def parse_scope() -> Iterator[gin_config.ParseContext]:
  """A context for the statements of one file; its imports are kept."""
  with gin_config._parse_scope() as context:
    yield context
    gin_config._IMPORTS.update(context.imports)


def bound_text() -> str:
  """All bindings, as text that can be parsed again."""
  return _text(gin_config._CONFIG)


def operative_text() -> str:
  """Gin text of all values used until now, defaults included."""
  return _text(gin_config._OPERATIVE_CONFIG)


def _text(table: Mapping[Any, Mapping[str, Any]]) -> str:
  """Prints a table of gin, whose own function cannot look into `Bound`."""
  bare = {
    key: {name: getattr(value, 'value', value) for name, value in args.items()}
    for key, args in table.items()
  }
  before, gin_config.pprint = gin_config.pprint, _IN_ORDER
  try:
    return gin_config._config_str(bare)
  finally:
    gin_config.pprint = before
