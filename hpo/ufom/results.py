"""What a finished run leaves for a reader: curves, scores, costs."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging

from hpo.ufom import training
from runtime.record import report as report_lib
from runtime.record import writers

__all__ = ['cost_row', 'draw_cost', 'report', 'score_rows']

Row = report_lib.Row


def score_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """The final table: for every evaluated metric its first and last value.

  Args:
    rows: of `metrics.jsonl`.
  """
  names = dict.fromkeys(name for row in rows for name in row)
  table = []
  for name in names:
    if name.startswith('eval/'):
      steps, values = report_lib.series(rows, name)
      table.append(
        {
          'score': name.removeprefix('eval/'),
          f'step {int(steps[0])}': float(values[0]),
          f'step {int(steps[-1])}': float(values[-1]),
        }
      )
  return table


def cost_row(
  trainer: training.Trainer, state: training.TrainState, seconds: float
) -> dict[str, Any]:
  """What a run has spent.

  Args:
    trainer: that ran.
    state: its last state.
    seconds: of training.
  """
  spent, price = jax.device_get(state.spent), trainer.price
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
  """Draws the training loss over what it has cost.

  Args:
    rows: of `metrics.jsonl`.
    path: PNG file to write.
  """
  _, gradients = report_lib.series(rows, 'train/gradients')
  _, losses = report_lib.series(rows, 'train/loss')
  report_lib.quartiles(
    {'outer loss': (gradients, losses[None])},
    path,
    axes_labels=('gradient evaluations', 'loss'),
  )


def report(
  workdir: str | os.PathLike[str],
  *,
  trainer: training.Trainer,
  state: training.TrainState,
  seconds: float,
  argv: Sequence[str] = (),
) -> None:
  """Prints the final tables and writes `workdir/report/`; on process 0 only.

  Args:
    workdir: folder of the run.
    trainer: that ran.
    state: the last one.
    seconds: of training.
    argv: the command line, to show how to continue.
  """
  if jax.process_index() != 0:
    return
  folder = pathlib.Path(workdir) / 'report'
  rows = writers.read_metrics(workdir)
  scores = score_rows(rows)
  spent = [cost_row(trainer, state, seconds)]
  report_lib.write_table(scores, folder / 'scores')
  report_lib.write_table(spent, folder / 'cost')
  print(f'\n{report_lib.table(scores)}\n{report_lib.table(spent)}')
  pictures = report_lib.can_draw()
  report_lib.run_report(workdir, pictures=pictures)
  if pictures:
    draw_cost(rows, folder / 'cost.png')
  else:
    logging.warning('no pictures: they need the extra `report` (matplotlib)')
  print(f'Curves and tables: {folder}')
  if argv:
    print(report_lib.how_to_continue('hpo.ufom.main', argv))
