"""What a step costs: both mechanisms at every length, exact memory squared."""

import numpy as np
import pytest

from performer import attention, cost
from runtime.record import pictures as pictures_lib
from tests.performer.models import model_cases

MODEL = model_cases.small(
  attention.Favor(kernel='elu1', projection=False, features=None),
  causal=False,
  **{'max_length': 8, 'num_layers': 1, 'num_heads': 1, 'd_model': 8, 'd_ff': 8},
)


@pytest.mark.pictures
def test_both_mechanisms_are_measured(tmp_path):
  rows = cost.step_costs(MODEL, (32,))
  found = [(row['length'], row['attention']) for row in rows]
  assert found == [(32, 'Favor'), (32, 'Exact')]
  for row in rows:
    assert np.isfinite(row['ms'])
    assert row['ms'] > 0
    assert row['MiB'] > 0
  if pictures_lib.can_draw():
    cost.draw(rows, tmp_path / 'cost.png')
    assert (tmp_path / 'cost.png').stat().st_size > 5000


@pytest.mark.slow
def test_costs_grow_as_the_mechanisms_do():
  rows = cost.step_costs(MODEL, (256, 1024))
  fast, exact = (
    rows[index + 2]['MiB'] / rows[index]['MiB'] for index in (0, 1)
  )
  # Four times the length: 4 and 16, and what does not grow.
  assert 2 < fast < 5
  assert 10 < exact < 17
