"""Bars that training in sub-linear memory should clear.

Bytes come from the compiler, times from the wall clock. Notation: C positions
of a chunk, N = L / C chunks, sigma bytes of the state of all layers.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import bench_attention_report as attention_report
import bench_slim_runs as runs

__all__ = ['INPUT_BYTES', 'beyond_inputs', 'ratio', 'targets']

# Per position: tokens and targets, which may be copied once into chunks, and
# their weights and mask.
INPUT_BYTES = 16
_FROM = 2048
_CHUNKED = ('subtract', 'anchored', 'checkpoint', 'checkpoint2')
_WHERE_FULL_FITS = 16384
Record = runs.Record


def targets(records: Sequence[Record], sigma: int) -> list[dict[str, Any]]:
  """Compares what was measured with the bars.

  Args:
    records: of all forms.
    sigma: bytes of a state.

  Returns:
    A row per bar: what it says, the limit, the value and whether it is met;
    None where something was not measured.
  """
  by_kind: dict[str, list[Record]] = {}
  for record in records:
    by_kind.setdefault(record.form.kind, []).append(record)
  rows = []
  for chunk in _chunks(by_kind.get('subtract', [])):
    rows += _memory(by_kind, chunk, sigma)
  rows += _against_full(by_kind)
  rows += _times(by_kind)
  return rows + _compilation(by_kind)


def beyond_inputs(at: int, bytes_at: int, start: int, start_bytes: int) -> int:
  """Growth of temporaries less what copies of the inputs may explain.

  Args:
    at: a length.
    bytes_at: temporaries there.
    start: a shorter length.
    start_bytes: temporaries there.

  Returns:
    Bytes; 0 if the growth is between nothing and `INPUT_BYTES` per position,
    negative if memory shrinks.
  """
  growth = bytes_at - start_bytes
  return growth - min(max(growth, 0), INPUT_BYTES * (at - start))


def ratio(one: Record, two: Record, clock: runs.Clock) -> float:
  """Median over the common turns of the time of one over that of two."""
  pairs = zip(one.samples, two.samples, strict=False)
  return statistics.median(
    getattr(a, clock) / getattr(b, clock) for a, b in pairs
  )


def _chunks(records: Sequence[Record]) -> list[int]:
  """Chunks that were measured at several lengths."""
  lengths: dict[int, set[int]] = {}
  for record in records:
    lengths.setdefault(record.form.chunk, set()).add(record.length)
  return sorted(chunk for chunk, found in lengths.items() if len(found) > 1)


def _row(
  bar: str, wanted: float, found: Sequence[float], *, least: bool = False
) -> dict[str, Any]:
  """The worst of what was found beside the limit."""
  worst = (min if least else max)(found, default=None)
  met = None
  if worst is not None:
    met = worst >= wanted if least else worst <= wanted
  sense = 'at least' if least else 'at most'
  return {
    'bar': bar, 'wanted': f'{sense} {wanted:g}', 'found': worst, 'met': met
  }  # fmt: skip


def _by_length(records: Sequence[Record], chunk: int | None) -> dict:
  return {r.length: r for r in records if r.form.chunk == chunk}


def _memory(
  by_kind: dict[str, list[Record]], chunk: int, sigma: int
) -> list[dict[str, Any]]:
  subtract = _by_length(by_kind['subtract'], chunk)
  stored = _by_length(by_kind.get('checkpoint', []), chunk)
  start = subtract.get(_FROM)
  flat = [
    abs(beyond_inputs(n, r.temporary_bytes, _FROM, start.temporary_bytes))
    / start.temporary_bytes
    for n, r in subtract.items()
    if start is not None and n > _FROM
  ]
  growth = [
    abs((stored[n].temporary_bytes - r.temporary_bytes) * chunk / n / sigma - 1)
    for n, r in subtract.items()
    if n > _FROM and n in stored
  ]
  return [
    _row(
      f'subtract C={chunk}, L > {_FROM}: memory apart from that at {_FROM},'
      f' less {INPUT_BYTES} bytes per position (share)',
      0.05,
      flat,
    ),
    _row(
      f'checkpoint less subtract, C={chunk}, L > {_FROM}: memory apart from'
      ' sigma N (share)',
      0.1,
      growth,
    ),
  ]


def _against_full(by_kind: dict[str, list[Record]]) -> list[dict[str, Any]]:
  full = _by_length(by_kind.get('full', []), None).get(_WHERE_FULL_FITS)
  found = [
    full.temporary_bytes / record.temporary_bytes
    for kind in _CHUNKED
    for record in by_kind.get(kind, [])
    if full is not None
    and record.length == full.length
    and record.form.chunk in _chunks(by_kind[kind])
  ]
  bar = f'L={_WHERE_FULL_FITS}: times less memory than full, least of all'
  return [_row(bar, 20, found, least=True)]


def _times(by_kind: dict[str, list[Record]]) -> list[dict[str, Any]]:
  full = _by_length(by_kind.get('full', []), None)
  rows = []
  for kind in _CHUNKED:
    for chunk in _chunks(by_kind.get(kind, [])):
      found = [
        ratio(r, full[n], 'wall')
        for n, r in _by_length(by_kind[kind], chunk).items()
        if r.samples and n in full and full[n].samples
      ]
      bar = f'{kind} C={chunk}: time over that of full, worst length'
      rows.append(_row(bar, 1.6, found))
  return rows


def _compilation(by_kind: dict[str, list[Record]]) -> list[dict[str, Any]]:
  """Exponents of L and of C, by CPU time and by size of the program."""
  rows = []
  measures: dict[str, Callable[[Record], float]] = {
    'time to compile': lambda r: r.compile_s,
    'compiled program': lambda r: r.instructions,
  }
  for what, value in measures.items():
    for kind in _CHUNKED:
      records = by_kind.get(kind, [])
      of_length = [
        _exponent([(r.length, value(r)) for r in records if r.form.chunk == c])
        for c in _chunks(records)
      ]
      rows.append(_row(f'{what}, {kind}: exponent of L', 0.1, of_length))
      # At the length of the sweep over chunks.
      lengths = [r.length for r in records]
      at = max(set(lengths), key=lengths.count, default=None)
      points = [(r.form.chunk, value(r)) for r in records if r.length == at]
      found = [_exponent(points)] if len(points) > 1 else []
      rows.append(_row(f'{what}, {kind}: exponent of C', 0.1, found))
  return rows


def _exponent(points: Sequence[tuple[int, float]]) -> float:
  """Size of p in value ~ x^p."""
  return abs(attention_report.slope(*zip(*points, strict=True)))
