"""Rows about memory and work against L and C.

Memory is what the compiler plans besides inputs and outputs, so it needs no
seed; times are of turns with inputs of each seed. FLOPs are those of the matrix
products in the whole gradient, loops counted as often as they run.
"""

import functools
import itertools
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import reproduce_common as common

from benchmarks import growth, harness, programs
from benchmarks import slim_bars as targets
from benchmarks import slim_forms as forms
from runtime.devices import counting
from runtime.record import verdicts

__all__ = [
  'flops_finding',
  'growth_finding',
  'memory_rows',
  'time_findings',
]

_MIB = 2**20
LENGTHS = {
  'tiny': (1024, 4096, 16384),
  'paper': (1024, 4096, 16384, 65536, 262144),
}
CHUNKS = (16, 64, 256, 1024)
SIZES = {
  'tiny': forms.Sizes(vocab=64),
  'paper': forms.Sizes(1024, 16, 3, 4096, 256),
}
CHUNKED = ('subtract', 'checkpoint', 'checkpoint2')
_TURNS = 3  # Of each seed.
Records = Sequence[harness.Measured]


def memory_rows(
  scale: str,
  seeds: Sequence[int],
  *,
  sizes: forms.Sizes | None = None,
  lengths: Sequence[int] | None = None,
  chunks: Sequence[int] = CHUNKS,
) -> list[common.Finding]:
  """Measures and judges memory, FLOPs and time against L and C.

  Args:
    scale: 'tiny' or 'paper'.
    seeds: of the timed inputs.
    sizes: of the model, in the place of the scale's.
    lengths: likewise.
    chunks: C, rising.

  Returns:
    The findings.
  """
  sizes, lengths = sizes or SIZES[scale], lengths or LENGTHS[scale]
  # Time is compared at a length between the ends.
  middle = sorted(lengths)[len(lengths) // 2]
  whole_up_to = max(lengths) if scale == 'tiny' else middle
  settings = programs.Settings(rounds=_TURNS, seconds=120.0)
  records: list[harness.Measured] = []
  grid = [forms.Form('full')]
  grid += [
    forms.Form(kind, c) for c in chunks for kind in ('subtract', 'checkpoint')
  ]
  for length in lengths:
    root = forms.Form('checkpoint', 2 * round(length**0.5))
    fresh = [root] if root not in grid else []
    case = forms.Case(length)
    built = {
      harness.Form(form, lambda case: None): forms.program(form, sizes, case)
      for form in (*grid, *fresh)
      if length <= whole_up_to or form.kind not in forms.WHOLE
    }
    records += harness.measure(
      case, built, settings, timed=length == middle, seeds=seeds
    )
  flops = _flops(forms.build(sizes), middle, chunks[1])
  return [
    growth_finding(records, chunks[1]),
    flops_finding(flops, f'L={middle}, C={chunks[1]}'),
    *time_findings(records, middle, len(seeds)),
  ]


def _flops(model: Any, length: int, chunk: int) -> dict[str, float]:
  """FLOPs of whole gradients over those of `full`."""
  shapes = jax.eval_shape(lambda: forms.parameters(model, 0)[0])
  batch = forms.inputs(model.vocab_size, length, seed=0)

  def count(form: forms.Form) -> int:
    return counting.matmul_flops(
      forms.gradient(form, model), shapes, batch, None
    )

  full = count(forms.Form('full'))
  return {k: count(forms.Form(k, chunk)) / full for k in CHUNKED}


def growth_finding(records: Records, chunk: int) -> common.Finding:
  """Judges the exponents of L in temporary memory.

  Args:
    records: `full`, `subtract` at a fixed chunk, `checkpoint` at that chunk and
      at 2 sqrt(L), at several lengths.
    chunk: the fixed one.

  Returns:
    The finding.
  """
  lines = {
    'full': _line(records, 'full', None),
    f'subtract C={chunk}': _net(_line(records, 'subtract', chunk)),
    f'checkpoint C={chunk}': _line(records, 'checkpoint', chunk),
    'checkpoint C=2 sqrt(L)': {
      n: r.bytes
      for n in sorted({r.case.length for r in records})
      for r in records
      if (r.form.kind, r.case.length) == ('checkpoint', n)
      and r.form.chunk == 2 * round(n**0.5)
    },
  }
  slopes = {name: growth.slope(line) for name, line in lines.items()}
  full, flat, _, root = slopes.values()
  parts = [abs(full - 1) <= 0.1, abs(flat) <= 0.05, root <= 0.75]
  return common.Finding(
    {
      'id': 'memory-against-length',
      'claim': 'Memory is linear in L for whole sequences, constant by '
      'subtraction, and sub-linear with stored states whose chunk grows as '
      'sqrt(L) (exponent of L in temporary memory).',
      'ours': {name: (value,) for name, value in slopes.items()},
      'published': 'not found',
      'trend': 'full: 1 +- 0.1; subtract: 0 +- 0.05, where '
      f'{targets.INPUT_BYTES} bytes per position may be copies of inputs; '
      'checkpoint at C = 2 sqrt(L): at most 0.75',
      'verdict': _all(parts),
      'explanation': 'MiB: '
      + '; '.join(
        f'{name}: '
        + ', '.join(f'{v / _MIB:.4g} at {n}' for n, v in line.items())
        for name, line in lines.items()
      )
      + '.',
    },
    functools.partial(_length_picture, lines),
  )


def _line(records: Records, kind: str, chunk: int | None) -> dict[int, int]:
  found = {
    r.case.length: r.bytes
    for r in records
    if (r.form.kind, r.form.chunk) == (kind, chunk)
  }
  return dict(sorted(found.items()))


def _net(line: Mapping[int, int]) -> dict[int, int]:
  """A line less what copies of the inputs may explain."""
  start = min(line)
  return {
    n: line[start] + targets.beyond_inputs(n, size, start, line[start])
    for n, size in line.items()
  }


def _all(parts: Sequence[bool]) -> verdicts.Verdict:
  """The verdict of numbers that have no spread."""
  return 'holds' if all(parts) else 'fails'


def _length_picture(
  lines: Mapping[str, Mapping[int, int]], path: pathlib.Path
) -> None:
  fig, (axis,) = common.new_axes(1)
  for color, (name, line) in zip(common.COLORS, lines.items(), strict=False):
    values = [v / _MIB for v in line.values()]
    axis.plot(list(line), values, 'o-', color=color, label=name, markersize=4)
  axis.set_xscale('log', base=2)
  axis.set_yscale('log')
  axis.set_xlabel('length L')
  axis.set_ylabel('temporary memory (MiB)')
  axis.legend(frameon=False, fontsize='small')
  common.save(fig, path)


def flops_finding(found: Mapping[str, float], where: str) -> common.Finding:
  """Judges FLOPs over those of `full`, by strategy."""
  expected = {'subtract': 4 / 3, 'checkpoint': 4 / 3, 'checkpoint2': 5 / 3}
  return common.Finding(
    {
      'id': 'flops',
      'claim': 'Chunks cost a constant factor: one more forward pass, two with '
      'two levels (FLOPs of matrix products over those of full).',
      'ours': {name: (value,) for name, value in found.items()},
      'published': 'not found',
      'trend': '4/3 +- 10 % for subtract and checkpoint, 5/3 +- 10 % for '
      'checkpoint2',
      'verdict': _all(
        [abs(found[k] / value - 1) <= 0.1 for k, value in expected.items()]
      ),
      'explanation': f'{where}. Counted in the trace of the whole gradient.',
    },
    functools.partial(_bars_picture, found, expected),
  )


def _bars_picture(
  found: Mapping[str, float], expected: Mapping[str, float], path: pathlib.Path
) -> None:
  fig, (axis,) = common.new_axes(1)
  axis.bar(list(found), list(found.values()), color=common.COLORS[0], width=0.5)
  for i, name in enumerate(found):
    label = 'expected' if i == 0 else None
    axis.hlines(
      expected[name], i - 0.35, i + 0.35, color=common.COLORS[1], label=label
    )
  axis.set_ylim(0, 2.2)  # Room for the legend.
  axis.set_ylabel('FLOPs over those of full')
  axis.legend(frameon=False, fontsize='small')
  common.save(fig, path)


def time_findings(
  records: Records, length: int, seeds: int
) -> list[common.Finding]:
  """Judges memory and time against C.

  Args:
    records: timed at `length`, with as many turns for each seed.
    length: L.
    seeds: how many.

  Returns:
    A finding on memory and one on time.
  """
  at = [r for r in records if r.case.length == length and r.samples]
  full = next(r for r in at if r.form.kind == 'full')
  chunks = sorted({r.form.chunk for r in at if r.form.kind == 'subtract'})
  bytes_of, times = {}, {}
  for r in at:
    if r.form.kind in ('subtract', 'checkpoint') and r.form.chunk in chunks:
      bytes_of[str(r.form)] = r.bytes
      times[str(r.form)] = _ratios(r, full, seeds)
  low, high = f'subtract C={chunks[0]}', f'subtract C={chunks[-1]}'
  line = [bytes_of[f'subtract C={c}'] for c in chunks]
  falls = [a < b for a, b in itertools.pairwise(line)]
  usual = [
    verdicts.verdict(values, [1.6], higher_is_better=False)
    for name, values in times.items()
    if int(name.split('=')[1]) >= 64
  ]
  draw = functools.partial(_chunk_picture, bytes_of, times, full, length)
  return [
    common.Finding(
      {
        'id': 'memory-against-chunk',
        'claim': 'Smaller chunks need less memory (MiB of temporaries).',
        'ours': {n: (v / _MIB,) for n, v in bytes_of.items()}
        | {'full': (full.bytes / _MIB,)},
        'published': 'not found',
        'trend': 'subtract: rises with C; every C below full',
        'verdict': _all([*falls, max(line) < full.bytes]),
        'explanation': f'L={length}.',
      },
      draw,
    ),
    common.Finding(
      {
        'id': 'time-against-chunk',
        'claim': 'Time rises as chunks become smaller, by a constant factor at '
        'usual sizes (time of a step over that of full).',
        'ours': times,
        'published': 'not found',
        'trend': f'{low} above {high}; at most 1.6 for C >= 64',
        'verdict': common.combine(
          [
            verdicts.verdict(
              times[low], times[high], higher_is_better=True, paired=True
            ),
            *usual,
          ]
        ),
        'explanation': f'L={length}; wall clock, medians over turns in one '
        'process; the time of full is '
        f'{1e3 * full.median("wall"):.0f} ms.',
      },
      draw,
    ),
  ]


def _ratios(
  record: harness.Measured, full: harness.Measured, seeds: int
) -> tuple[float, ...]:
  """Median time over that of full, for each seed."""
  turns = min(len(record.samples), len(full.samples)) // seeds
  pairs = list(zip(record.samples, full.samples, strict=False))
  return tuple(
    statistics.median(
      a.wall / b.wall for a, b in pairs[i * turns : (i + 1) * turns]
    )
    for i in range(seeds)
  )


def _chunk_picture(
  bytes_of: Mapping[str, int],
  times: Mapping[str, Sequence[float]],
  full: harness.Measured,
  length: int,
  path: pathlib.Path,
) -> None:
  fig, (left, right) = common.new_axes(2)
  for color, kind in zip(
    common.COLORS, ('subtract', 'checkpoint'), strict=False
  ):
    names = [n for n in bytes_of if n.split()[0] == kind]
    chunks = [int(n.split('=')[1]) for n in names]
    memory = [bytes_of[n] / _MIB for n in names]
    left.plot(chunks, memory, 'o-', color=color, label=kind)
    means = [statistics.fmean(times[n]) for n in names]
    right.plot(chunks, means, 'o-', color=color, label=kind)
  left.axhline(full.bytes / _MIB, color='0.3', ls=':', label='full')
  right.axhline(1, color='0.3', ls=':', label='full')
  left.set_yscale('log')
  left.set_ylabel(f'temporary memory (MiB), L = {length}')
  right.set_ylabel('time of a step over that of full')
  right.set_ylim(bottom=0)
  for axis in (left, right):
    axis.set_xscale('log', base=2)
    axis.set_xlabel('positions of a chunk C')
    axis.legend(frameon=False, fontsize='small')
  common.save(fig, path)
