"""What a finished run of classifiers leaves: tables, curves, pictures."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Float

from runtime.record import report as report_lib

__all__ = ['MEAN', 'report', 'score_rows']

MEAN = 'mean of the corruptions'

Scores = Mapping[str, Mapping[str, Float[np.ndarray, ' m']]]


def score_rows(scores: Scores) -> list[dict[str, Any]]:
  """The final table.

  Args:
    scores: by test set, 'loss' and 'accuracy' of every model. The clean set is
      called 'test', all others are corrupted.

  Returns:
    A row per set, and one of the corrupted sets' mean. Accuracies are in
    percent; errors are standard errors over models.
  """
  corrupted = [found for name, found in scores.items() if name != 'test']
  named = dict(scores)
  if corrupted:
    named[MEAN] = {
      kind: np.mean([found[kind] for found in corrupted], axis=0)
      for kind in corrupted[0]
    }
  return [{'pictures': name} | _row(found) for name, found in named.items()]


def _row(found: Mapping[str, Float[np.ndarray, ' m']]) -> dict[str, Any]:
  accuracy, models = 100 * found['accuracy'], len(found['accuracy'])
  error = accuracy.std(ddof=1) / models**0.5 if models > 1 else None
  return {
    'accuracy %': accuracy.mean(),
    'error': error,
    'loss': found['loss'].mean(),
    'models': models,
  }


def report(
  workdir: str | os.PathLike[str],
  *,
  scores: Scores,
  norms: Float[np.ndarray, 'm N1 b'] | None,
  sheet: Mapping[str, Float[np.ndarray, 'h w']],
  argv: Sequence[str] = (),
) -> None:
  """Prints the final table and writes `workdir/report/`; on process 0 only.

  Args:
    workdir: folder of the run.
    scores: see `score_rows`.
    norms: |g_n| / |g_N| of models and pictures along the depth; None: unknown.
    sheet: one picture of every test set.
    argv: the command line, to show how to continue.
  """
  if jax.process_index() != 0:
    return
  folder = pathlib.Path(workdir) / 'report'
  table = score_rows(scores)
  report_lib.write_table(table, folder / 'accuracy')
  print(f'\n{report_lib.table(table)}')
  pictures = report_lib.can_draw()
  report_lib.run_report(workdir, pictures=pictures)
  if pictures:
    accuracy = {row['pictures']: row['accuracy %'] for row in table}
    titles = [f'{name}\n{accuracy[name]:.1f} %' for name in sheet]
    report_lib.heatmaps(
      [*sheet.values()],
      titles,
      folder / 'corruptions.png',
      axes_labels=('column', 'row'),
    )
    if norms is not None:
      _draw_norms(norms, folder / 'gradients.png')
  else:
    logging.warning('no pictures: they need the extra `report` (matplotlib)')
  print(f'Curves and tables: {folder}')
  if argv:
    print(report_lib.how_to_continue('rl.train', argv))


def _draw_norms(norms: Float[np.ndarray, 'm N1 b'], path: pathlib.Path) -> None:
  """|g_n| / |g_N| over n: quartiles of pictures, least and greatest."""
  depth = np.arange(norms.shape[1])
  flat = np.moveaxis(norms, 1, 2).reshape(-1, len(depth))
  known = flat[np.isfinite(flat).all(1)]
  if not known.size:
    return
  lines = {
    'pictures': (depth, known),
    'greatest': (depth, known.max(0)[None]),
    'least': (depth, known.min(0)[None]),
  }
  labels = ('step n of the flow', 'norm of dL/dx at n over that at N')
  report_lib.quartiles(lines, path, axes_labels=labels)
