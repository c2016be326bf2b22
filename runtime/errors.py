"""Errors that end a run with one message, however late they come."""

__all__ = ['MISTAKES', 'RunError']

# What mistakes of users raise before a run starts; too large numbers, the last.
MISTAKES = (ValueError, OSError, OverflowError, MemoryError)


class RunError(Exception):
  """A run stopped by a cause outside of the code; the message says what to do.

  The launcher prints the message alone. Mistakes in configurations are
  `runtime.config.errors.ConfigError`.
  """
