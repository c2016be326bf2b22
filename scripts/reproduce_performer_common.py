"""What the experiments of `reproduce_performer.py` share."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from runtime import verdicts

__all__ = ['COLORS', 'Finding', 'combine', 'new_axes', 'save']

# Okabe and Ito's palette: distinct with every kind of colour vision.
COLORS = (
  *('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'),
  '#000000',
)


@dataclasses.dataclass(frozen=True)
class Finding:
  """A row of the ledger before it is written.

  Attributes:
    fields: of `ledger.Row`: id, claim, ours, published, trend, verdict,
      explanation.
    draw: writes the picture to a path.
  """

  fields: dict[str, Any]
  draw: Callable[[pathlib.Path], None]


def combine(found: Sequence[verdicts.Verdict]) -> verdicts.Verdict:
  """The verdict of a claim that has several parts, all of which must hold.

  Raises:
    ValueError: for no part.
  """
  if not found:
    raise ValueError('a claim needs a part')
  if 'fails' in found:
    return 'fails'
  return 'inconclusive' if 'inconclusive' in found else 'holds'


def new_axes(columns: int, **options: Any) -> tuple[Any, list[Any]]:
  """An empty figure with panels side by side, and the panels.

  Raises:
    ImportError: without matplotlib.
  """
  from matplotlib import figure

  fig = figure.Figure(figsize=(4.6 * columns, 3.6), layout='constrained')
  axes = fig.subplots(1, columns, squeeze=False, **options)[0]
  for axis in axes:
    axis.spines[['top', 'right']].set_visible(False)
  return fig, list(axes)


def save(fig: Any, path: pathlib.Path) -> None:
  """Writes a PNG whose bytes depend on nothing but the figure."""
  path.parent.mkdir(parents=True, exist_ok=True)
  fig.savefig(path, dpi=120, metadata={'Software': None})
