"""The report of a search: genotypes, drawings of cells, curves of the logits."""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nas.rl_darts import diagnostics, operations, probabilities, search
from nas.rl_darts import genotype as genotype_lib
from runtime import loop as loop_lib
from runtime.record import pictures as pictures_lib
from runtime.record import series as series_lib

__all__ = [
  'draw_cell',
  'draw_curves',
  'edge_rows',
  'files',
  'first_agent',
  'genotypes',
  'pictures',
  'snapshot_genotypes',
  'snapshot_rows',
]

Row = series_lib.Row


def genotypes(
  settings: search.Search, params: Any
) -> dict[str, genotype_lib.Genotype]:
  """The genotype of every encoder of an agent, by the encoder's path.

  Args:
    settings: of the search.
    params: of one agent.
  """
  return _derived(settings, probabilities.alphas(params))


def _derived(
  settings: search.Search, alphas: Mapping[str, Any]
) -> dict[str, genotype_lib.Genotype]:
  return {
    path: settings.supernet(path).derive(logits, max_skips=settings.max_skips)
    for path, logits in alphas.items()
  }


def snapshot_genotypes(
  settings: search.Search, state: search.SearchState
) -> dict[int, dict[str, genotype_lib.Genotype]]:
  """Genotypes along a search: by iteration and the encoder's path.

  Args:
    settings: of the search.
    state: of one agent; snapshots that are still to come are left out.
  """
  state = jax.device_get(state)
  found = {}
  for row, time in enumerate(settings.times):
    if time <= state.iteration:
      alphas = jax.tree.map(lambda x, i=row: x[i], state.snapshots)
      found[time] = _derived(settings, alphas)
  return found


def edge_rows(settings: search.Search, params: Any) -> list[dict[str, Any]]:
  """A table of all edges, the strongest first.

  Args:
    settings: of the search.
    params: of one agent.
  """
  rows = []
  for encoder, kinds in probabilities.alphas(params).items():
    part = settings.supernet(encoder)
    space, temperature = part.space, part.architecture.temperature
    has_zero = operations.ZERO in space.ops
    zero = space.ops.index(operations.ZERO) if has_zero else None
    for kind, logits in kinds.items():
      p = probabilities.probabilities(logits, temperature)['edges']
      for source, node, op, strength in diagnostics.ranking(p, space):
        edge = space.edge(source, node - space.inputs)
        rows.append(
          {
            'encoder': encoder,
            'cell': kind,
            'edge': f'{source} -> {node}',
            'operation': op,
            'probability': strength,
            'of Zero': 0.0 if zero is None else float(p[edge, zero]),
          }
        )
  return rows


def snapshot_rows(
  settings: search.Search, state: search.SearchState
) -> list[dict[str, Any]]:
  """A table of the genotypes along a search, each compared with the one before.

  Args:
    settings: of the search.
    state: of one agent.
  """
  rows, before = [], {}
  for time, encoders in snapshot_genotypes(settings, state).items():
    for encoder, found in encoders.items():
      labels = np.concatenate([cell.labels() for _, cell in found.cells])
      changed = genotype_lib.hamming(labels, before.get(encoder, labels))
      before[encoder] = labels
      rows.append(
        {
          'iteration': time,
          'encoder': encoder,
          'genotype': found.digest(),
          'edges changed': int(changed),
        }
      )
  return rows


def draw_cell(
  cells: genotype_lib.Genotype, path: str | os.PathLike[str]
) -> pathlib.Path:
  """Draws the discrete cells of a network as graphs.

  Args:
    cells: one panel each.
    path: PNG file to write.
  """
  figure = pictures_lib.new_figure(len(cells.cells), 1, (7.2, 3.4))
  for index, (kind, cell) in enumerate(cells.cells):
    axes = figure.add_subplot(len(cells.cells), 1, index + 1)
    _draw_graph(axes, cell)
    stride = f', stride {cell.stride}' if cell.stride > 1 else ''
    axes.set_title(f'{kind}{stride}', loc='left', fontsize='medium')
  return pictures_lib.save(figure, path)


def _draw_graph(axes: Any, cell: genotype_lib.CellGenotype) -> None:
  """Nodes from left to right; an arc's height grows with what it skips."""
  inputs, last = cell.space.inputs, cell.space.inputs + cell.space.nodes
  names = [f'in {i}' if inputs > 1 else 'in' for i in range(inputs)]
  names += [str(i) for i in range(inputs, last)]
  ops = list(cell.space.candidates)
  for node, edges in enumerate(cell.nodes):
    for source, op in edges:
      color = ops.index(op) % len(pictures_lib.COLORS)
      _arc(axes, source, inputs + node, op, pictures_lib.COLORS[color])
  sources = range(inputs, last) if cell.space.output != 'last' else [last - 1]
  for node in sources:
    axes.annotate(
      '',
      (last, 0),
      (node, 0),
      arrowprops={
        'arrowstyle': '-',
        'color': '0.8',
        'connectionstyle': f'arc3,rad={0.12 * (last - node)}',
        'shrinkA': 12,
        'shrinkB': 12,
      },
    )
  axes.text(
    last,
    0,
    cell.space.output,
    ha='center',
    va='center',
    bbox={'boxstyle': 'round', 'fc': '0.92', 'ec': '0.6'},
  )
  for place, name in enumerate(names):
    style = {'boxstyle': 'circle', 'fc': 'white', 'ec': 'black'}
    axes.text(place, 0, name, ha='center', va='center', bbox=style)
  axes.set(xlim=(-0.5, last + 0.5), ylim=(-0.9, 1.1))
  axes.axis('off')


def _arc(axes: Any, start: int, end: int, text: str, color: str) -> None:
  """An arrow between two nodes with its operation."""
  bend = 0.28 + 0.06 * (end - start)
  axes.annotate(
    '',
    (end, 0),
    (start, 0),
    arrowprops={
      'arrowstyle': '-|>',
      'color': color,
      'connectionstyle': f'arc3,rad={-bend}',
      'shrinkA': 12,
      'shrinkB': 12,
      'linewidth': 1.6,
    },
  )
  # Just above the middle of the arc, in units of the axes of this size.
  height = 0.16 * (end - start) - 0.02
  axes.text(
    (start + end) / 2,
    height,
    text,
    ha='center',
    va='bottom',
    fontsize='x-small',
    color=color,
  )


def draw_curves(
  rows: Sequence[Row], path: str | os.PathLike[str], ops: Sequence[str]
) -> pathlib.Path:
  """Draws entropies and the mean probability of each operation over time.

  Args:
    rows: of `metrics.jsonl`.
    path: PNG file to write.
    ops: names of the operations.
  """
  figure = pictures_lib.new_figure(1, 2, (4.6, 3.2))
  panels = (
    ('entropy of an edge (nats)', {'by node': 'train/alpha_entropy'}),
    ('mean probability', {op: f'train/mass_{op}' for op in ops}),
  )
  for column, (label, lines) in enumerate(panels):
    axes = figure.add_subplot(1, 2, column + 1)
    for name, (text, metric) in zip(
      pictures_lib.COLORS * 3, lines.items(), strict=False
    ):
      steps, values = series_lib.series(rows, metric)
      axes.plot(steps, values, color=name, label=text)
    axes.set(xlabel='step', ylabel=label)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    if len(lines) > 1:
      axes.legend(frameon=False, fontsize='small')
  return pictures_lib.save(figure, path)


def _write(found: genotype_lib.Genotype, path: pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(found.to_json())


def pictures(
  settings: search.Search, params: Any, rows: Sequence[Row]
) -> Mapping[str, loop_lib.Draw]:
  """Curves of the logits, and the cells of each encoder.

  Args:
    settings: of the search.
    params: of one agent.
    rows: of `metrics.jsonl`.
  """
  last = genotypes(settings, params)
  spaces = [settings.supernet(path).space for path in last]
  ops = list(dict.fromkeys(op for space in spaces for op in space.ops))
  found: dict[str, loop_lib.Draw] = {
    'alpha.png': functools.partial(draw_curves, rows, ops=ops)
  }
  for encoder, cells in last.items():
    name = f'genotype{_suffix(encoder, last)}.png'
    found[name] = functools.partial(draw_cell, cells)
  return found


def files(
  settings: search.Search, state: search.SearchState, params: Any
) -> Mapping[str, loop_lib.Draw]:
  """Genotypes of the end and along the search, as JSON.

  Args:
    settings: of the search.
    state: of one agent.
    params: of that agent.
  """
  last = genotypes(settings, params)
  found: dict[str, loop_lib.Draw] = {
    f'genotype{_suffix(encoder, last)}.json': functools.partial(_write, cells)
    for encoder, cells in last.items()
  }
  for time, kinds in snapshot_genotypes(settings, state).items():
    for encoder, cells in kinds.items():
      name = f'genotypes/iteration_{time:06d}{_suffix(encoder, kinds)}.json'
      found[name] = functools.partial(_write, cells)
  return found


def _suffix(encoder: str, among: Mapping[str, object]) -> str:
  """Tells supernets apart, where there are several.

  Of their paths it has the names that differ.
  """
  columns = zip(*(path.split('/') for path in among), strict=False)
  own = zip(encoder.split('/'), columns, strict=False)
  return ''.join(f'_{name}' for name, all_ in own if len(set(all_)) > 1)


def first_agent(tree: Any, num_agents: int) -> Any:
  """The first of several agents' states.

  Args:
    tree: state; with a leading axis of agents, if there are several.
    num_agents: their number.
  """
  if num_agents == 1:
    return tree
  return jax.tree.map(lambda x: np.asarray(x)[0], tree)
