"""What `bench_attention.py` makes of its timings: ratios, tables, a picture."""

import dataclasses
import math
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import bench_attention_forms as forms
import bench_attention_runs as runs
import numpy as np

__all__ = [
  'Record',
  'Results',
  'crossover',
  'curves',
  'form_rows',
  'pair_rows',
  'picture',
  'slope',
  'speedup',
]

Clock = Literal['wall', 'cpu']
OURS = 'ours '


@dataclasses.dataclass(frozen=True)
class Record:
  """One form at one case.

  Attributes:
    form: its name.
    case: the case.
    samples: its turns; empty if it was only compiled.
    flops: products that the method needs.
    matmul: of the same turns, a matrix product in the same framework; empty if
      none was timed.
    matmul_flops: of that product.
    temporary_bytes: besides inputs and outputs; None if unknown.
    compile_s: CPU seconds to trace and compile; None for torch.
    errors: relative error of the output by scale of q and k.
  """

  form: str
  case: forms.Case
  samples: Sequence[runs.Sample] = ()
  flops: float = 0.0
  matmul: Sequence[runs.Sample] = ()
  matmul_flops: float = 0.0
  temporary_bytes: int | None = None
  compile_s: float | None = None
  errors: Mapping[float, float] = dataclasses.field(default_factory=dict)

  def median(self, clock: Clock) -> float:
    """Median seconds of a call."""
    return statistics.median(getattr(s, clock) for s in self.samples)

  def matmul_fraction(self, clock: Clock) -> float | None:
    """Rate of the method's products over that of a matrix product."""
    if not self.flops or not self.matmul:
      return None
    pairs = zip(self.samples, self.matmul, strict=False)
    times = [getattr(m, clock) / getattr(s, clock) for s, m in pairs]
    return self.flops / self.matmul_flops * statistics.median(times)


Key = tuple[str, bool, bool, int]


class Results:
  """Records by form, kind and length."""

  def __init__(self, records: Sequence[Record]) -> None:
    self.records = list(records)
    self._by_key: dict[Key, Record] = {
      (r.form, r.case.causal, r.case.backward, r.case.length): r
      for r in records
    }

  def get(
    self, form: str, causal: bool, backward: bool, length: int
  ) -> Record | None:
    """The record, or None."""
    return self._by_key.get((form, causal, backward, length))

  def names(self) -> list[str]:
    """Names of the forms in their order of appearance."""
    return list(dict.fromkeys(r.form for r in self.records))

  def timed(self, form: str, causal: bool, backward: bool) -> list[Record]:
    """Timed records of a form, by length."""
    chosen = [
      r
      for r in self.records
      if r.samples
      and (r.form, r.case.causal, r.case.backward) == (form, causal, backward)
    ]
    return sorted(chosen, key=lambda r: r.case.length)

  def kinds(self) -> list[tuple[bool, bool]]:
    """The (causal, backward) that were timed."""
    found = [(r.case.causal, r.case.backward) for r in self.records]
    return list(dict.fromkeys(found))


def speedup(ours: Record, peer: Record, clock: Clock) -> float:
  """Median over the common turns of the peer's time over ours."""
  pairs = zip(ours.samples, peer.samples, strict=False)
  ratios = [getattr(b, clock) / getattr(a, clock) for a, b in pairs]
  return statistics.median(ratios)


def slope(lengths: Sequence[int], times: Sequence[float]) -> float:
  """Exponent p of time ~ L^p, by least squares on logarithms.

  Raises:
    ValueError: for fewer than two lengths.
  """
  if len(lengths) < 2 or len(lengths) != len(times):
    raise ValueError(
      f'a slope needs two points or more, got {lengths=} {times=}'
    )
  return float(np.polyfit(np.log(lengths), np.log(times), 1)[0])


def crossover(
  lengths: Sequence[int], speedups: Sequence[float]
) -> float | None:
  """The length from which on ours is faster, up to the longest measured.

  Interpolates the logarithm of the speed-up linearly in log L.

  Args:
    lengths: rising.
    speedups: the peer's time over ours at each.

  Returns:
    The length; the least one measured if ours is faster everywhere; None if it
    is not faster at the longest.

  Raises:
    ValueError: if the lengths do not rise, or numbers differ.
  """
  if len(lengths) != len(speedups) or list(lengths) != sorted(set(lengths)):
    raise ValueError(f'lengths must rise, got {lengths=} {speedups=}')
  if not lengths or speedups[-1] < 1:
    return None
  behind = [i for i, ratio in enumerate(speedups) if ratio < 1]
  if not behind:
    return float(lengths[0])
  i = behind[-1]
  low, high = math.log(speedups[i]), math.log(speedups[i + 1])
  start, end = math.log(lengths[i]), math.log(lengths[i + 1])
  return math.exp(start - low * (end - start) / (high - low))


def form_rows(results: Results) -> list[dict[str, Any]]:
  """One row per record, for tables and JSON."""
  rows = []
  for r in results.records:
    row: dict[str, Any] = {'case': str(r.case), 'form': r.form}
    if r.samples:
      row |= {
        'wall_ms': 1e3 * r.median('wall'),
        'cpu_ms': 1e3 * r.median('cpu'),
        'turns': len(r.samples),
        'of_matmul_wall': r.matmul_fraction('wall'),
        'of_matmul_cpu': r.matmul_fraction('cpu'),
      }
    if r.temporary_bytes is not None:
      row['temporary_mb'] = r.temporary_bytes / 1e6
    row['compile_cpu_s'] = r.compile_s
    row |= {f'error_{s:g}': value for s, value in r.errors.items()}
    rows.append(row)
  return rows


def pair_rows(results: Results) -> list[dict[str, Any]]:
  """Ours beside each peer: milliseconds, `ratio` = ours / peer.

  `speedup` and `cpu_speedup` are peer / ours, medians over common turns.
  """
  rows = []
  for ours in results.records:
    if not ours.form.startswith(OURS) or not ours.samples:
      continue
    for name in results.names():
      c = ours.case
      peer = results.get(name, c.causal, c.backward, c.length)
      if name.startswith(OURS) or peer is None or not peer.samples:
        continue
      wall, cpu = speedup(ours, peer, 'wall'), speedup(ours, peer, 'cpu')
      row = {
        'case': f'{c}, {ours.form} against {name}',
        'ours': 1e3 * ours.median('wall'),
        'peer': 1e3 * peer.median('wall'),
        'ratio': 1 / wall,
        'speedup': wall,
        'cpu_speedup': cpu,
      }
      if ours.temporary_bytes and peer.temporary_bytes:
        row['memory'] = peer.temporary_bytes / ours.temporary_bytes
      row |= {f'error_{s:g}': value for s, value in ours.errors.items()}
      rows.append(row)
  return rows


def curves(results: Results, slope_from: int = 1024) -> list[dict[str, Any]]:
  """Growth of the time of each form, and crossover of ours with each.

  Args:
    results: the records.
    slope_from: shorter lengths do not count for the exponent, as constant
      costs hide it.

  Returns:
    Rows: the exponent of L in wall and CPU time, and the lengths from which
    each form of ours is faster (0 for none up to the longest).
  """
  rows = []
  for causal, backward in results.kinds():
    for name in results.names():
      records = results.timed(name, causal, backward)
      long = [r for r in records if r.case.length >= slope_from]
      if len(long) < 2:
        continue
      kind = 'causal' if causal else 'bidirectional'
      row: dict[str, Any] = {
        'kind': f'{kind} {"forward+backward" if backward else "forward"}',
        'form': name,
        'lengths': f'{long[0].case.length}-{long[-1].case.length}',
      }
      for clock in ('wall', 'cpu'):
        times = [r.median(clock) for r in long]
        row[f'exponent_{clock}'] = slope([r.case.length for r in long], times)
      if not name.startswith(OURS):
        row |= _crossovers(results, records)
      rows.append(row)
  return rows


def _crossovers(results: Results, peers: Sequence[Record]) -> dict[str, Any]:
  row = {}
  for name in results.names():
    if not name.startswith(OURS):
      continue
    for clock in ('wall', 'cpu'):
      row[f'{name} faster from ({clock})'] = crossover_of(
        results, name, peers, clock
      )
  return row


def crossover_of(
  results: Results, ours: str, peers: Sequence[Record], clock: Clock
) -> float | None:
  """`crossover` of a form of ours with records of one peer and kind."""
  lengths, ratios = [], []
  for peer in peers:
    c = peer.case
    mine = results.get(ours, c.causal, c.backward, c.length)
    if mine is not None and mine.samples:
      lengths.append(c.length)
      ratios.append(speedup(mine, peer, clock))
  return crossover(lengths, ratios)


_COLORS = (
  *('#0072B2', '#56B4E9', '#D55E00', '#999999', '#009E73', '#CC79A7'),
  *('#E69F00', '#000000'),
)


def picture(
  results: Results, path: str | os.PathLike[str], title: str
) -> pathlib.Path:
  """Draws time and temporary memory over the length.

  Args:
    results: the records.
    path: PNG file.
    title: of the picture: device and sizes.

  Returns:
    The path.

  Raises:
    ImportError: without matplotlib.
  """
  from matplotlib import figure

  kinds = results.kinds()
  causals = list(dict.fromkeys(causal for causal, _ in kinds))
  backwards = list(dict.fromkeys(backward for _, backward in kinds))
  columns = len(backwards) + 1
  fig = figure.Figure(
    figsize=(4.2 * columns, 3.4 * len(causals)), layout='constrained'
  )
  axes = fig.subplots(
    len(causals), columns, squeeze=False, sharex=True, sharey='col'
  )
  for line, causal in zip(axes, causals, strict=True):
    kind = 'causal' if causal else 'bidirectional'
    for axis, backward in zip(line, backwards, strict=False):
      what = 'forward + backward' if backward else 'forward'
      axis.set_title(f'{kind}\n{what}: time (ms)', fontsize='medium')
      _lines(axis, results, causal, backward, memory=False)
    line[-1].set_title(
      f'{kind}\n{what}: temporary memory (MB)', fontsize='medium'
    )
    _lines(line[-1], results, causal, backwards[-1], memory=True)
  for axis in axes[-1]:
    axis.set_xlabel('length L')
  handles: dict[str, Any] = {}
  for axis in axes.flat:
    axis.grid(alpha=0.25)
    axis.spines[['top', 'right']].set_visible(False)
    handles |= {line.get_label(): line for line in axis.get_lines()}
  fig.legend(
    handles.values(), handles.keys(), loc='outside right center', frameon=False
  )
  fig.suptitle(title, fontsize='medium')
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  fig.savefig(path, dpi=120, metadata={'Software': None})
  return path


def _lines(
  axis: Any, results: Results, causal: bool, backward: bool, *, memory: bool
) -> None:
  """One line per form; zeros have no place on a logarithmic scale."""
  for i, name in enumerate(results.names()):
    if memory:
      records = [
        r
        for r in results.records
        if (r.form, r.case.causal, r.case.backward) == (name, causal, backward)
        and r.temporary_bytes
      ]
      values = [r.temporary_bytes / 1e6 for r in records]
    else:
      records = results.timed(name, causal, backward)
      values = [1e3 * r.median('wall') for r in records]
    if records:
      axis.plot(
        [r.case.length for r in records],
        values,
        marker='o',
        markersize=3,
        color=_COLORS[i % len(_COLORS)],
        linestyle='-' if name.startswith(OURS) else '--',
        label=name,
      )
  axis.set_xscale('log', base=2)
  axis.set_yscale('log')
