"""Pools: outcomes, lost processes, limits; the same on Ray."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from runtime.sweeping import calls as calls_lib
from runtime.sweeping import pool as pool_lib
from tests import marks
from tests.runtime.sweeping import calls

ROOT = pathlib.Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.filterwarnings('ignore::FutureWarning')


def outcomes(pool, count):
  found = []
  while len(found) < count:
    found += pool.wait()
  return {one.key: one for one in found}


@pytest.fixture(params=[None, *marks.slow('local')], ids=['processes', 'ray'])
def make(request):
  return lambda workers, **options: pool_lib.make(
    workers, ray_address=request.param, **options
  )


def test_values_errors_logs_and_lost_processes(make, tmp_path):
  log = tmp_path / 'log.txt'
  with make(5) as pool:
    pool.start('value', calls.double, 4, log=str(log))
    pool.start('error', calls.fails)
    pool.start('strange', calls.fails_strangely)
    pool.start('lost', calls.dies_once, str(tmp_path / 'mark'))
    assert set(pool.running) == {'value', 'error', 'strange', 'lost'}
    found = outcomes(pool, 4)
    assert pool.running == []
    assert pool.wait() == []
  assert found['value'] == calls_lib.Outcome('value', 8)
  assert log.read_text() == 'doubling 4\n'
  assert isinstance(found['error'].error, KeyError)
  assert 'in fails' in found['error'].error.__notes__[0]
  assert '1 and 2' in str(found['strange'].error)
  assert isinstance(found['lost'].error, calls_lib.LostError)
  assert 'lost: ' in str(found['lost'].error)


def test_each_call_has_a_process_and_lost_ones_are_repeated(make, tmp_path):
  mark = str(tmp_path / 'mark')
  work = {i: (calls.process, i) for i in range(3)}
  with make(2) as pool:
    found = dict(pool_lib.results(pool, work))
    assert [found[i][0] for i in range(3)] == [0, 1, 2]
    assert len({process for _, process in found.values()} | {os.getpid()}) == 4
    again = pool_lib.results(pool, {0: (calls.dies_once, mark)}, retries=1)
    assert dict(again) == {0: 'alive'}
    with pytest.raises(calls_lib.LostError):
      list(pool_lib.results(pool, {0: (calls.dies_once, mark + '2')}))
    with pytest.raises(KeyError):
      list(pool_lib.results(pool, {0: (calls.fails,)}, retries=5))


def test_threads_and_gpus_of_a_call(monkeypatch):
  for name in ('PJRT_NPROC', 'OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES'):
    monkeypatch.delenv(name, raising=False)
  resources = calls_lib.Resources(cpus=3, gpus=2)
  with pool_lib.make(2, resources=resources) as pool:
    pool.start('threads', calls.environment, 'PJRT_NPROC')
    pool.start('gpus', calls.environment, 'CUDA_VISIBLE_DEVICES')
    found = outcomes(pool, 2)
  assert found['threads'].value == '3'
  assert found['gpus'].value == '2,3'
  assert 'PJRT_NPROC' not in os.environ


def test_what_a_machine_lacks_is_refused(monkeypatch):
  with pytest.raises(ValueError, match='workers must be positive, got 0'):
    pool_lib.make(0)
  with pytest.raises(ValueError, match=r"'TPU': 4.*--ray_address"):
    pool_lib.make(1, resources=calls_lib.Resources(others={'TPU': 4}))
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '5')
  with pytest.raises(ValueError, match='got 2 and CUDA_VISIBLE_DEVICES=5'):
    pool_lib.make(2, resources=calls_lib.Resources(gpus=1))
  with pytest.raises(ValueError, match=r'self\.cpus=0'):
    calls_lib.Resources(cpus=0)


def _alive(process):
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  return True


def _wait_until(condition):
  until = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < until
    time.sleep(0.02)


def test_leaving_a_pool_ends_its_processes(tmp_path):
  path = tmp_path / 'pid'
  with pool_lib.make(1) as pool:
    pool.start(0, calls.sleeps, str(path))
    _wait_until(lambda: path.exists() and path.read_text())
  assert not _alive(int(path.read_text()))


PARENT = """
import sys
from runtime.sweeping import pool as pool_lib
from tests.runtime.sweeping import calls
if __name__ == '__main__':
  with pool_lib.make(1) as pool:
    pool.start(0, calls.sleeps, sys.argv[1])
    pool.wait()
"""


def test_processes_end_with_their_parent(tmp_path):
  path = tmp_path / 'pid'
  code = tmp_path / 'parent.py'
  code.write_text(PARENT)
  parent = subprocess.Popen(
    [sys.executable, code, path],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  _wait_until(lambda: path.exists() and path.read_text())
  parent.send_signal(signal.SIGKILL)
  parent.wait()
  _wait_until(lambda: not _alive(int(path.read_text())))
