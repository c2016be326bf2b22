"""What a step costs: both mechanisms at every length, exact memory squared."""

import numpy as np

from performer import attention, cost
from performer.models import transformer
from runtime.record import pictures as pictures_lib


def test_costs_grow_as_the_mechanisms_do(tmp_path):
  model = transformer.Transformer(
    vocab_size=29,
    max_length=8,
    attention=attention.Favor(kernel='elu1', projection=False, features=None),
    causal=False,
    num_layers=1,
    num_heads=1,
    d_model=8,
    d_ff=8,
    dropout=0.0,
  )
  rows = cost.step_costs(model, (256, 1024))
  assert [(r['length'], r['attention']) for r in rows] == [
    (256, 'Favor'),
    (256, 'Exact'),
    (1024, 'Favor'),
    (1024, 'Exact'),
  ]
  fast, exact = (
    rows[index + 2]['MiB'] / rows[index]['MiB'] for index in (0, 1)
  )
  # Four times the length: 4 and 16, and what does not grow.
  assert 2 < fast < 5
  assert 10 < exact < 17
  assert all(np.isfinite(row['ms']) and row['ms'] > 0 for row in rows)
  if pictures_lib.can_draw():
    cost.draw(rows, tmp_path / 'cost.png')
    assert (tmp_path / 'cost.png').stat().st_size > 5000
