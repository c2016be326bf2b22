"""Bars that fast attention should clear on a CPU with two cores.

Sizes B=1, H=8, d=64, r=256, float32. Each bar is computed by wall clock and by
CPU time, which a busy machine disturbs less; the first decides.
"""

from collections.abc import Sequence
from typing import Any

import bench_attention_report as report

__all__ = ['targets']

Results = report.Results
_JAX, _TORCH = 'jax.nn exact', 'torch sdpa'
_RECIPE, _PYTORCH = 'published JAX', 'performer-pytorch'
_LENGTHS = (1024, 2048, 4096, 8192, 16384)


def targets(results: Results, ours: str) -> list[dict[str, Any]]:
  """Compares what was measured with the bars.

  Args:
    results: the records.
    ours: which form of ours.

  Returns:
    A row per bar: what it says, at least or at most how much, the value by
    wall clock and CPU time (memory and compilation have one value), and
    whether it is met; None where something was not measured.
  """
  rows = []
  for causal in (False, True):
    kind = 'causal' if causal else 'bidirectional'
    rows += _against_recipe(results, ours, causal, kind)
    rows += _against_others(results, ours, causal, kind)
    rows += _efficiency(results, ours, causal, kind)
  return rows + _memory_and_compilation(results, ours)


def _row(
  bar: str, wanted: float, wall: float | None, cpu: float | None, *, least: bool
) -> dict[str, Any]:
  met = None
  if wall is not None:
    met = wall >= wanted if least else wall <= wanted
  sense = 'at least' if least else 'at most'
  return {
    'bar': bar, 'wanted': f'{sense} {wanted:g}', 'wall': wall, 'cpu': cpu,
    'met': met,
  }  # fmt: skip


def _speedups(
  results: Results,
  ours: str,
  peer: str,
  causal: bool,
  backward: bool,
  lengths: Sequence[int],
) -> tuple[float | None, float | None]:
  """The least speed-up over the lengths, by both clocks."""
  found = []
  for length in lengths:
    one = results.get(ours, causal, backward, length)
    two = results.get(peer, causal, backward, length)
    if one is not None and two is not None and one.samples and two.samples:
      clocks = ('wall', 'cpu')
      found.append([report.speedup(one, two, clock) for clock in clocks])
  if not found:
    return None, None
  return tuple(map(min, zip(*found, strict=True)))


def _against_recipe(
  results: Results, ours: str, causal: bool, kind: str
) -> list[dict[str, Any]]:
  rows = []
  for backward, wanted in ((False, 2.2), (True, 2.0)):
    what = 'forward+backward' if backward else 'forward'
    found = _speedups(results, ours, _RECIPE, causal, backward, _LENGTHS)
    bar = f'{kind} {what}, least over L >= 1k: times faster than {_RECIPE}'
    rows.append(_row(bar, wanted, *found, least=True))
    ratios = []
    for length in _LENGTHS:
      one = results.get(ours, causal, backward, length)
      two = results.get(_RECIPE, causal, backward, length)
      if one and two and one.temporary_bytes and two.temporary_bytes:
        ratios.append(two.temporary_bytes / one.temporary_bytes)
    bar = f'{kind} {what}, least over L >= 1k: times less memory than {_RECIPE}'
    rows.append(_row(bar, 5, min(ratios, default=None), None, least=True))
  return rows


def _against_others(
  results: Results, ours: str, causal: bool, kind: str
) -> list[dict[str, Any]]:
  rows = []
  length, wanted = (1024, 11) if causal else (4096, 2.5)
  for backward in (False, True):
    what = 'forward+backward' if backward else 'forward'
    found = _speedups(results, ours, _PYTORCH, causal, backward, [length])
    bar = f'{kind} {what}, L={length}: times faster than {_PYTORCH}'
    rows.append(_row(bar, wanted, *found, least=True))
    found = [
      report.crossover_of(
        results, ours, results.timed(_TORCH, causal, backward), clock
      )
      for clock in ('wall', 'cpu')
    ]
    bar = f'{kind} {what}: length from which faster than {_TORCH}'
    rows.append(_row(bar, 1536 if causal else 1024, *found, least=False))
  found = _speedups(results, ours, _JAX, causal, True, [4096])
  bar = f'{kind} forward+backward, L=4096: times faster than {_JAX}'
  rows.append(_row(bar, 12 if causal else 15, *found, least=True))
  found = _speedups(results, ours, _TORCH, causal, False, [16384])
  bar = f'{kind} forward, L=16384: times faster than {_TORCH}'
  rows.append(_row(bar, 6 if causal else 15, *found, least=True))
  return rows


def _efficiency(
  results: Results, ours: str, causal: bool, kind: str
) -> list[dict[str, Any]]:
  record = results.get(ours, causal, True, 4096)
  found = [None, None]
  if record is not None and record.samples:
    found = [record.matmul_fraction(clock) for clock in ('wall', 'cpu')]
  bar = f'{kind} forward+backward, L=4096: fraction of the matmul rate'
  return [_row(bar, 0.45 if causal else 0.6, *found, least=True)]


def _memory_and_compilation(
  results: Results, ours: str
) -> list[dict[str, Any]]:
  rows = []
  for length, wanted in ((4096, 65.0), (65536, 900.0)):
    record = results.get(ours, True, True, length)
    size = None
    if record is not None and record.temporary_bytes is not None:
      size = record.temporary_bytes / 1e6
    bar = f'causal forward+backward, L={length}: temporary memory, MB'
    rows.append(_row(bar, wanted, size, None, least=False))
  seconds = [
    r.compile_s
    for r in results.records
    if (r.form, r.case.causal, r.case.backward) == (ours, True, True)
    and r.compile_s is not None
    and r.case.length >= 1024
  ]
  ratio = max(seconds) / min(seconds) if len(seconds) > 1 else None
  bar = 'causal forward+backward, L >= 1k: slowest over fastest compilation'
  rows.append(_row(bar, 1.5, ratio, None, least=False))
  return rows
