"""Calls that tests of pools start in other processes."""

import os
import pathlib
import signal
import time


class StrangeError(Exception):
  """It pickles, and fails to be read again."""

  def __init__(self, one, two):
    super().__init__(f'{one} and {two}')


def double(x):
  print('doubling', x)
  return 2 * x


def environment(name):
  return os.environ.get(name)


def process(x):
  return x, os.getpid()


def fails():
  raise KeyError('nothing here')


def fails_strangely():
  raise StrangeError(1, 2)


def dies_once(path):
  """Kills its own process the first time."""
  path = pathlib.Path(path)
  if not path.exists():
    path.touch()
    os.kill(os.getpid(), signal.SIGKILL)
  return 'alive'


def sleeps(path):
  """Says who it is, and ends when it is asked to."""
  pathlib.Path(path).write_text(str(os.getpid()))
  time.sleep(100)
