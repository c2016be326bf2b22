"""Fixtures of several folders."""

import jax
import pytest


@pytest.fixture
def float64():
  """What JAX makes of NumPy's numbers is as wide as they are."""
  with jax.enable_x64(True):
    yield
