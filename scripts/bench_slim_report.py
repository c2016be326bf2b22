"""What `bench_slim.py` makes of its measurements: rows and a picture."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import bench_slim_forms as forms
import bench_slim_runs as runs
import bench_slim_targets as targets

__all__ = ['form_rows', 'pair_rows', 'picture', 'plan_rows']

Record = runs.Record
# Okabe and Ito's palette: distinct with every kind of colour vision.
_COLORS = {
  'full': '#000000',
  'subtract': '#0072B2',
  'anchored': '#56B4E9',
  'checkpoint': '#D55E00',
  'checkpoint2': '#009E73',
  'autodiff': '#999999',
  'layer remat': '#CC79A7',
  'chunk remat': '#E69F00',
}
_STYLES = ('-', '--', ':', '-.')


def form_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
  """One row per record, for tables and JSON."""
  rows = []
  for r in records:
    row: dict[str, Any] = {
      'length': r.length,
      'form': r.form.name,
      'temporary_mib': r.temporary_bytes / 2**20,
      'compile_cpu_s': r.compile_s,
      'instructions': r.instructions,
    }
    if r.samples:
      row |= {
        'wall_ms': 1e3 * r.median('wall'),
        'cpu_ms': 1e3 * r.median('cpu'),
        'turns': len(r.samples),
      }
    rows.append(row)
  return rows


def pair_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
  """Ours beside each peer and beside `full`, in milliseconds.

  `ratio` and `cpu_ratio` are ours over peer, medians over common turns;
  `memory` is the peer's temporary memory over ours.
  """
  rows = []
  for ours in records:
    if not ours.form.ours or not ours.samples:
      continue
    for peer in records:
      beside = not peer.form.ours or peer.form.kind == 'full' != ours.form.kind
      if peer.length != ours.length or not peer.samples or not beside:
        continue
      rows.append(
        {
          'case': f'L={ours.length}, {ours.form.name} against {peer.form.name}',
          'ours': 1e3 * ours.median('wall'),
          'peer': 1e3 * peer.median('wall'),
          'ratio': targets.ratio(ours, peer, 'wall'),
          'cpu_ratio': targets.ratio(ours, peer, 'cpu'),
          'memory': peer.temporary_bytes / ours.temporary_bytes,
        }
      )
  return rows


def plan_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
  """Bytes that the planner expects beside those of the compiler."""
  return [
    {
      'length': r.length,
      'form': r.form.name,
      'planned_mib': r.planned_bytes / 2**20,
      'compiler_mib': r.temporary_bytes / 2**20,
      'ratio': r.planned_bytes / r.temporary_bytes,
    }
    for r in records
    if r.planned_bytes is not None
  ]


def picture(
  records: Sequence[Record],
  path: str | os.PathLike[str],
  *,
  title: str,
  sweep_length: int,
) -> pathlib.Path:
  """Draws memory over L, and memory and time over C.

  Args:
    records: of all forms.
    path: PNG file.
    title: device and sizes.
    sweep_length: L of the pictures over C.

  Returns:
    The path.

  Raises:
    ImportError: without matplotlib.
  """
  from matplotlib import figure

  fig = figure.Figure(figsize=(16, 4.2), layout='constrained')
  panels = fig.subplots(1, 3)
  _over_length(panels[0], records)
  at = [r for r in records if r.length == sweep_length]
  _over_chunk(panels[1], at, lambda r: r.temporary_bytes / 2**20)
  panels[1].set_title(f'temporary memory (MiB), L = {sweep_length}')
  panels[1].set_yscale('log')
  timed = [r for r in at if r.samples]
  _over_chunk(panels[2], timed, lambda r: 1e3 * r.median('wall'))
  panels[2].set_title(f'time of a step (ms), L = {sweep_length}')
  panels[2].set_ylim(bottom=0)
  for axis in panels:
    axis.grid(alpha=0.25)
    axis.spines[['top', 'right']].set_visible(False)
    axis.legend(
      frameon=False,
      fontsize='x-small',
      loc='upper left',
      bbox_to_anchor=(1.0, 1.0),
    )
  fig.suptitle(title, fontsize='medium')
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  fig.savefig(path, dpi=120, metadata={'Software': None})
  return path


def _over_length(axis: Any, records: Sequence[Record]) -> None:
  found: dict[forms.Form, list[Record]] = {}
  for r in records:
    found.setdefault(r.form, []).append(r)
  found = {form: line for form, line in found.items() if len(line) > 1}
  chunks = sorted({form.chunk for form in found if form.chunk})
  for form, line in found.items():
    line = sorted(line, key=lambda r: r.length)
    style = chunks.index(form.chunk) if form.chunk else 0
    axis.plot(
      [r.length for r in line],
      [r.temporary_bytes / 2**20 for r in line],
      color=_COLORS[form.kind],
      linestyle=_STYLES[style % len(_STYLES)],
      marker='o',
      markersize=3,
      label=form.name,
    )
  axis.set_xscale('log', base=2)
  axis.set_yscale('log')
  axis.set_xlabel('length L')
  axis.set_title('temporary memory (MiB)')


def _over_chunk(
  axis: Any, records: Sequence[Record], value: Callable[[Record], float]
) -> None:
  """Lines over C; what has no chunks is a level."""
  for kind in dict.fromkeys(r.form.kind for r in records):
    line = [r for r in records if r.form.kind == kind]
    if line[0].form.whole:
      axis.axhline(
        value(line[0]), color=_COLORS[kind], linestyle=':', label=kind
      )
      continue
    line.sort(key=lambda r: r.form.chunk)
    axis.plot(
      [r.form.chunk for r in line],
      [value(r) for r in line],
      color=_COLORS[kind],
      marker='o',
      markersize=3,
      label=kind,
    )
  axis.set_xscale('log', base=2)
  axis.set_xlabel('positions of a chunk C')
