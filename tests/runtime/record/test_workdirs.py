"""Who owns a folder, what a failed start leaves, and paths as users write them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from runtime.record import workdirs

HOLD = """
import sys, time
from runtime.record import workdirs
with workdirs.claimed(sys.argv[1]) as claim:
  claim.keep()
  print('held', flush=True)
  time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  """A process that owns a folder."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, tmp_path / 'run'],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.wait()


def fails(folder, action):
  """Claims a folder, does something there, and fails."""

  def attempt():
    with workdirs.claimed(folder) as claim:
      action(claim)
      raise KeyError

  with pytest.raises(KeyError):
    attempt()


def test_a_second_process_is_refused_until_the_first_dies(holder, tmp_path):
  with (
    pytest.raises(ValueError, match=rf'in use by process {holder.pid} on '),
    workdirs.claimed(tmp_path / 'run'),
  ):
    pass
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with workdirs.claimed(tmp_path / 'run'):
    assert workdirs.read_status(tmp_path / 'run')['pid'] == os.getpid()


def test_waits_until_a_folder_is_free(holder, tmp_path):
  began = time.monotonic()
  workdirs.wait_until_free(tmp_path / 'run', 0.2)
  assert time.monotonic() - began >= 0.2  # In vain.
  threading.Timer(0.2, holder.kill).start()
  workdirs.wait_until_free(tmp_path / 'run', 60)
  with workdirs.claimed(tmp_path / 'run'):
    pass
  workdirs.wait_until_free(tmp_path / 'other', 60)
  assert not (tmp_path / 'other').exists()


def test_a_failed_start_leaves_no_trace(tmp_path):
  folder = tmp_path / 'runs' / 'first'
  fails(folder, lambda claim: (claim.folder / 'checkpoints').mkdir())
  assert not any(tmp_path.iterdir())


def test_what_was_there_before_a_failed_start_stays(tmp_path):
  (tmp_path / 'notes').write_text('mine')
  fails(tmp_path, lambda claim: None)
  assert (tmp_path / 'notes').read_text() == 'mine'
  assert not (tmp_path / 'status.json').exists()
  workdirs.write_status(tmp_path, state='finished', step=9)
  before = workdirs.read_status(tmp_path)
  fails(tmp_path, lambda claim: workdirs.write_status(tmp_path, state='odd'))
  assert workdirs.read_status(tmp_path) == before


def test_a_run_that_began_stays(tmp_path):
  fails(tmp_path / 'run', lambda claim: claim.keep())
  assert (tmp_path / 'run').is_dir()


@pytest.mark.parametrize(
  ('name', 'marks'), [('a[x]', r'\[ \]$'), ('a]', r'\]$'), ('a\\b', r'\\$')]
)
def test_paths_that_lose_checkpoints_are_refused(tmp_path, name, marks):
  with (
    pytest.raises(ValueError, match=rf'path has no {marks}'),
    workdirs.claimed(tmp_path / name / 'run'),
  ):
    pass
  assert not any(tmp_path.iterdir())


def test_file_systems_without_locks_are_named(tmp_path, monkeypatch, caplog):
  import errno
  import fcntl

  def refuse(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with workdirs.claimed(tmp_path / 'run') as claim:
    claim.keep()
  assert 'file system has no locks' in caplog.text


def test_status_is_read_as_written_and_may_be_missing(tmp_path):
  assert workdirs.read_status(tmp_path) == {}
  workdirs.write_status(tmp_path, state='running', step=3)
  found = workdirs.read_status(tmp_path)
  assert (found['state'], found['step']) == ('running', 3)
  (tmp_path / 'status.json').write_text('{"state"')
  assert workdirs.read_status(tmp_path) == {}
