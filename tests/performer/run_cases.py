"""Runs of configurations, and what tests ask of the rows that they leave."""

import numpy as np

from runtime import trainer
from runtime.config import sessions
from runtime.context import RunContext


def protein_run(workdir, *params):
  """A causal model of proteins, after two steps."""
  files = ['configs/performer/protein_causal_tiny.gin']
  params = ['STEPS = 2', 'WARMUP_STEPS = 1', 'MAX_LENGTH = 64', *params]
  with sessions.session(trainer.train, files, params) as parsed:
    parsed.build(
      workdir=str(workdir),
      seed=0,
      context=RunContext(operative_config=parsed.operative),
    )


def check_close_rows(found, expected):
  """The same metrics at the same steps, up to rounding."""
  assert [row.keys() for row in found] == [row.keys() for row in expected]
  for mine, other in zip(found, expected, strict=True):
    np.testing.assert_allclose([*mine.values()], [*other.values()], rtol=1e-4)
