"""Rows about finite precision: gradients in chunks against float64.

At random initial parameters rounding is all there is. Under stress (see
`reproduce_slim_errors.py`) subtraction loses the states of early chunks: the
state after a large key has no digits left for those before it, and what is
recomputed from a state that is off is off too, layer by layer and chunk by
chunk. Stored states do not have the problem.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import reproduce_common as common
import reproduce_slim_errors as errors
import reproduce_slim_precision_pictures as pictures

from benchmarks import slim_forms as forms
from performer.slim import drift
from runtime.record import verdicts

__all__ = [
  'audit_finding',
  'chunk_finding',
  'precision_rows',
  'random_finding',
  'stress_finding',
  'wide_finding',
]

_LIMIT = 1e-5  # Of float32, at random parameters and for stored states.
_LIMIT_DOUBLE = 1e-12
# A gradient is lost if it is more than 1 % off, and three times as far as
# with stored states; it is sound if it is not 1.5 times as far, or 1e-4 off.
_LOST, _SOUND = 1e-2, 1e-4
_KINDS = ('full', 'subtract', 'checkpoint')
KERNELS = ('square', 'elu1', 'relu', 'softmax_pos')
NORMS = ('post_branch', 'pre')
STRESSES = (
  ('softmax_pos', 'pre', 'qk', (1.0, 3.0, 6.0)),
  ('square', 'post_branch', 'spike', (1.0, 10.0, 100.0, 1000.0)),
  ('elu1', 'post_branch', 'spike', (1.0, 1000.0)),
)
_PAPER = 'exists, without numbers that could be read'
Table = Mapping[str, Mapping[str, errors.Found]]  # By case, by form.


def precision_rows(
  scale: str,
  seeds: Sequence[int],
  *,
  kernels: Sequence[str] = KERNELS,
  lengths: Sequence[int] = (512, 1024, 2048, 4096),
  chunks: Sequence[int] = (1, 4, 16, 64),
  stresses: Sequence[tuple] = STRESSES,
  widths: tuple[int, int] = (64, 32),
) -> list[common.Finding]:
  """Measures and judges; the sizes are the same at both scales.

  Args:
    scale: not used.
    seeds: of parameters and tokens.
    kernels: of the comparison at random parameters.
    lengths: of the growth with L; the first is that of the other comparisons.
    chunks: C, rising.
    stresses: (kernel, norm, stress, factors).
    widths: d at random parameters and under stress, at 16 a head.

  Returns:
    The findings.
  """
  del scale
  wide, small = (
    forms.Sizes(d, max(1, d // 16), s, 4 * d, 64)
    for d, s in zip(widths, (3, 2), strict=True)
  )
  random = _random(wide, kernels, lengths[0], chunks[-1], seeds)
  of_chunk = _chunks(wide, lengths[0], chunks, seeds)
  of_length = _lengths(wide, lengths, chunks[-1] // 2, seeds)
  size = lengths[0] // 2
  stressed, wide_states, low = _stressed(small, stresses, size, seeds)
  return [
    random_finding(random),
    chunk_finding(of_chunk, of_length),
    stress_finding(stressed, 'float32'),
    stress_finding(low, 'bfloat16'),
    wide_finding(wide_states),
    audit_finding([random, stressed, low, of_chunk, of_length]),
  ]


def _forms(chunk: int, kinds: Sequence[str] = _KINDS) -> list[forms.Form]:
  return [forms.Form(k, None if k == 'full' else chunk) for k in kinds]


def _with(sizes: forms.Sizes, **options: str) -> forms.Sizes:
  return dataclasses.replace(sizes, **options)


def _random(
  sizes: forms.Sizes,
  kernels: Sequence[str],
  length: int,
  chunk: int,
  seeds: Sequence[int],
) -> Table:
  cases = [
    errors.Case(_with(sizes, kernel=kernel, norm=norm), length)
    for kernel in kernels
    for norm in NORMS
  ]
  cases.append(errors.Case(_with(sizes, dtype='float64'), length))
  return {c.name: errors.measure(c, _forms(chunk), seeds) for c in cases}


def _chunks(
  sizes: forms.Sizes, length: int, chunks: Sequence[int], seeds: Sequence[int]
) -> Table:
  case = errors.Case(sizes, length)
  kinds = ('subtract', 'checkpoint')
  return {
    f'C={c}': errors.measure(case, _forms(c, kinds), seeds) for c in chunks
  }


def _lengths(
  sizes: forms.Sizes, lengths: Sequence[int], chunk: int, seeds: Sequence[int]
) -> Table:
  sizes = dataclasses.replace(sizes, layers=2)
  chosen = _forms(chunk, ('subtract',))
  return {
    f'L={n}': errors.measure(errors.Case(sizes, n), chosen, seeds)
    for n in lengths
  }


def _stressed(
  sizes: forms.Sizes,
  stresses: Sequence[tuple],
  length: int,
  seeds: Sequence[int],
) -> tuple[Table, Table, Table]:
  """In float32, the same with states of float64, and in bfloat16."""
  chosen = _forms(16)
  found: tuple[dict, dict, dict] = ({}, {}, {})
  for kernel, norm, stress, factors in stresses:
    for factor in factors:
      for dtype, table in (('float32', found[0]), ('bfloat16', found[2])):
        own = _with(sizes, kernel=kernel, norm=norm, dtype=dtype)
        case = errors.Case(own, length, stress, factor)
        table[case.name] = errors.measure(case, chosen, seeds)
      if factor == factors[-1]:
        case = errors.Case(
          _with(sizes, kernel=kernel, norm=norm), length, stress, factor
        )
        found[1][case.name] = errors.measure(
          case, chosen[1:], seeds, wide_states=True
        )
  return found


def _labels(table: Table) -> dict[str, tuple[float, ...]]:
  return {
    f'{case}: {kind}': found.errors
    for case, row in table.items()
    for kind, found in row.items()
  }


def _log(values: Sequence[float]) -> np.ndarray:
  return np.log10(np.maximum(values, 1e-30))


def _below(values: Sequence[float], limit: float) -> verdicts.Verdict:
  return verdicts.verdict(
    _log(values), [np.log10(limit)], higher_is_better=False
  )


def _above(values: Sequence[float], limit: float) -> verdicts.Verdict:
  return verdicts.verdict(
    _log(values), [np.log10(limit)], higher_is_better=True
  )


def _finding(table: Table, **fields: object) -> common.Finding:
  draw = functools.partial(pictures.points, table)
  text = {'published': 'not found', 'ours': _labels(table)}
  return common.Finding({**text, **fields}, draw)


def random_finding(table: Table) -> common.Finding:
  """Judges random parameters; cases in float64 have 'float64' in their name."""
  parts = [
    _below(found.errors, _LIMIT_DOUBLE if 'float64' in case else _LIMIT)
    for case, row in table.items()
    for found in row.values()
  ]
  return _finding(
    table,
    id='precision-random',
    claim='Gradients in chunks are exact up to rounding (relative error against '
    'the gradient of the whole sequence in float64).',
    trend=f'below {_LIMIT:g} in float32 and {_LIMIT_DOUBLE:g} in float64',
    verdict=common.combine(parts),
    explanation='Random initial parameters, d=64, h=4, s=3, L=512, C=64. The '
    f'effect of precision is a figure of the paper: {_PAPER}.',
  )


def chunk_finding(of_chunk: Table, of_length: Table) -> common.Finding:
  """Judges the growth of errors as C falls and as L rises.

  Args:
    of_chunk: `subtract` and `checkpoint` by C, rising.
    of_length: `subtract` by L, rising.

  Returns:
    The finding.
  """
  small, large = (_pick(of_chunk, i, 'subtract') for i in (0, -1))
  stored = [_log(_pick(of_chunk, i, 'checkpoint')) for i in (0, -1)]
  short, long = (_log(_pick(of_length, i, 'subtract')) for i in (0, -1))
  parts = [
    verdicts.verdict(
      _log(small), _log(large), higher_is_better=True, paired=True
    ),
    verdicts.verdict_close(*stored, tolerance=np.log10(3), paired=True),
    verdicts.verdict(long - short, [1.0], higher_is_better=False),
  ]
  finding = _finding(
    {**of_chunk, **of_length},
    id='precision-chunk',
    claim='The error of subtraction grows, mildly, with the number of chunks; '
    'that of stored states does not (relative error of the gradient).',
    trend='subtract: least chunk above largest, longest sequence less than ten '
    'times the shortest; checkpoint: least and largest chunk within a factor 3',
    verdict=common.combine(parts),
    explanation=f'Square kernel, random parameters. Parts: {parts}. The effect '
    f'of precision over C is a figure of the paper: {_PAPER}.',
  )
  draw = functools.partial(pictures.lines, of_chunk, of_length)
  return common.Finding(finding.fields, draw)


def _pick(table: Table, index: int, kind: str) -> tuple[float, ...]:
  return list(table.values())[index][kind].errors


def stress_finding(table: Table, dtype: str) -> common.Finding:
  """Judges stressed parameters.

  Args:
    table: factors of a stress rise from case to case.
    dtype: of activations.

  Returns:
    The finding.
  """
  lost = [c for c in table if c.endswith((' x6', 'spike x1000'))]
  lost = [c for c in lost if not c.startswith('elu1')]
  parts = [_above(table[c]['subtract'].errors, _LOST) for c in lost]
  if dtype == 'float32':
    limit = f'checkpoint below {_LIMIT:g} in all cases'
    parts += [
      _below(row['checkpoint'].errors, _LIMIT) for row in table.values()
    ]
  else:
    limit = 'checkpoint within a factor 1.5 of full in all cases'
    parts += [
      verdicts.verdict(
        _log(row['checkpoint'].errors) - _log(row['full'].errors),
        [np.log10(1.5)],
        higher_is_better=False,
      )
      for row in table.values()
    ]
  names = [*lost, *(f'{case} checkpoint' for case in table)]
  open_parts = [
    f'{n} ({p})' for n, p in zip(names, parts, strict=True) if p != 'holds'
  ]
  return _finding(
    table,
    id=f'precision-stress-{dtype}',
    claim='With peaked attention or one dominant key, subtraction loses the '
    'gradient; stored states keep it (relative error).',
    trend=f'subtract above {_LOST:g} at the greatest factors of softmax_pos and '
    f'square; {limit}',
    verdict=common.combine(parts),
    explanation='L=256, C=16, d=32, h=2, s=2. '
    + (
      f'Not so: {"; ".join(open_parts)}.' if open_parts else 'All parts hold.'
    ),
  )


def wide_finding(table: Table) -> common.Finding:
  """Judges float64 states, under the greatest stresses."""
  cases = [c for c in table if not c.startswith('elu1')]
  parts = [_above(table[c]['subtract'].errors, 1e-3) for c in cases]
  parts += [_below(row['checkpoint'].errors, _LIMIT) for row in table.values()]
  return _finding(
    table,
    id='precision-wide-states',
    claim='States in float64 do not rescue subtraction: what is recomputed in '
    'float32 from a recovered state is not what was added (relative error).',
    trend='subtract above 1e-3 for softmax_pos and square; checkpoint below '
    f'{_LIMIT:g}',
    verdict=common.combine(parts),
    explanation=f'L=256, C=16, d=32, h=2, s=2; activations in float32. {parts}.',
  )


def audit_finding(tables: Sequence[Table]) -> common.Finding:
  """Judges whether the drift that the library reports tells the lost ones.

  Args:
    tables: with `subtract`, and `checkpoint` or `full` to compare with.

  Returns:
    The finding.
  """
  points = [
    p for table in tables for row in table.values() for p in _points(row)
  ]
  drifts, states = np.array([p[1] for p in points]), [p[2] for p in points]
  flagged = ~(drifts <= drift.THRESHOLD)
  counts = {
    f'{state}, {"flagged" if flag else "not flagged"}': (
      float(
        sum(
          s == state and f == flag for s, f in zip(states, flagged, strict=True)
        )
      ),
    )
    for state in ('lost', 'between', 'sound')
    for flag in (True, False)
  }
  missed = counts['lost, not flagged'][0]
  false = counts['sound, flagged'][0]
  return common.Finding(
    {
      'id': 'precision-audit',
      'claim': 'The drift of the first state, which subtraction yields for '
      'nothing, tells gradients that are lost from sound ones (runs).',
      'ours': counts,
      'published': 'not found',
      'trend': f'at the threshold {drift.THRESHOLD:g} all that are lost are '
      'flagged, and none that is sound',
      'verdict': 'holds' if missed == false == 0 else 'fails',
      'explanation': f'Lost: error above {_LOST:g} and three times that of '
      f'stored states. Sound: below {_SOUND:g}, or below 1.5 times that of stored '
      f'states. {len(points)} runs. {missed:g} missed, {false:g} false alarms.',
    },
    functools.partial(pictures.audit, points),
  )


def _points(
  row: Mapping[str, errors.Found],
) -> list[tuple[float, float, str]]:
  """(error, drift, state) of every seed of `subtract`."""
  mine = row['subtract']
  safe = row.get('checkpoint')
  others = mine.errors if safe is None else safe.errors
  found = []
  for error, value, other in zip(mine.errors, mine.drifts, others, strict=True):
    state = 'between'
    if error > _LOST and error > 3 * other:
      state = 'lost'
    elif error < _SOUND or error < 1.5 * other:
      state = 'sound'
    found.append((error, value, state))
  return found
