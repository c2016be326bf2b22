"""Checks of settings, which name the setting, its value and the rule.

A setting that is None or a function (a schedule) has no range: it passes. So does
a traced one, which a transformation varies and whose value is not known yet.
"""

import math
import numbers
from typing import Any

import jax

__all__ = [
  'Real',
  'check_counts',
  'check_not_negative',
  'check_positive',
  'check_shares',
]


# A setting that a transformation may vary.
Real = float | jax.Array


def _numbers(settings: dict[str, Any]) -> list[tuple[str, Any]]:
  return [
    (name, value)
    for name, value in settings.items()
    if value is not None
    and not callable(value)
    and not isinstance(value, jax.core.Tracer)
  ]


def _check_finite(name: str, value: Any) -> None:
  if not math.isfinite(value):
    raise ValueError(f'{name} must be finite, got {name}={value!r}')


def check_counts(
  *, least: int = 1, up_to: int | None = None, **settings: Any
) -> None:
  """Rejects all but whole numbers from `least` to `up_to`.

  Args:
    least: 0 or more.
    up_to: None: without an end.
    **settings: values by name; of a tuple, each is checked.

  Raises:
    ValueError: naming the setting, its value and the rule.
  """
  rule = {0: 'must not be negative', 1: 'must be positive'}.get(
    least, f'must be at least {least}'
  )
  for name, value in _numbers(settings):
    for one in value if isinstance(value, tuple | list) else (value,):
      if not isinstance(one, numbers.Integral) or isinstance(one, bool):
        raise ValueError(f'{name} must be a whole number, got {name}={value!r}')
      if one < least:
        raise ValueError(f'{name} {rule}, got {name}={value!r}')
      if up_to is not None and one > up_to:
        raise ValueError(
          f'{name} must be at most {up_to}, got {name}={value!r}'
        )


def check_positive(**settings: Any) -> None:
  """Rejects numbers that are not above 0, or not finite.

  Args:
    **settings: values by name.

  Raises:
    ValueError: as `check_counts`.
  """
  for name, value in _numbers(settings):
    _check_finite(name, value)
    if value <= 0:
      raise ValueError(f'{name} must be positive, got {name}={value!r}')


def check_not_negative(**settings: Any) -> None:
  """Rejects numbers below 0, or not finite.

  Args:
    **settings: values by name.

  Raises:
    ValueError: as `check_counts`.
  """
  for name, value in _numbers(settings):
    _check_finite(name, value)
    if value < 0:
      raise ValueError(f'{name} must not be negative, got {name}={value!r}')


def check_shares(**settings: Any) -> None:
  """Rejects numbers outside of [0, 1].

  Args:
    **settings: values by name.

  Raises:
    ValueError: as `check_counts`.
  """
  for name, value in _numbers(settings):
    if not 0 <= value <= 1:
      raise ValueError(f'{name} must be in [0, 1], got {name}={value!r}')
