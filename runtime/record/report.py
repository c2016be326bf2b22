"""Pictures and tables of runs, from the rows of `metrics.jsonl`.

A row is `{'step': 100, 'train/loss': 2.9, 'eval/valid/accuracy': 0.11}`. Names
of scalars end with the metric; what stands before it is the series: `train`,
or the set of an evaluation, such as `valid`. A picture puts the series of one
metric together, and several runs as their median and range.

Pictures need matplotlib, which the extra `report` installs; tables do not.
"""

import importlib.util
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from runtime.record import tables

__all__ = [
  'AXES',
  'COLORS',
  'can_draw',
  'curves',
  'heatmaps',
  'how_to_continue',
  'log_lines',
  'metric_names',
  'new_figure',
  'quartiles',
  'run_report',
  'save',
  'series',
  'summary_rows',
  'table',
  'write_table',
]

Row = Mapping[str, Any]

table = tables.table
write_table = tables.write_table

# Columns of a row that say when it was written, and their texts.
AXES = {
  'step': 'step',
  'time/examples': 'examples',
  'time/train_s': 'seconds of training',
  'time/unix_s': 'seconds since 1970',
}

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


def _split(name: str) -> tuple[str, str]:
  """Splits `eval/valid/loss` into the series `valid` and the metric `loss`."""
  *before, metric = name.split('/')
  return (before[-1] if before else ''), metric


def metric_names(rows: Sequence[Row]) -> list[str]:
  """Lists the metrics of a run in the order of their first appearance.

  Axes of curves, such as `time/examples`, do not count as metrics.

  Args:
    rows: rows of `metrics.jsonl`.

  Returns:
    Names without their series, `loss` for `train/loss` and `eval/valid/loss`;
    a name outside `train/` and `eval/` stays whole, such as `time/step_s`.
  """
  names: dict[str, None] = {}
  for row in rows:
    for name in row:
      if name not in AXES:
        inside = name.startswith(('train/', 'eval/'))
        names[_split(name)[1] if inside else name] = None
  return list(names)


def _names_of(rows: Sequence[Row], metric: str) -> list[str]:
  """Lists the scalars of a metric, training first."""
  names = dict.fromkeys(name for row in rows for name in row)
  if metric in names:
    return [metric]
  groups = ('train/', 'eval/')
  found = [
    name
    for name in names
    if name.startswith(groups) and _split(name)[1] == metric
  ]
  return sorted(found, key=lambda name: name.startswith('eval/'))


def series(
  rows: Sequence[Row], name: str, axis: str = 'step'
) -> tuple[Float[np.ndarray, ' n'], Float[np.ndarray, ' n']]:
  """Returns one scalar over time.

  Args:
    rows: rows of `metrics.jsonl`; those without the scalar are left out, and of
      two at one position the later counts.
    name: full name of the scalar, such as `eval/valid/loss`.
    axis: the unit of time; one of `AXES`.

  Returns:
    Positions, rising, and values, float64; a null in the file is NaN.
  """
  points = {row[axis]: row[name] for row in rows if name in row and axis in row}
  steps = sorted(points)
  values = [np.nan if points[s] is None else points[s] for s in steps]
  return np.array(steps, np.float64), np.array(values, np.float64)


def _combine(
  runs: Sequence[Sequence[Row]], name: str, axis: str
) -> tuple[Float[np.ndarray, ' n'], Float[np.ndarray, 'runs n']]:
  """Stacks a scalar of several runs at the steps that all of them have.

  Wall times differ between runs: they are averaged.
  """
  points = [series(rows, name) for rows in runs]
  common = points[0][0]
  for steps, _ in points[1:]:
    common = np.intersect1d(common, steps)
  if not common.size:
    raise ValueError(f'the runs share no step that has {name!r}')
  values = [v[np.isin(steps, common)] for steps, v in points]
  if axis == 'step':
    return common, np.stack(values)
  places = [
    [dict(zip(*series(rows, axis), strict=True)).get(s, np.nan) for s in common]
    for rows in runs
  ]
  return np.mean(places, axis=0), np.stack(values)


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
  unknown = [m for m in metrics if not _names_of(everything, m)]
  if unknown or not metrics or not everything:
    known = metric_names(everything)
    raise ValueError(f'no such metrics, got {unknown=} {metrics=} {known=}')
  columns = min(len(metrics), 3)
  lines = -(-len(metrics) // columns)
  figure = new_figure(lines, columns, _PANEL)
  for index, metric in enumerate(metrics):
    axes = figure.add_subplot(lines, columns, index + 1)
    _draw_metric(axes, runs, metric, axis)
    axes.set_xlabel(AXES[axis])
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
  names = _names_of(rows, metric)
  for line, (label, group) in enumerate(runs.items()):
    for kind, name in enumerate(names):
      with_name = [run for run in group if any(name in row for row in run)]
      if not with_name:
        continue
      steps, values = _combine(with_name, name, axis)
      text = _split(name)[0] if len(names) > 1 else ''
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


def log_lines(
  panels: Sequence[
    tuple[str, Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]]]
  ],
  path: str | os.PathLike[str],
  *,
  xlabel: str,
) -> pathlib.Path:
  """Draws growth: straight lines on logarithmic axes, one panel a quantity.

  Args:
    panels: text of the vertical axis, and by label positions and values [n].
    path: PNG file to write; folders are made.
    xlabel: text of the horizontal axes.

  Returns:
    The path.

  Raises:
    ImportError: without matplotlib.
  """
  figure = new_figure(1, len(panels), _PANEL)
  for column, (ylabel, lines) in enumerate(panels):
    axes = figure.add_subplot(1, len(panels), column + 1)
    for color, (label, (x, y)) in zip(COLORS, lines.items(), strict=False):
      axes.plot(x, y, 'o-', color=color, markersize=3, label=label)
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize='small')
  return save(figure, path)


def how_to_continue(program: str, argv: Sequence[str]) -> str:
  """Tells how to train a finished run for longer.

  Args:
    program: command that starts the binary, such as 'python -m
      performer.train'.
    argv: its command line, program first.

  Returns:
    Lines for the terminal.
  """
  again = ' '.join([program, shlex.join(argv[1:])])
  return (
    'To train longer, give it more STEPS. A learning rate whose schedule has '
    'its own length stays where it ended; --init_from starts a new schedule:\n'
    f"  {again} --gin_param='STEPS = ...' --allow_config_change"
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
  if not matrices or len(matrices) != len(titles):
    raise ValueError(
      'every matrix needs a title, got '
      f'{len(matrices)} matrices and {len(titles)} titles'
    )
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


def summary_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Summarises a run: last, least and greatest value of every scalar.

  Args:
    rows: rows of `metrics.jsonl`.

  Returns:
    One row for each scalar; values that are not finite count for `last` only.
  """
  names = dict.fromkeys(n for row in rows for n in row if n not in AXES)
  lines = []
  for name in names:
    steps, values = series(rows, name)
    finite = values[np.isfinite(values)]
    lines.append(
      {
        'metric': name,
        'step': int(steps[-1]),
        'last': float(values[-1]),
        'least': float(finite.min()) if finite.size else None,
        'greatest': float(finite.max()) if finite.size else None,
      }
    )
  return lines


def run_report(
  rows: Sequence[Row],
  folder: str | os.PathLike[str],
  *,
  name: str,
  pictures: bool = True,
) -> list[pathlib.Path]:
  """Writes the common part of reports: all rows, a summary and curves.

  Args:
    rows: of `metrics.jsonl`.
    folder: where to write; made if missing.
    name: of the run.
    pictures: whether to draw too; `can_draw()` draws only if that is possible.

  Returns:
    The files that were written.

  Raises:
    ValueError: if there are no rows.
    ImportError: if pictures are asked for without matplotlib.
  """
  if not rows:
    raise ValueError(f'a report needs rows, got none of {name}')
  folder = pathlib.Path(folder)
  written = [tables.write_csv(rows, folder / 'metrics.csv')]
  written += write_table(summary_rows(rows), folder / 'summary')
  if not pictures:
    return written
  runs = {name: [rows]}
  names = metric_names(rows)
  learning = [name for name in names if '/' not in name]
  for kind, chosen, axis in (
    ('curves', learning, 'step'),
    ('curves_by_examples', learning, 'time/examples'),
    ('curves_by_seconds', learning, 'time/train_s'),
    ('time', [name for name in names if name not in learning], 'step'),
  ):
    if chosen and any(axis in row for row in rows):
      path = folder / f'{kind}.png'
      written.append(curves(runs, chosen, path, axis=axis))
  return written
