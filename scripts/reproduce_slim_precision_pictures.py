"""Pictures of `reproduce_slim_precision.py`."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import reproduce_common as common
import reproduce_slim_errors as errors

from performer.slim import drift

__all__ = ['audit', 'lines', 'points']

Table = Mapping[str, Mapping[str, errors.Found]]
_MARKS = {'full': 's', 'subtract': 'o', 'checkpoint': '^'}


def points(table: Table, path: pathlib.Path) -> None:
  """Errors of all seeds, a line for each case."""
  fig, (axis,) = common.new_axes(1)
  fig.set_size_inches(8, 1.4 + 0.3 * len(table))
  for color, kind in zip(common.COLORS, _MARKS, strict=False):
    label: str | None = kind
    for y, row in enumerate(table.values()):
      if kind in row:
        values = np.maximum(row[kind].errors, 1e-18)
        axis.plot(
          values, np.full(len(values), y), _MARKS[kind], color=color,
          label=label, markersize=5, alpha=0.7,
        )  # fmt: skip
        label = None
  axis.set_yticks(range(len(table)), list(table))
  axis.invert_yaxis()
  axis.set_xscale('log')
  axis.grid(axis='x', alpha=0.25)
  axis.set_xlabel('relative error of the gradient')
  axis.legend(frameon=False, fontsize='small')
  common.save(fig, path)


def lines(of_chunk: Table, of_length: Table, path: pathlib.Path) -> None:
  """Errors over C and over L."""
  fig, axes = common.new_axes(2, sharey=True)
  for axis, table in zip(axes, (of_chunk, of_length), strict=True):
    at = [int(case.split('=')[1]) for case in table]
    for color, kind in zip(
      common.COLORS, ('subtract', 'checkpoint'), strict=False
    ):
      rows = [row[kind].errors for row in table.values() if kind in row]
      if rows:
        axis.plot(at, np.array(rows), 'o', color=color, markersize=3)
        axis.plot(at, np.mean(rows, 1), color=color, label=kind)
    axis.set_xscale('log', base=2)
    axis.set_yscale('log')
    axis.set_xlabel(
      'positions of a chunk C' if table is of_chunk else 'length L'
    )
    axis.legend(frameon=False, fontsize='small')
  axes[0].set_ylabel('relative error of the gradient')
  common.save(fig, path)


def audit(
  points: Sequence[tuple[float, float, str]], path: pathlib.Path
) -> None:
  """Drift over error, by state."""
  fig, (axis,) = common.new_axes(1)
  for color, state in zip(
    common.COLORS, ('lost', 'between', 'sound'), strict=False
  ):
    chosen = [(e, d) for e, d, s in points if s == state]
    if chosen:
      x, y = np.maximum(np.array(chosen), 1e-17).T
      axis.plot(x, y, 'o', color=color, label=state, alpha=0.6, markersize=4)
  axis.axhline(drift.THRESHOLD, color='0.4', ls=':', label='threshold')
  axis.set_xscale('log')
  axis.set_yscale('log')
  axis.set_xlabel('relative error of the gradient')
  axis.set_ylabel('drift')
  axis.legend(frameon=False, fontsize='small')
  common.save(fig, path)
