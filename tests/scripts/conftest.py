import importlib
import pathlib
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / 'scripts'


@pytest.fixture(scope='module')
def load():
  """Imports scripts as they import each other."""
  sys.path.insert(0, str(SCRIPTS))
  yield importlib.import_module
  sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope='module')
def script(request, load):
  """The script that the tests of a file are named after."""
  return load(request.module.__name__.rpartition('test_')[2])
