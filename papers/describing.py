"""Settings as JSON: the key of a finished run, and part of a row."""

import dataclasses
import functools
import hashlib
import inspect
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

__all__ = ['describe', 'digest']

_PLAIN = (type(None), bool, int, float, str)
_FLAX = ('parent', 'name')  # Where a module stands, not what it computes.


def describe(value: Any, path: str = 'settings', known: Any = None) -> Any:
  """Describes settings so that equal descriptions mean equal settings.

  Args:
    value: plain values, lists, mappings, arrays (told by their digest), paths
      (told by name, not by content), dataclasses, Flax modules, named tuples,
      named functions with their free variables, partials, and classes.
    path: where the value stands, for messages.
    known: an earlier description. Fields of dataclasses that it lacks, since they
      are newer, are left out where they have their default.

  Returns:
    What `json.dumps` accepts.

  Raises:
    ValueError: for a lambda or an object of another kind, with its path.
  """
  if isinstance(value, _PLAIN):
    return value
  if hasattr(value, '__wrapped__'):
    value = inspect.unwrap(value)
  if isinstance(value, np.generic):
    return value.item()
  if isinstance(value, pathlib.PurePath):
    return value.as_posix()
  if isinstance(value, np.dtype):
    return value.name
  if isinstance(value, (np.ndarray, jax.Array)):
    return _array(value)
  if isinstance(value, functools.partial):
    parts = {'partial': value.func, 'args': value.args, **value.keywords}
    return _mapping(parts, path, known)
  if isinstance(value, type):
    return _name(value)
  if dataclasses.is_dataclass(value) or hasattr(value, '_fields'):
    fields = _mapping(_fields(value, known), path, known)
    return {'type': _name(type(value))} | fields
  if isinstance(value, Mapping):
    return _mapping(value, path, known)
  if isinstance(value, (list, tuple)):
    before = iter(known if isinstance(known, list) else ())
    return [
      describe(v, f'{path}[{i}]', next(before, None))
      for i, v in enumerate(value)
    ]
  if callable(value) and hasattr(value, '__name__'):
    return _function(value, path)
  raise ValueError(
    f'{path} cannot be described, got {type(value).__name__}: use plain values, '
    'dataclasses, named functions or partials'
  )


def digest(description: Any) -> str:
  """Twenty hexadecimal digits that tell a description from others."""
  text = json.dumps(description, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:20]


def _name(value: Any) -> str:
  return f'{value.__module__}.{getattr(value, "__qualname__", value.__name__)}'


def _array(value: Any) -> dict[str, Any]:
  if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
    value = jax.random.key_data(value)
  value = np.asarray(value)
  return {
    'array': list(value.shape),
    'dtype': value.dtype.name,
    'sha256': hashlib.sha256(value.tobytes()).hexdigest(),
  }


def _fields(value: Any, known: Any) -> dict[str, Any]:
  if hasattr(value, '_fields'):
    return value._asdict()
  left_out = _FLAX if isinstance(value, nn.Module) else ()
  return {
    field.name: getattr(value, field.name)
    for field in dataclasses.fields(value)
    if field.init
    and field.name not in left_out
    and not _is_new(field, getattr(value, field.name), known)
  }


def _is_new(field: dataclasses.Field, value: Any, known: Any) -> bool:
  """Whether an earlier description lacks a field, which has its default."""
  if not isinstance(known, dict) or field.name in known:
    return False
  if field.default is dataclasses.MISSING:
    return False
  return describe(value) == describe(field.default)


def _mapping(
  values: Mapping[Any, Any], path: str, known: Any
) -> dict[str, Any]:
  known = known if isinstance(known, dict) else {}
  return {
    str(k): describe(v, f'{path}.{k}', known.get(str(k)))
    for k, v in values.items()
  }


def _function(value: Any, path: str) -> Any:
  """A function by its name and its captured values."""
  name = _name(value)
  if '<lambda>' in name:
    raise ValueError(
      f'{path} must be a named function or a partial, got a lambda: its name '
      'does not tell it from others'
    )
  owner = getattr(value, '__self__', None)
  if owner is not None and not inspect.ismodule(owner):
    return {'method': name, 'of': describe(owner, path)}
  if getattr(value, '__closure__', None):
    free = inspect.getclosurevars(value).nonlocals
    return {'function': name} | _mapping(free, path, None)
  return name
