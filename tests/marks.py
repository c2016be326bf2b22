"""Parameters of tests that only `make test-all` runs."""

import pytest


def slow(*cases):
  """The cases as slow ones; a tuple is one case of several arguments."""
  return [
    pytest.param(
      *(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow
    )
    for case in cases
  ]
