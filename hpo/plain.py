"""Plain numbers of Python, from whatever users and other libraries have."""

import math
import numbers
from typing import Any

import numpy as np

__all__ = ['number']


def number(what: str, value: Any) -> float | int:
  """A finite number, such as JSON can write.

  Args:
    what: a name for messages.
    value: a number, or a scalar of NumPy or JAX.

  Raises:
    ValueError: it is no number, not finite, or too large for float64.
  """
  if hasattr(value, 'dtype') and np.ndim(value) == 0:
    value = value.item()
  # Bools are whole numbers in Python; here they are a mistake.
  if not isinstance(value, numbers.Real) or isinstance(value, bool):
    raise ValueError(f'{what} must be a number, got {value!r}')
  try:
    is_finite = math.isfinite(value)
  except OverflowError:
    is_finite = False
  if not is_finite:
    raise ValueError(f'{what} must be finite in float64, got {value!r}')
  return int(value) if isinstance(value, numbers.Integral) else float(value)
