"""What tests of runs ask of the rows that they leave."""

import numpy as np


def check_close_rows(found, expected):
  """The same metrics at the same steps, up to rounding."""
  assert [row.keys() for row in found] == [row.keys() for row in expected]
  for mine, other in zip(found, expected, strict=True):
    np.testing.assert_allclose([*mine.values()], [*other.values()], rtol=1e-4)
