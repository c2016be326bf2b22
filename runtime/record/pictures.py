"""Pictures of runs, as PNG files whose bytes depend on their content alone.

They need matplotlib, which the extra `report` installs.
"""

import importlib.util
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.record import series as series_lib

__all__ = [
  'COLORS',
  'LogPanel',
  'can_draw',
  'check_titles',
  'curves',
  'heatmaps',
  'log_lines',
  'new_figure',
  'quartiles',
  'save',
]

Row = series_lib.Row

# Okabe and Ito's palette: distinct with every kind of colour vision.
COLORS = (
  *('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'),
  '#000000',
)
_STYLES = ('-', '--', ':', '-.')
_PANEL = (4.6, 3.2)  # Inches.


def can_draw() -> bool:
  """Tells whether matplotlib is installed."""
  return importlib.util.find_spec('matplotlib') is not None


def new_figure(rows: int, columns: int, panel: tuple[float, float]) -> Any:
  """Returns an empty figure, drawn without a display or global state."""
  if not can_draw():
    raise ImportError(
      "pictures need matplotlib: pip install 'attune[report]' (extra `report`)"
    )
  from matplotlib import figure

  size = (panel[0] * columns, panel[1] * rows)
  return figure.Figure(figsize=size, layout='constrained')


def save(figure: Any, path: str | os.PathLike[str]) -> pathlib.Path:
  """Writes a PNG whose bytes depend on nothing but the figure."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=120, metadata={'Software': None})
  return path


def _label(name: str) -> str:
  """Returns the text of an axis: `step_s` is measured in seconds."""
  text = name.split('/')[-1]
  if text.endswith('_per_s'):
    text = f'{text.removesuffix("_per_s")} per second'
  elif text.endswith('_s'):
    text = f'{text.removesuffix("_s")} time (s)'
  return text.replace('_', ' ')


def curves(
  runs: Mapping[str, Sequence[Sequence[Row]]],
  metrics: Sequence[str],
  path: str | os.PathLike[str],
  *,
  axis: str = 'step',
) -> pathlib.Path:
  """Draws metrics over time, one panel each, training beside evaluation.

  Args:
    runs: by label, the runs of one setting that differ in their seed, each as
      the rows of its `metrics.jsonl`. Several runs are drawn as their median,
      with a band from the least to the greatest value.
    metrics: names of the metrics to draw, as `metric_names` gives them.
    path: PNG file to write; folders are made.
    axis: the unit of time; one of `AXES`.

  Returns:
    The path.

  Raises:
    ValueError: if there are no runs, no run has a metric, or runs that differ
      in their seed share no step.
    ImportError: without matplotlib.
  """
  everything = [
    row for group in runs.values() for rows in group for row in rows
  ]
  unknown = [m for m in metrics if not series_lib.names_of(everything, m)]
  if unknown or not metrics or not everything:
    known = series_lib.metric_names(everything)
    raise ValueError(f'no such metrics, got {unknown=} {metrics=} {known=}')
  columns = min(len(metrics), 3)
  lines = -(-len(metrics) // columns)
  figure = new_figure(lines, columns, _PANEL)
  for index, metric in enumerate(metrics):
    axes = figure.add_subplot(lines, columns, index + 1)
    _draw_metric(axes, runs, metric, axis)
    axes.set_xlabel(series_lib.AXES[axis])
    axes.set_ylabel(_label(metric))
    axes.grid(alpha=0.25)
    if metric.startswith('time/'):
      axes.set_ylim(bottom=0)  # A jitter of 1 % must look like one.
    axes.spines[['top', 'right']].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
      axes.legend(frameon=False, fontsize='small')
  seeds = max(len(group) for group in runs.values())
  if seeds > 1:
    figure.suptitle(f'median of up to {seeds} runs; band: least to greatest')
  return save(figure, path)


def _draw_metric(
  axes: Any,
  runs: Mapping[str, Sequence[Sequence[Row]]],
  metric: str,
  axis: str,
) -> None:
  """Draws every series of a metric: colours tell runs, dashes tell series."""
  one_label = len(runs) == 1
  rows = [row for group in runs.values() for run in group for row in run]
  names = series_lib.names_of(rows, metric)
  for line, (label, group) in enumerate(runs.items()):
    for kind, name in enumerate(names):
      with_name = [run for run in group if any(name in row for row in run)]
      if not with_name:
        continue
      steps, values = series_lib.combine(with_name, name, axis)
      text = series_lib.split(name)[0] if len(names) > 1 else ''
      if not one_label:
        text = f'{label}, {text}' if text else label
      shade = kind if one_label else line
      style = {
        'color': COLORS[shade % len(COLORS)],
        'linestyle': '-' if one_label else _STYLES[kind % len(_STYLES)],
        'marker': 'o' if len(steps) <= 12 else None,
        'markersize': 3,
      }
      axes.plot(steps, np.median(values, 0), label=text or None, **style)
      if len(values) > 1:
        axes.fill_between(
          steps,
          values.min(0),
          values.max(0),
          color=style['color'],
          alpha=0.18,
          linewidth=0,
        )


def quartiles(
  lines: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
  path: str | os.PathLike[str],
  *,
  axes_labels: tuple[str, str],
) -> pathlib.Path:
  """Draws medians over repetitions, with bands from quartile to quartile.

  Args:
    lines: by label, positions [n] and values [repetitions, n]; NaN are left
      out.
    path: PNG file to write; folders are made.
    axes_labels: texts of the horizontal and the vertical axis.

  Returns:
    The path.

  Raises:
    ValueError: if there are no lines, or values do not fit their positions.
    ImportError: without matplotlib.
  """
  if not lines:
    raise ValueError('there must be lines to draw, got none')
  figure = new_figure(1, 1, _PANEL)
  axes = figure.add_subplot()
  for index, (label, (x, values)) in enumerate(lines.items()):
    x, values = np.asarray(x, np.float64), np.asarray(values, np.float64)
    if values.shape[1:] != x.shape:
      raise ValueError(
        f'{label!r} must have a value per position, got {values.shape=} '
        f'{x.shape=}'
      )
    known = np.isfinite(values).any(0)
    x, values = x[known], values[:, known]
    low, middle, high = np.nanpercentile(values, (25, 50, 75), axis=0)
    color = COLORS[index % len(COLORS)]
    axes.plot(x, middle, color=color, label=f'{label} ({len(values)})')
    axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
  axes.set(xlabel=axes_labels[0], ylabel=axes_labels[1])
  axes.grid(alpha=0.25)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False, fontsize='small')
  return save(figure, path)


def check_titles(matrices: Sequence[Any], titles: Sequence[str]) -> None:
  """Rejects no matrices at all, and more or fewer titles than matrices.

  Raises:
    ValueError: naming both numbers.
  """
  if not matrices or len(matrices) != len(titles):
    raise ValueError(
      'every matrix needs a title, got '
      f'{len(matrices)} matrices and {len(titles)} titles'
    )


def heatmaps(
  arrays: Sequence[npt.ArrayLike],
  titles: Sequence[str],
  path: str | os.PathLike[str],
  *,
  axes_labels: tuple[str, str] = ('key position', 'query position'),
) -> pathlib.Path:
  """Draws matrices side by side with one scale of colours.

  Args:
    arrays: matrices [rows, columns], such as attention weights; row 0 is at
      the top.
    titles: one for each matrix.
    path: PNG file to write; folders are made.
    axes_labels: texts of the horizontal and the vertical axis.

  Returns:
    The path.

  Raises:
    ValueError: if there is no matrix, one is not two-dimensional or not finite,
      or the number of titles differs.
    ImportError: without matplotlib.
  """
  matrices = [np.asarray(a, np.float64) for a in arrays]
  check_titles(matrices, titles)
  for matrix, title in zip(matrices, titles, strict=True):
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
      raise ValueError(f'not a finite matrix: {title!r}, got {matrix.shape=}')
  columns = min(len(matrices), 4)
  lines = -(-len(matrices) // columns)
  figure = new_figure(lines, columns, (3.2, 3.2))
  low = min(0.0, *(matrix.min() for matrix in matrices))
  high = max(matrix.max() for matrix in matrices)
  panels = []
  for index, (matrix, title) in enumerate(zip(matrices, titles, strict=True)):
    axes = figure.add_subplot(lines, columns, index + 1)
    image = axes.imshow(
      matrix, cmap='viridis', vmin=low, vmax=high, interpolation='nearest'
    )
    axes.set_title(title, fontsize='medium')
    axes.set_xlabel(axes_labels[0])
    if index % columns == 0:
      axes.set_ylabel(axes_labels[1])
    panels.append(axes)
  figure.colorbar(image, ax=panels, shrink=0.8)
  return save(figure, path)


class LogPanel(NamedTuple):
  """Lines over a logarithmic axis.

  Attributes:
    title: above the panel, with the unit of the values.
    x_label: text of the horizontal axis.
    lines: values by position, by label; none may be empty.
    log_y: whether the vertical axis is logarithmic too; else it begins at 0.
  """

  title: str
  x_label: str
  lines: Mapping[str, Mapping[float, float]]
  log_y: bool = True


def log_lines(
  panels: Sequence[LogPanel],
  path: str | os.PathLike[str],
  *,
  title: str = '',
) -> pathlib.Path:
  """Draws growth, with one legend for all panels, three of them in a row.

  Args:
    panels: panels to draw.
    path: PNG file to write; folders are made.
    title: above all panels.

  Returns:
    The path.

  Raises:
    ImportError: without matplotlib.
  """
  columns = min(3, len(panels))
  lines = -(-len(panels) // columns)
  # The legend stands beside the panels.
  figure = new_figure(lines, columns, (4.2 + 1.5 / columns, 3.4))
  labels = list(dict.fromkeys(x for panel in panels for x in panel.lines))
  handles: dict[str, Any] = {}
  for index, panel in enumerate(panels, 1):
    axes = figure.add_subplot(lines, columns, index)
    for label, points in panel.lines.items():
      style, color = divmod(labels.index(label), len(COLORS))
      (handles[label],) = axes.plot(
        *zip(*sorted(points.items()), strict=True),
        _STYLES[style],
        color=COLORS[color],
        marker='o',
        markersize=3,
      )
    axes.set_title(panel.title, fontsize='medium')
    axes.set_xlabel(panel.x_label)
    axes.set_xscale('log', base=2)
    if panel.log_y:
      axes.set_yscale('log')
    else:
      axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
  figure.legend(
    handles.values(), handles.keys(), loc='outside right center', frameon=False
  )
  figure.suptitle(title, fontsize='medium')
  return save(figure, path)
