"""Errors that end a run with one message, however late they come."""

__all__ = ['RunError']


class RunError(Exception):
  """A run stopped by a cause outside of the code; the message says what to do.

  The launcher prints the message alone. Mistakes in configurations are
  `runtime.config.errors.ConfigError`.
  """
