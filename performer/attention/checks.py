"""Checks of options and names, at construction and at trace time."""

import dataclasses
import difflib
import functools
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp

__all__ = [
  'FLOATING',
  'check_choice',
  'check_least',
  'is_integer',
  'named_options',
]

FLOATING = frozenset(
  map(jnp.dtype, (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64))
)


def is_integer(value: Any) -> bool:
  """Whether a value is an integer, of Python or NumPy, and not a boolean."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_choice(name: str, value: Any, options: Iterable[str]) -> None:
  """Rejects a name that is not among the options.

  Args:
    name: what the value chooses, for the message.
    value: the value given.
    options: the accepted names.

  Raises:
    ValueError: naming the value, the nearest options and all of them.
  """
  options = list(options)
  if value not in options:
    raise ValueError(_unknown(name, value, options))


def _unknown(name: str, value: Any, options: list[str]) -> str:
  near = difflib.get_close_matches(str(value), options, n=3, cutoff=0.4)
  hint = f'; did you mean {" or ".join(map(repr, near))}?' if near else ''
  return f'unknown {name} {value!r}{hint} (known: {options})'


def named_options(cls: type) -> type:
  """Makes a dataclass name the nearest option where it is given an unknown one.

  Args:
    cls: the dataclass, decorated as such.

  Returns:
    The same class. Its call raises TypeError for an unknown option, with the
    nearest names and all of them.
  """
  init: Callable[..., None] = cls.__init__
  known = [field.name for field in dataclasses.fields(cls) if field.init]

  @functools.wraps(init)
  def named(self: Any, *args: Any, **options: Any) -> None:
    for name in options:
      if name not in known:
        raise TypeError(_unknown(f'option of {cls.__name__}', name, known))
    init(self, *args, **options)

  cls.__init__ = named
  return cls


def check_least(least: int, **values: Any) -> None:
  """Rejects numbers below a bound, where they are no arrays.

  Args:
    least: the bound.
    **values: integers by name, or arrays, which may be traced.

  Raises:
    ValueError: naming the value and the bound.
  """
  for name, value in values.items():
    if is_integer(value) and value < least:
      raise ValueError(f'{name} must be >= {least}, got {name}={value}')
