"""Pictures of rows: panels of lines, bars or shaded numbers, side by side.

A row says what its panels show; only this file and `runtime.record.pictures` draw.
"""

import dataclasses
import itertools
import math
import os
import pathlib
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from papers import study
from runtime.record import pictures as pictures_lib
from runtime.record import tables

__all__ = [
  'Bars',
  'Line',
  'Lines',
  'Panel',
  'Shades',
  'bars',
  'by_arm',
  'by_place',
  'contact_sheet',
  'draw',
  'lines',
  'of_arms',
  'write_curves',
]

Spread = Literal['each', 'mean', 'pooled', 'range', 'quartiles']
_PANEL = (4.6, 3.6)  # Inches.


@dataclasses.dataclass(frozen=True)
class Line:
  """A curve, of one run or of several.

  Attributes:
    label: text of the legend; empty: none.
    x: positions [n], or of every run [runs][n].
    y: values [n], or of every run [runs][n].
    spread: of several runs: 'each' a thin line; 'pooled': their mean; 'mean':
      each, and a thick line for the mean; 'range' and 'quartiles': the median
      and a band.
    style: as of matplotlib, such as 'o-' or '--'.
    color: index in the palette; None: the next one.
  """

  label: str
  x: Any
  y: Any
  spread: Spread = 'each'
  style: str = '-'
  color: int | None = None

  def runs(self) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions and values of every run."""
    ys = [
      np.asarray(y) for y in ([self.y] if np.ndim(self.y[0]) == 0 else self.y)
    ]
    xs = [self.x] * len(ys) if np.ndim(self.x[0]) == 0 else self.x
    return [(np.asarray(x), y) for x, y in zip(xs, ys, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Axes:
  """Settings of the axes that all panels share.

  Attributes:
    xlabel: text; as the next.
    ylabel: text.
    xscale: 'linear', 'log', or 'log2'; as the next.
    yscale: scale.
    levels: heights of dotted lines across the panel, by label.
    options: others of `Axes.set`, such as `ylim`.
  """

  xlabel: str = ''
  ylabel: str = ''
  xscale: str = 'linear'
  yscale: str = 'linear'
  levels: Mapping[str, float] = dataclasses.field(default_factory=dict)
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def finish(self, axes: Any, *, most: int = 5) -> None:
    """Labels, scales, levels and the legend.

    Args:
      axes: of the panel.
      most: entries of a legend within the panel; a longer one stands beside it.
    """
    for style, (label, height) in zip(
      (':', '--', '-.') * len(self.levels), self.levels.items(), strict=False
    ):
      axes.axhline(height, color='0.4', ls=style, lw=1, label=label)
    for axis in 'xy':
      scale = getattr(self, f'{axis}scale')
      if scale != 'linear':  # Setting a scale resets the ticks.
        base = {'base': 2} if scale == 'log2' else {}
        getattr(axes, f'set_{axis}scale')(scale.removesuffix('2'), **base)
    axes.set(xlabel=self.xlabel, ylabel=self.ylabel, **self.options)
    axes.spines[['top', 'right']].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
      beside = {'loc': 'center left', 'bbox_to_anchor': (1, 0.5)}
      axes.legend(
        frameon=False, fontsize='small', **beside if len(handles) > most else {}
      )


@dataclasses.dataclass(frozen=True)
class Lines(_Axes):
  """Curves in one panel; from the eighth on hollow and dashed, as colours repeat.

  Attributes:
    lines: the curves.
  """

  lines: Sequence[Line] = ()

  def draw(self, axes: Any) -> None:
    """Draws the curves."""
    for index, line in enumerate(self.lines):
      chosen = index if line.color is None else line.color
      again, number = divmod(chosen, len(pictures_lib.COLORS))
      if again:
        dashed = re.sub(r'-+$', '--', line.style)
        line = dataclasses.replace(line, style=dashed)
      _draw_line(axes, line, pictures_lib.COLORS[number], filled=not again)
    self.finish(axes)


def _draw_line(
  axes: Any, line: Line, color: str, *, filled: bool = True
) -> None:
  style = {'color': color, 'markersize': 4}
  style |= {} if filled else {'fillstyle': 'none'}
  runs = line.runs()
  label = line.label or None
  if len(runs) == 1:
    axes.plot(*runs[0], line.style, label=label, **style)
  elif line.spread in ('each', 'mean', 'pooled'):
    thin = {'lw': 1} if line.spread == 'each' else {'lw': 0.6, 'alpha': 0.5}
    for i, run in enumerate(runs if line.spread != 'pooled' else ()):
      text = label if i == 0 and line.spread == 'each' else None
      axes.plot(*run, line.style, label=text, **style, **thin)
    if line.spread != 'each':
      mean = np.mean(runs, axis=0)
      axes.plot(*mean, line.style, label=label, **style)
  else:
    ends = (0, 50, 100) if line.spread == 'range' else (25, 50, 75)
    low, middle, high = np.percentile([y for _, y in runs], ends, axis=0)
    axes.plot(runs[0][0], middle, line.style, label=label, **style)
    axes.fill_between(runs[0][0], low, high, color=color, alpha=0.15, lw=0)


@dataclasses.dataclass(frozen=True)
class Bars(_Axes):
  """Horizontal bars: one for each name in each group.

  Attributes:
    names: from top to bottom.
    groups: values, one for each name, by label.
    marks: values that are marked across the bars, one for each name, by label.
  """

  names: Sequence[str] = ()
  groups: Mapping[str, Sequence[float]] = dataclasses.field(
    default_factory=dict
  )
  marks: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)

  def draw(self, axes: Any) -> None:
    """Draws the bars."""
    places, thick = np.arange(len(self.names)), 0.8 / len(self.groups)
    for i, (label, values) in enumerate(self.groups.items()):
      shifted = places + (i - (len(self.groups) - 1) / 2) * thick
      color = pictures_lib.COLORS[i % len(pictures_lib.COLORS)]
      axes.barh(shifted, values, 0.95 * thick, color=color, label=label or None)
    for i, (label, values) in enumerate(self.marks.items(), len(self.groups)):
      color = pictures_lib.COLORS[i % len(pictures_lib.COLORS)]
      axes.vlines(values, places - 0.4, places + 0.4, color=color, label=label)
    axes.set_yticks(places, self.names)
    axes.invert_yaxis()
    # Bars fill the panel: a legend within it would hide some.
    self.finish(axes, most=1)


@dataclasses.dataclass(frozen=True)
class Shades(_Axes):
  """A table whose shades compare numbers.

  Attributes:
    rows: names from top to bottom.
    columns: names from left to right.
    values: [rows, columns].
    by_column: whether shades compare the rows within each column, and not all
      numbers.
  """

  rows: Sequence[str] = ()
  columns: Sequence[str] = ()
  values: Any = ()
  by_column: bool = True

  def draw(self, axes: Any) -> None:
    """Draws shades and numbers."""
    values = np.asarray(self.values)
    axis = 0 if self.by_column else None
    low, high = values.min(axis), values.max(axis)
    shades = (values - low) / np.maximum(high - low, 1e-9)
    axes.imshow(shades, cmap='cividis', aspect='auto', vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(values):
      color = 'black' if shades[row, column] > 0.5 else 'white'
      place = {'ha': 'center', 'va': 'center', 'fontsize': 'x-small'}
      axes.text(column, row, f'{value:.1f}', color=color, **place)
    axes.set_xticks(
      range(len(self.columns)), self.columns, rotation=40, ha='right'
    )
    axes.set_yticks(range(len(self.rows)), self.rows)
    self.finish(axes)

  def size(self) -> tuple[float, float]:
    """Inches."""
    return 0.55 * len(self.columns) + 3, 0.42 * len(self.rows) + 2


Panel = Lines | Bars | Shades


def by_arm(
  results: study.Results,
  y: str,
  x: str | Sequence[float] | None = None,
  *,
  arms: Sequence[str] | None = None,
  spread: Spread = 'each',
  style: str = '-',
  **axes: Any,
) -> Lines:
  """A panel with a line for every arm: over positions, or the curves of records.

  Args:
    results: of a study.
    y: metric in the records: a number at the positions of the study that have
      it, or a curve if there is one position.
    x: of a curve, a metric or places; None: 1, 2, ...
    arms: which; None: all.
    spread: as for `Line`, like `style`.
    style: of the lines.
    **axes: of `Lines`.
  """
  found = []
  for arm in results.arms if arms is None else arms:
    if results.study.at:
      points = results.by_place(arm, y)
      xs, ys = [*points], np.stack([*points.values()], axis=1)
    else:
      ys = results.curves(arm, y)
      xs = results.curves(arm, x) if isinstance(x, str) else x
      xs = [np.arange(1, len(curve) + 1) for curve in ys] if x is None else xs
    found.append(Line(arm, xs, ys, spread, style))
  return Lines(lines=found, **axes)


def lines(
  curves: Mapping[str, Any],
  x: Any,
  *,
  spread: Spread = 'each',
  style: str = '-',
  **axes: Any,
) -> Lines:
  """A panel with a line for every label, all over the same places.

  Args:
    curves: values [n], or of every run [runs][n], by label.
    x: places [n].
    spread: as for `Line`, like `style`.
    style: of the lines.
    **axes: of `Lines`.
  """
  found = [Line(label, x, y, spread, style) for label, y in curves.items()]
  return Lines(lines=found, **axes)


def by_place(
  curves: Mapping[str, Mapping[float, npt.ArrayLike]],
  *,
  unit: float = 1.0,
  spread: Spread = 'range',
  style: str = 'o-',
  **axes: Any,
) -> Lines:
  """A panel with a line for every label, each over places of its own.

  Args:
    curves: by label and place, such as a length: a number, or one per seed.
    unit: that numbers are divided by.
    spread: as for `Line`, like `style`.
    style: of the lines.
    **axes: of `Lines`.
  """
  found = [
    Line(
      label,
      [*points],
      np.stack([*points.values()], axis=-1) / unit,
      spread,
      style,
    )
    for label, points in curves.items()
  ]
  return Lines(lines=found, **axes)


def of_arms(
  metrics: Mapping[str, str],
  x: str | Sequence[float] | Callable[[study.Results], Any] | None = None,
  *,
  levels: Mapping[str, float]
  | Callable[[study.Results], Mapping[str, float]] = types.MappingProxyType({}),
  **options: Any,
) -> Callable[[study.Results], list[Lines]]:
  """The figure of a row: a panel for each metric, as `by_arm` makes it.

  Args:
    metrics: texts of the vertical axes, by metric.
    x: as for `by_arm`, or what makes it of the results; as the next.
    levels: as for `Lines`.
    **options: others of `by_arm`.
  """

  def figure(results: study.Results) -> list[Lines]:
    at, heights = (v(results) if callable(v) else v for v in (x, levels))
    return [
      by_arm(results, metric, at, ylabel=text, levels=heights, **options)
      for metric, text in metrics.items()
    ]

  return figure


def bars(
  metrics: Mapping[str, str], *, factor: float = 1.0, **axes: Any
) -> Callable[[study.Results], Bars]:
  """The figure of a row: a bar for every arm, the mean over seeds.

  Args:
    metrics: in the records, which have one position, by label of the group; '':
      no legend.
    factor: of the numbers, such as 1000 for milliseconds.
    **axes: of `Bars`.
  """

  def figure(results: study.Results) -> Bars:
    groups = {
      label: [factor * results(arm, metric).mean() for arm in results.arms]
      for label, metric in metrics.items()
    }
    return Bars(names=results.arms, groups=groups, **axes)

  return figure


def draw(
  panels: Sequence[Panel], path: str | os.PathLike[str], *, title: str = ''
) -> pathlib.Path:
  """Draws panels side by side.

  Args:
    panels: panels to draw.
    path: PNG file to write; folders are made.
    title: above all panels.

  Returns:
    The path.

  Raises:
    ImportError: without matplotlib.
  """
  sizes = [p.size() if isinstance(p, Shades) else _PANEL for p in panels]
  width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
  figure = pictures_lib.new_figure(1, len(panels), (width, height))
  for index, panel in enumerate(panels, 1):
    panel.draw(figure.add_subplot(1, len(panels), index))
  for axes, following in itertools.pairwise(figure.axes):
    if _beside(axes) and _beside(axes) == _beside(following):
      axes.get_legend().remove()
  if title:
    figure.suptitle(title, fontsize='medium')
  return pictures_lib.save(figure, path)


def _beside(axes: Any) -> list[str]:
  """Entries of a legend beside a panel; none if it stands within."""
  legend = axes.get_legend()
  if legend is None or legend.get_bbox_to_anchor() is axes.bbox:
    return []
  return [text.get_text() for text in legend.get_texts()]


def write_curves(
  panels: Sequence[Panel], path: str | os.PathLike[str]
) -> pathlib.Path:
  """Writes the curves of all panels as CSV: label, run, x and value."""
  rows = [
    {'label': line.label, 'run': run, 'x': float(x), 'value': float(y)}
    for panel in panels
    if isinstance(panel, Lines)
    for line in panel.lines
    for run, points in enumerate(line.runs())
    for x, y in zip(*points, strict=True)
  ]
  return tables.write_csv(rows, path)


def contact_sheet(
  pictures: Mapping[str, str | os.PathLike[str]],
  path: str | os.PathLike[str],
  *,
  columns: int = 8,
) -> pathlib.Path:
  """Draws small copies of pictures.

  Args:
    pictures: PNG files by title; at least one.
    path: PNG file to write.
    columns: of the sheet.

  Returns:
    The path.
  """
  from matplotlib import image

  lines = math.ceil(len(pictures) / columns)
  figure = pictures_lib.new_figure(lines, columns, (1.6, 1.4))
  for index, (title, file) in enumerate(pictures.items(), 1):
    axes = figure.add_subplot(lines, columns, index)
    axes.imshow(_thumbnail(image.imread(file)), aspect='equal')
    axes.set_title(title, fontsize='x-small')
    axes.axis('off')
  return pictures_lib.save(figure, path)


def _thumbnail(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
  """Means over blocks, so that thin lines do not vanish."""
  factor = max(1, pixels.shape[1] // 300)
  height, width = (n - n % factor for n in pixels.shape[:2])
  blocks = pixels[:height, :width].reshape(
    height // factor, factor, width // factor, factor, -1
  )
  return blocks.mean((1, 3))
