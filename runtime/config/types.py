"""Whether a value from a configuration fits the annotation of a parameter.

beartype decides about single values. Containers are walked here, because
beartype samples one item of a container and a configuration must be checked in
full, the same way at every start.
"""

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import beartype
from beartype import door, roar

__all__ = ['accepts', 'annotations', 'describe', 'parameters']

_CONF = beartype.BeartypeConf(is_pep484_tower=True)  # An int is a float too.


def _constructor(target: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the function whose parameters `target(...)` takes."""
  if not inspect.isclass(target):
    return target
  for base in inspect.getmro(target):
    for name in ('__init__', '__new__'):
      if name in base.__dict__:
        return getattr(base, name)
  return target


def annotations(target: Callable[..., Any]) -> dict[str, Any]:
  """Returns the annotated types of the parameters of a function or class.

  Args:
    target: a function, or a class whose constructor is meant.

  Returns:
    Types by parameter name. Parameters without an annotation are missing, and
    so are all of them if one names a type that does not exist at run time.
  """
  try:
    return typing.get_type_hints(_constructor(target), include_extras=True)
  except (NameError, TypeError, AttributeError):
    return {}


def parameters(target: Callable[..., Any]) -> tuple[list[str], bool]:
  """Returns the names of the parameters, and whether any name is taken.

  Args:
    target: a function or a class.

  Returns:
    The names, and True if the target has `**kwargs` or no readable signature.
  """
  try:
    signature = inspect.signature(target)
  except (TypeError, ValueError):
    return [], True
  kinds = inspect.Parameter
  fixed = (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL, kinds.POSITIONAL_ONLY)
  entries = signature.parameters.values()
  names = [entry.name for entry in entries if entry.kind not in fixed]
  return names, any(entry.kind is kinds.VAR_KEYWORD for entry in entries)


def accepts(value: Any, hint: Any) -> bool:
  """Tells whether a value fits a type, items of containers included.

  An int fits `float`; a bool fits neither `int` nor `float`; a class does not
  fit a protocol, which its objects have. A type that beartype cannot judge
  accepts everything else.

  Args:
    value: any object.
    hint: a type as written in an annotation.

  Returns:
    Whether the value may be passed.
  """
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return any(accepts(value, member) for member in args)
  if isinstance(value, bool) and hint in (int, float, complex):
    return False
  # `typing.is_protocol` comes with Python 3.13.
  if inspect.isclass(value) and getattr(origin or hint, '_is_protocol', False):
    return False
  try:
    if not door.is_bearable(value, hint, conf=_CONF):
      return False
  except roar.BeartypeException:  # Its items may still be judged.
    pass
  return _accepts_items(value, origin, args)


def _accepts_items(value: Any, origin: Any, args: tuple[Any, ...]) -> bool:
  """Checks every item of a builtin container against its item types."""
  if not (inspect.isclass(origin) and args):
    return True
  fixed = origin is tuple and args[-1] is not Ellipsis
  if fixed and isinstance(value, tuple):
    return all(map(accepts, value, args))
  if isinstance(value, Mapping) and len(args) == 2:
    keys, values = args
    return all(accepts(key, keys) for key in value) and all(
      accepts(item, values) for item in value.values()
    )
  container = isinstance(value, (list, tuple, set, frozenset))
  if container and issubclass(origin, collections.abc.Iterable):
    return all(accepts(item, args[0]) for item in value)
  return True


def describe(hint: Any) -> str:
  """Returns a short text for a type, such as `int` or `tuple[int, ...]`."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return ' | '.join(dict.fromkeys(map(describe, args)))
  if origin is collections.abc.Callable:
    return 'Callable'
  if inspect.isclass(hint) and not args:
    return hint.__name__.rpartition('.')[2].replace('NoneType', 'None')
  # Names without the modules that they come from.
  return re.sub(r'\b(?:[a-zA-Z_]\w*\.)+(?=\w)', '', str(hint))
