import importlib
import pathlib
import sys

import jax
import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / 'scripts'


@pytest.fixture(scope='module')
def load():
  """Imports scripts as they import each other."""
  sys.path.insert(0, str(SCRIPTS))
  yield importlib.import_module
  sys.path.remove(str(SCRIPTS))


@pytest.fixture
def quick_compiler():
  """These programs run once."""
  name = 'jax_disable_most_optimizations'
  before = jax.config.read(name)
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)
