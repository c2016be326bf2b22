"""The options and exit codes that commands share."""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable

from runtime import errors, paths

__all__ = [
  'mend_streams',
  'natural',
  'of_run',
  'parser',
  'path',
  'plain',
  'positive',
  'read_step',
  'run',
]


def mend_streams() -> None:
  """Prevents errors of printing from ending a command.

  A shell may close a stream (`2>&-`), and a terminal may lack characters.
  """
  for name in ('stdout', 'stderr'):
    stream = getattr(sys, name)
    if stream is None:
      setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115
    elif hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')


def plain(description: str) -> argparse.ArgumentParser:
  """A parser without options.

  Args:
    description: help text, laid out as it is to be shown.
  """
  return argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )


def parser(description: str) -> argparse.ArgumentParser:
  """A parser with the options of all commands that restore a run.

  Args:
    description: see `plain`.
  """
  found = plain(description)
  found.add_argument(
    '--gin_param',
    action='append',
    default=[],
    help="statement that changes the configuration, such as 'DATA = @mine.D()'",
  )
  found.add_argument(
    '--allow_module',
    action='append',
    default=[],
    help='module that the configuration may name',
  )
  return found


def of_run(
  description: str,
  *,
  step: str = 'latest',
  workdir: str = 'folder of the run',
  default: str | None = None,
) -> argparse.ArgumentParser:
  """`parser`, with the workdir of a run and the step to restore.

  Args:
    description: see `plain`.
    step: that is restored unless the command line tells another.
    workdir: help of this argument.
    default: what it is unless given; None: it must be.
  """
  found = parser(description)
  found.add_argument(
    'workdir', help=workdir, default=default, nargs='?' if default else None
  )
  found.add_argument(
    '--step', default=step, type=read_step, help="number, 'latest' or 'best'"
  )
  return found


def read_step(text: str) -> int | str:
  """Reads the step of a checkpoint: a number, 'latest' or 'best'."""
  if text in ('latest', 'best'):
    return text
  try:
    return int(text)
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"must be a number, 'latest' or 'best', got {text!r}"
    ) from None


def path(text: str) -> pathlib.Path:
  """Reads a path of this machine; see `paths.local`."""
  try:
    return paths.local(text)
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
  """Reads a whole number from 1 on."""
  number = int(text)
  if number < 1:
    raise argparse.ArgumentTypeError(f'must be positive, got {number}')
  return number


def natural(text: str) -> int:
  """Reads a whole number from 0 on."""
  number = int(text)
  if number < 0:
    raise argparse.ArgumentTypeError(f'must not be negative, got {number}')
  return number


def run(main: Callable[[], None]) -> None:
  """Runs a command; a mistake ends it with one message and exit code 2.

  If the reader of its output goes away, as `head` does, the command ends with
  exit code 1 and no message.
  """
  mend_streams()
  try:
    try:
      main()
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # Python would flush the closed pipe once more, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
  except (*errors.MISTAKES, errors.RunError) as error:
    notes = getattr(error, '__notes__', ())
    print('\n'.join([f'error: {error}', *notes]), file=sys.stderr)
    sys.exit(2)
