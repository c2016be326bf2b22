"""Pickles that hold data only: reading one runs no code."""

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ['Limited', 'load_arrays']

# Names that a pickled array asks for. The module of the first got its
# underscore in NumPy 2; older pickles name it without.
_ARRAYS = {
  ('numpy.core.multiarray', '_reconstruct'): np._core.multiarray._reconstruct,
  ('numpy._core.multiarray', '_reconstruct'): np._core.multiarray._reconstruct,
  ('numpy', 'ndarray'): np.ndarray,
  ('numpy', 'dtype'): np.dtype,
}


class Limited(pickle.Unpickler):
  """Reads builtin values and allowed objects; refuses every other name.

  Args:
    content: a pickle, of Python 2 or 3.
    allowed: by module and name, what the pickle may ask for.
    kind: the allowed content in words, for messages.
    encoding: of Python 2's strings, see `pickle.Unpickler`.
  """

  def __init__(
    self,
    content: bytes,
    allowed: Mapping[tuple[str, str], Any],
    *,
    kind: str,
    encoding: str = 'ASCII',
  ) -> None:
    super().__init__(io.BytesIO(content), encoding=encoding)
    self._allowed, self._kind = allowed, kind

  def find_class(self, module: str, name: str) -> Any:
    """Returns the object that a name stands for.

    Raises:
      ValueError: it is not allowed.
    """
    if (module, name) not in self._allowed:
      raise ValueError(
        f'the pickle must hold {self._kind} only, but asks for {module}.{name}'
      )
    return self._allowed[module, name]


def load_arrays(content: bytes, *, encoding: str) -> Any:
  """Reads arrays, numbers, text and containers of them.

  Args:
    content: a pickle, of Python 2 or 3.
    encoding: of Python 2's strings: `bytes` keeps them as they are, `latin1`
      makes text of them. Arrays are read under both.

  Raises:
    ValueError: the pickle asks for anything else.
    pickle.UnpicklingError: the content is no pickle.
  """
  return Limited(content, _ARRAYS, kind='arrays', encoding=encoding).load()
