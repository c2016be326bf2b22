"""The report of a run of classifiers: accuracies and pictures."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from runtime import loop as loop_lib
from runtime.record import pictures as pictures_lib

__all__ = ['MEAN', 'pictures', 'score_rows']

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


def pictures(
  accuracies: Sequence[Mapping[str, Any]],
  *,
  norms: Float[np.ndarray, 'm N1 b'] | None,
  sheet: Mapping[str, Float[np.ndarray, 'h w']],
) -> dict[str, loop_lib.Draw]:
  """The pictures of a run's report.

  Args:
    accuracies: the final table; see `score_rows`.
    norms: |g_n| / |g_N| of models and pictures along the depth; None: unknown.
    sheet: one picture of every test set.
  """
  accuracy = {row['pictures']: row['accuracy %'] for row in accuracies}
  titles = [f'{name}\n{accuracy[name]:.1f} %' for name in sheet]
  found = {
    'corruptions.png': lambda path: pictures_lib.heatmaps(
      [*sheet.values()], titles, path, axes_labels=('column', 'row')
    )
  }
  if norms is not None:
    found['gradients.png'] = functools.partial(_draw_norms, norms)
  return found


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
  pictures_lib.quartiles(lines, path, axes_labels=labels)
