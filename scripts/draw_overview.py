"""Draws the parts of the workspace: `python scripts/draw_overview.py`.

Writes docs/overview.png, which README.md shows.
"""

import pathlib
from typing import Any, NamedTuple

from runtime.record import pictures

_PATH = pathlib.Path(__file__).resolve().parents[1] / 'docs' / 'overview.png'


class _Box(NamedTuple):
  """A part: its place in inches, its texts, its colour."""

  left: float
  bottom: float
  width: float
  name: str
  text: str
  color: str


_HEIGHT = 1.3
_BLUE, _ORANGE, _GREEN, _PURPLE = pictures.COLORS[:4]
_BOXES = (
  _Box(0.2, 3.6, 3.9, 'performer/', 'FAVOR and FAVOR+ attention,\nprotein and byte models, SLiM', _BLUE),
  _Box(4.6, 3.6, 4.4, 'rl/', 'PPO, Rainbow, SAC, evolution strategies,\nimplicit attention, ODEtoODE', _ORANGE),
  _Box(0.2, 1.9, 3.9, 'nas/', 'ES-ENAS: policies and architectures,\nRL-DARTS: cells as encoders', _GREEN),
  _Box(4.6, 1.9, 4.4, 'hpo/', 'OptFormer, UFOM, AutoRL: tuners,\npopulations, meta-gradients', _PURPLE),
  _Box(0.2, 0.2, 8.8, 'runtime/', 'configurations, training loop, checkpoints, sweeps on processes or Ray, reports, ledger', '#555555'),
)  # fmt: skip
# From what is used to what uses it.
_ARROWS = (
  ((4.1, 4.25), (4.6, 4.25)),
  ((4.6, 3.7), (4.1, 3.1)),
  ((4.1, 3.7), (4.6, 3.1)),
  ((6.8, 3.6), (6.8, 3.2)),
  ((4.1, 2.55), (4.6, 2.55)),
  ((2.15, 1.5), (2.15, 1.9)),
  ((6.8, 1.5), (6.8, 1.9)),
)


def _draw_box(axes: Any, box: _Box) -> None:
  from matplotlib import patches

  shape = patches.FancyBboxPatch(
    (box.left, box.bottom),
    box.width,
    _HEIGHT,
    boxstyle='round,pad=0,rounding_size=0.12',
    facecolor=box.color,
    alpha=0.14,
    edgecolor='none',
  )
  axes.add_patch(shape)
  middle = box.left + box.width / 2
  axes.text(
    middle,
    box.bottom + _HEIGHT - 0.32,
    box.name,
    ha='center',
    va='center',
    fontsize=13,
    weight='bold',
    color=box.color,
    family='monospace',
  )
  axes.text(
    middle, box.bottom + 0.45, box.text, ha='center', va='center', fontsize=10
  )


def main() -> None:
  """Draws the picture."""
  figure = pictures.new_figure(1, 1, (9.2, 5.1))
  axes = figure.add_subplot()
  for box in _BOXES:
    _draw_box(axes, box)
  for start, end in _ARROWS:
    axes.annotate(
      '', end, start, arrowprops={'arrowstyle': '-|>', 'color': '#777777'}
    )
  axes.set(xlim=(0, 9.2), ylim=(0, 5.1), aspect='equal')
  axes.axis('off')
  print(f'wrote {pictures.save(figure, _PATH)}')


if __name__ == '__main__':
  main()
