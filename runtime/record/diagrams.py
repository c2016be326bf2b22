"""Diagrams, as PNG files: networks of weighted edges, matrices of labels."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.record import pictures

__all__ = ['Graph', 'graphs', 'labels']

_GRAPH = (4.6, 4.2)  # Inches.
_CELL = 0.28
_NUMBERED = (
  500  # Cells; more have no numbers, which would be too small to read.
)


@dataclasses.dataclass(frozen=True)
class Graph:
  """A graph in the plane.

  Attributes:
    title: text above.
    positions: of the nodes, [n, 2].
    names: texts beside the nodes, left of those in the first column; an empty
      one leaves the text out.
    edges: numbers of the nodes at both ends, int [m, 2].
    weights: [m]; the colour tells the sign, the width the size.

  Raises:
    ValueError: if shapes do not fit, or an edge has no such node.
  """

  title: str
  positions: npt.ArrayLike
  names: Sequence[str]
  edges: npt.ArrayLike
  weights: npt.ArrayLike

  def __post_init__(self) -> None:
    nodes, ends = np.shape(self.positions), np.asarray(self.edges)
    if nodes != (len(self.names), 2):
      raise ValueError(
        f'every node needs a name and a position, got {len(self.names)} names '
        f'and positions of shape {nodes}'
      )
    if ends.shape != (len(self.weights), 2):
      raise ValueError(
        f'every edge needs two ends and a weight, got {ends.shape=} and '
        f'{len(self.weights)} weights'
      )
    if ends.size and not (ends.min() >= 0 and ends.max() < nodes[0]):
      raise ValueError(
        f'edges must end at nodes 0 to {nodes[0] - 1}, got {ends.min()} to '
        f'{ends.max()}'
      )


def graphs(
  drawn: Sequence[Graph], path: str | os.PathLike[str]
) -> pathlib.Path:
  """Draws graphs side by side.

  Args:
    drawn: one graph for each panel.
    path: PNG file to write; folders are made.

  Returns:
    The path.

  Raises:
    ValueError: if there is no graph.
    ImportError: without matplotlib.
  """
  if not drawn:
    raise ValueError('there must be graphs to draw, got none')
  columns = min(len(drawn), 3)
  lines = -(-len(drawn) // columns)
  figure = pictures.new_figure(lines, columns, _GRAPH)
  for index, graph in enumerate(drawn):
    axes = figure.add_subplot(lines, columns, index + 1)
    axes.set_title(graph.title, fontsize='medium')
    axes.axis('off')
    _draw_graph(axes, graph)
  return pictures.save(figure, path)


def _draw_graph(axes: Any, graph: Graph) -> None:
  from matplotlib import collections

  positions = np.asarray(graph.positions, np.float64)
  weights = np.asarray(graph.weights, np.float64)
  edges = np.asarray(graph.edges, int).reshape(-1, 2)
  shares = np.abs(weights) / max(np.abs(weights).max(initial=0), 1e-12)
  positive, negative = pictures.COLORS[:2]
  lines = collections.LineCollection(
    positions[edges],
    colors=np.where(weights < 0, negative, positive),
    linewidths=0.3 + 2.2 * shares,
    alpha=0.7,
    zorder=1,
  )
  axes.add_collection(lines)
  # Nodes without an edge are hollow.
  linked = np.isin(np.arange(len(positions)), edges)
  axes.scatter(
    *positions.T,
    s=26,
    c=np.where(linked, '#404040', 'white'),
    edgecolors='#404040',
    linewidths=0.8,
    zorder=2,
  )
  first = positions[:, 0].min(initial=0)
  for (x, y), name in zip(positions, graph.names, strict=True):
    left = x == first
    axes.annotate(
      name,
      (x, y),
      xytext=(-6 if left else 6, 0),
      textcoords='offset points',
      ha='right' if left else 'left',
      va='center',
      fontsize='xx-small',
    )
  axes.margins(0.12, 0.06)


def labels(
  arrays: Sequence[npt.ArrayLike],
  titles: Sequence[str],
  path: str | os.PathLike[str],
  *,
  axes_labels: tuple[str, str],
) -> pathlib.Path:
  """Draws matrices of labels side by side: equal labels have equal colours.

  Small matrices show the labels as numbers, too.

  Args:
    arrays: int matrices [rows, columns]; a negative label stays white. Row 0 is
      at the top.
    titles: one for each matrix.
    path: PNG file to write; folders are made.
    axes_labels: texts of the horizontal and the vertical axis.

  Returns:
    The path.

  Raises:
    ValueError: if there is no matrix, one is not of integers in two dimensions,
      or the number of titles differs.
    ImportError: without matplotlib.
  """
  matrices = [np.asarray(array) for array in arrays]
  pictures.check_titles(matrices, titles)
  for matrix, title in zip(matrices, titles, strict=True):
    whole = np.issubdtype(matrix.dtype, np.integer)
    if matrix.ndim != 2 or not matrix.size or not whole:
      raise ValueError(
        f'not a matrix of integers: {title!r}, got {matrix.shape=} '
        f'{matrix.dtype}'
      )
  count = 1 + max(0, *(int(matrix.max()) for matrix in matrices))
  largest = np.max([matrix.shape for matrix in matrices], axis=0)
  height, width = np.clip(_CELL * largest + 1.0, 2.4, 8)
  figure = pictures.new_figure(1, len(matrices), (width, height))
  for index, (matrix, title) in enumerate(zip(matrices, titles, strict=True)):
    axes = figure.add_subplot(1, len(matrices), index + 1)
    axes.imshow(_colors(count)[matrix], interpolation='nearest', aspect='equal')
    axes.set_title(title, fontsize='medium')
    axes.set_xlabel(axes_labels[0])
    for axis in (axes.xaxis, axes.yaxis):
      axis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if not index:
      axes.set_ylabel(axes_labels[1])
    if matrix.size <= _NUMBERED:
      for (row, column), label in np.ndenumerate(matrix):
        if label >= 0:
          place = {'ha': 'center', 'va': 'center', 'fontsize': 6}
          axes.text(column, row, str(label), **place)
  return pictures.save(figure, path)


def _colors(count: int) -> np.ndarray:
  """Light colours of labels 0, 1, ..., and white for -1: [count + 1, 3]."""
  from matplotlib import colors

  # Steps of the golden ratio around the circle of hues: neighbours differ most.
  labels = np.arange(count)
  hue = labels * 0.618034 % 1
  light = np.stack(
    [hue, np.where(labels % 2, 0.35, 0.6), np.where(labels % 3, 0.95, 0.8)], -1
  )
  return np.append(colors.hsv_to_rgb(light), np.ones((1, 3)), axis=0)
