"""The folder of a run: paths, its one owner, and its status.

One process trains in a folder at a time. A start that fails before training
leaves the folder as it was.
"""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Any

import filelock
import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from runtime import errors, paths

__all__ = [
  'Claim',
  'UnwritableError',
  'claimed',
  'read_status',
  'wait_until_free',
  'write_status',
  'writing_told',
]

_LOCK = '.lock'
_STATUS = 'status.json'
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
_UNSAFE = '[]\\'  # Orbax looks for its files by a pattern that has the path.
_UNWRITABLE = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EIO,
  errno.ESTALE,
)


class UnwritableError(errors.RunError):
  """The folder of a run takes no more files, as on a full disk."""


@contextlib.contextmanager
def writing_told(folder: pathlib.Path) -> Iterator[None]:
  """Turns the errors of a full or broken disk inside the block into one line.

  Args:
    folder: of the run.

  Raises:
    UnwritableError: naming the folder and the cause.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in _UNWRITABLE:
      raise
    raise UnwritableError(
      f'{folder} cannot be written: {os.strerror(error.errno)}; the same '
      'command continues from the last checkpoint once it can be'
    ) from error


class Claim:
  """This process owns a folder.

  Attributes:
    folder: the folder of the run.
  """

  def __init__(self, folder: pathlib.Path) -> None:
    self.folder = folder
    self.kept = False

  def keep(self) -> None:
    """Marks the start of training: files written from now on stay."""
    self.kept = True


@contextlib.contextmanager
def claimed(workdir: str | os.PathLike[str]) -> Iterator[Claim]:
  """Owns a folder for the length of the block, on all processes of the job.

  A process that dies loses its claim. Where a file system has no locks, as some
  network file systems, a warning says that the folder is not protected.

  Args:
    workdir: the folder; made if missing. If the block fails before
      `Claim.keep`, a folder that was made is removed again, and the status of
      one that was there is put back.

  Yields:
    The claim.

  Raises:
    ValueError: if another process owns the folder, whose pid and host are named,
      or its path has characters with which checkpoints are lost.
    OSError: if the folder cannot be written.
  """
  folder = paths.local(workdir).absolute()
  unsafe = [mark for mark in _UNSAFE if mark in str(folder)]
  if unsafe:
    raise ValueError(
      f'checkpoints would be lost in {folder}: choose another --workdir, whose '
      f'path has no {" ".join(unsafe)}'
    )
  missing = [p for p in (folder, *folder.parents) if not p.exists()]
  before = read_status(folder)
  claim = Claim(folder)
  with contextlib.ExitStack() as stack:
    _on_first_process(lambda: _take(folder, missing, stack))
    try:
      yield claim
    finally:
      if not claim.kept and jax.process_index() == 0:
        _put_back(folder, before)
        _remove(missing)


def wait_until_free(workdir: str | os.PathLike[str], seconds: float) -> None:
  """Waits until no process owns a folder, or the time is over.

  Args:
    workdir: the folder; it need not exist.
    seconds: the longest time.
  """
  path = pathlib.Path(workdir) / _LOCK
  if path.exists():
    with (
      contextlib.suppress(filelock.Timeout, OSError),
      filelock.FileLock(path, timeout=seconds),
    ):
      pass


def _on_first_process(action: Any) -> None:
  """Runs an action on process 0; if it fails there, all processes fail."""
  error = None
  if jax.process_index() == 0:
    try:
      action()
    except (OSError, ValueError) as caught:
      error = caught
  if jax.process_count() > 1:
    failed = np.array(error is not None)
    if multihost_utils.broadcast_one_to_all(failed) and error is None:
      error = ValueError('process 0 cannot use the workdir; see its message')
  if error is not None:
    raise error


def _take(
  folder: pathlib.Path,
  missing: list[pathlib.Path],
  stack: contextlib.ExitStack,
) -> None:
  """Makes the folder and locks it until the stack unwinds."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / _LOCK, timeout=0)
    lock.acquire()
  except filelock.Timeout:
    raise ValueError(f'{folder} is in use by {_owner(folder)}') from None
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      _remove(missing)
      raise
    logging.warning(
      'make sure that no other process trains in %s: its file system has no '
      'locks',
      folder,
    )
  else:
    stack.callback(lock.release)
  write_status(folder, state='starting')


def _owner(folder: pathlib.Path) -> str:
  status = read_status(folder)
  if not status:
    return 'another process'
  return f'process {status.get("pid")} on {status.get("host")}'


def _put_back(folder: pathlib.Path, before: dict[str, Any]) -> None:
  """Writes the status again that a start found."""
  with contextlib.suppress(OSError):  # The start failed for another reason.
    if before:
      _write(folder / _STATUS, before)
    else:
      (folder / _STATUS).unlink(missing_ok=True)


def _remove(made: list[pathlib.Path]) -> None:
  """Removes a folder that was made, and its parents that were."""
  for path in made[:1]:
    shutil.rmtree(path, ignore_errors=True)
  for path in made[1:]:
    with contextlib.suppress(OSError):  # Somebody else uses it by now.
      path.rmdir()


def write_status(workdir: str | os.PathLike[str], **fields: Any) -> None:
  """Writes `status.json`: how the run is doing; on process 0 only.

  Args:
    workdir: folder of the run.
    **fields: values fit for JSON, such as `state`, `step`, `steps_per_s`.
      Process id, host and time are added.
  """
  if jax.process_index() != 0:
    return
  status = fields | {
    'pid': os.getpid(),
    'host': socket.gethostname(),
    'unix_s': round(time.time(), 3),
  }
  _write(pathlib.Path(workdir) / _STATUS, status)


def _write(path: pathlib.Path, status: dict[str, Any]) -> None:
  """Whole or not at all."""
  temporary = path.with_name(f'{path.name}.tmp')
  temporary.write_text(json.dumps(status) + '\n')
  temporary.replace(path)


def read_status(workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads `status.json`; empty where there is none."""
  try:
    return json.loads((pathlib.Path(workdir) / _STATUS).read_text())
  except (OSError, ValueError):
    return {}
