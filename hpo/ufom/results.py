"""The report of a finished run: scores and costs."""

import os
from collections.abc import Sequence
from typing import Any

import jax

from hpo.ufom import costs
from runtime.record import pictures as pictures_lib
from runtime.record import series as series_lib

__all__ = ['cost_row', 'draw_cost', 'score_rows']

Row = series_lib.Row


def score_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """The final table: for every evaluated metric its first and last value.

  Args:
    rows: of `metrics.jsonl`.
  """
  names = dict.fromkeys(name for row in rows for name in row)
  table = []
  for name in names:
    if name.startswith('eval/'):
      steps, values = series_lib.series(rows, name)
      table.append(
        {
          'score': name.removeprefix('eval/'),
          f'step {int(steps[0])}': float(values[0]),
          f'step {int(steps[-1])}': float(values[-1]),
        }
      )
  return table


def cost_row(
  spent: costs.Telemetry, price: costs.Cost, seconds: float
) -> dict[str, Any]:
  """The cost of a run, as a table.

  Args:
    spent: gradients of its tasks.
    price: cost of a task.
    seconds: of training.
  """
  spent = jax.device_get(spent)
  total = float(spent.gradients(price))
  whole = float(spent.first_order) * (price.det + price.rnd)
  return {
    'tasks': int(spent.first_order),
    'with exact gradients': int(spent.exact),
    'gradients': total,
    'share of exact': total / max(whole, 1.0),
    'seconds': seconds,
  }


def draw_cost(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
  """Draws the training loss over its cost.

  Args:
    rows: of `metrics.jsonl`.
    path: PNG file to write.
  """
  _, gradients = series_lib.series(rows, 'train/gradients')
  _, losses = series_lib.series(rows, 'train/loss')
  pictures_lib.quartiles(
    {'outer loss': (gradients, losses[None])},
    path,
    axes_labels=('gradient evaluations', 'loss'),
  )
