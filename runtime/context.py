"""The record that the launcher hands to the root function of a binary.

The launcher reads flags and configuration files; the training loop needs a few
of their results (the configuration to save, the flags of the command
line) but must not know where they come from. This small record carries them, so
a test or a notebook can call the same root with `RunContext()` and get a run
whose configuration is not checked and is saved empty.
"""

import dataclasses
from collections.abc import Callable

__all__ = ['RunContext']


def _no_text() -> str:
  """The configuration of a run that was started without one."""
  return ''


def _nothing() -> None:
  """The hook of a run that nobody launched."""


@dataclasses.dataclass(frozen=True)
class RunContext:
  """The results of the command line that the loop needs.

  Attributes:
    config: the configuration as it was given, files and parameters of the
      command line merged; it can be parsed again.
    operative_config: returns the values that were really used, defaults
      included; complete once the root has built its objects.
    check_config: raises `ValueError` if a binding or a macro was never used;
      to be called once everything is built, before compilation.
    on_start: to be called when training starts; errors raised before it are
      reported as mistakes of the user, in one message and without a traceback.
    dry_run: build everything, describe it and return without training.
    allow_config_change: continue in a workdir that another configuration wrote.
    init_from: workdir of another run, whose parameters a new run starts from;
      empty: none.
    profile_steps: number of early steps to trace with the profiler; 0: none.
    program: command that starts this binary, such as 'python -m
      performer.train'.
    argv: the command line, program first; empty outside a launched binary.
  """

  config: str = ''
  operative_config: Callable[[], str] = _no_text
  check_config: Callable[[], None] = _nothing
  on_start: Callable[[], None] = _nothing
  dry_run: bool = False
  allow_config_change: bool = False
  init_from: str = ''
  profile_steps: int = 0
  program: str = ''
  argv: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if self.profile_steps < 0:
      raise ValueError(
        f'profile_steps must not be negative, got {self.profile_steps=}'
      )
