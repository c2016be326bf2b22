"""The base of every experiment: configurations, the loop, records, devices."""

from typing import Any

__all__ = ['restore']


def __getattr__(name: str) -> Any:
  """Imports `restore` when it is asked for: it needs gin and JAX."""
  if name != 'restore':
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from runtime import restored

  return restored.restore
