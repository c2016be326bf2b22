"""Rows about finite precision: gradients in chunks against float64.

Under the stresses of `papers.slim.errors` subtraction loses the states of early
chunks: the state after a large key has no digits left for those before it, and
what is recomputed from a state that is off is off too, layer by layer and chunk
by chunk. Stored states do not have the problem.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import slim_forms as forms
from papers import claims, figures, rows, study
from papers.slim import errors
from performer.slim import drift

_LIMIT = 1e-5  # Of float32, at random parameters and for stored states.
_LIMIT_DOUBLE = 1e-12
# A gradient is lost if it is more than 1 % off, and three times as far as
# with stored states; it is sound if it is not 1.5 times as far, or 1e-4 off.
_LOST, _SOUND = 1e-2, 1e-4
KINDS = ('full', 'subtract', 'checkpoint')
Arms = dict[str, Any]


def _arms(
  sizes: forms.Sizes,
  length: int,
  chunk: int,
  kinds: Sequence[str] = KINDS,
  *,
  name: str = '',
  **stress: Any,
) -> Arms:
  """Strategies of one case; its name says kernel, norm, dtype and stress."""
  words = [sizes.kernel, sizes.norm]
  words += [] if sizes.dtype == 'float32' else [sizes.dtype]
  if 'stress' in stress:
    words += [stress['stress'], f'x{stress["factor"]:g}']
  model = forms.build(sizes)
  return {
    _label(name or ' '.join(words), kind): errors.Setting(
      model,
      forms.Form(kind, None if kind == 'full' else chunk),
      length,
      **stress,
    )
    for kind in kinds
  }


_label = '{}: {}'.format


def _cases(arms: Mapping[str, Any]) -> list[str]:
  return list(dict.fromkeys(label.split(': ')[0] for label in arms))


def _joined(parts: Iterable[Arms]) -> Arms:
  return {label: s for part in parts for label, s in part.items()}


_LARGE = forms.Sizes(64, 4, 3, 256, 64)
_SMALL = forms.Sizes(32, 2, 2, 128, 64)
_CHANGED = functools.partial(dataclasses.replace, _LARGE)
_STRESSES = (
  ('softmax_pos', 'pre', 'qk', (1.0, 3.0, 6.0)),
  ('square', 'post_branch', 'spike', (1.0, 10.0, 100.0, 1000.0)),
  ('elu1', 'post_branch', 'spike', (1.0, 1000.0)),
)
RANDOM = _joined(
  _arms(sizes, 512, 64)
  for sizes in (
    *(
      _CHANGED(kernel=kernel, norm=norm)
      for kernel in ('square', 'elu1', 'relu', 'softmax_pos')
      for norm in ('post_branch', 'pre')
    ),
    _CHANGED(dtype='float64'),
  )
)
OF_CHUNK = _joined(
  _arms(_LARGE, 512, c, KINDS[1:], name=f'C={c}') for c in (1, 4, 16, 64)
)
OF_LENGTH = _joined(
  _arms(_CHANGED(layers=2), n, 32, ('subtract',), name=f'L={n}')
  for n in (512, 1024, 2048, 4096)
)


def _stressed(dtype: str = 'float32', *, wide: bool = False) -> Arms:
  """All stresses; with wide states the greatest of each."""
  return _joined(
    _arms(
      dataclasses.replace(_SMALL, kernel=kernel, norm=norm, dtype=dtype),
      256,
      16,
      KINDS[1:] if wide else KINDS,
      stress=stress,
      factor=factor,
      wide=wide,
    )
    for kernel, norm, stress, factors in _STRESSES
    for factor in (factors[-1:] if wide else factors)
  )


STRESSED, HALF = _stressed(), _stressed('bfloat16')
_STATED = 'The paper shows the effect of precision in a figure without numbers.'


_errors = rows.numbers('error')


def _below(label: str, limit: float) -> claims.Claim:
  """Of logarithms; an error of 0 has none."""
  error = claims.computed(label, lambda x: np.maximum(x, 1e-30), label)
  return claims.below(error, than=limit, log=True)


_above = functools.partial(claims.above, log=True)


def _points(results: study.Results) -> figures.Panel:
  """Errors of all seeds, a line for each case."""
  cases = _cases(results.arms)
  lines = []
  for kind, style in zip(KINDS, ('s', 'o', '^'), strict=True):
    own = [c for c in cases if _label(c, kind) in results.arms]
    values = [results(_label(c, kind), 'error') for c in own]
    places = [
      [cases.index(c)] * len(v) for c, v in zip(own, values, strict=True)
    ]
    if own:
      x, y = np.maximum(np.ravel(values), 1e-18), np.ravel(places)
      lines.append(figures.Line(kind, x, y, style=style))
  ticks = {'yticks': range(len(cases)), 'yticklabels': cases}
  return figures.Lines(
    lines=lines,
    xlabel='relative error of the gradient',
    xscale='log',
    options={'ylim': (len(cases) - 0.5, -0.5), **ticks},
  )


def _growth_figure(results: study.Results) -> list[figures.Panel]:
  """Errors over C and over L."""
  panels = []
  for xlabel, arms, kinds in (
    ('positions of a chunk C', OF_CHUNK, KINDS[1:]),
    ('length L', OF_LENGTH, ('subtract',)),
  ):
    places = {int(case.split('=')[1]): case for case in _cases(arms)}
    errors = {
      kind: {n: results(_label(c, kind), 'error') for n, c in places.items()}
      for kind in kinds
    }
    panels.append(
      figures.by_place(
        errors,
        spread='mean',
        xlabel=xlabel,
        ylabel='relative error of the gradient',
        xscale='log2',
        yscale='log',
      )
    )
  return panels


def _grows() -> list[claims.Claim]:
  """With the number of chunks, mildly; not with stored states."""
  chunks, lengths = _cases(OF_CHUNK), _cases(OF_LENGTH)
  (small, stored), (large, also) = (
    [_label(case, kind) for kind in KINDS[1:]]
    for case in (chunks[0], chunks[-1])
  )
  short, long = (_label(lengths[i], 'subtract') for i in (0, -1))
  common = {'paired': True, 'log': True}
  factor = np.log(3)
  return [
    claims.above(small, than=large, **common),
    claims.Difference(
      stored, also, least=-factor, most=factor, confidence=0.9, **common
    ),
    claims.below(long, than=short, margin=-np.log(10), **common),
  ]


def _greatest(arms: Arms) -> list[str]:
  """Cases whose gradients subtraction should lose."""
  ends = (' x6', 'spike x1000')
  cases = [case for case in _cases(arms) if case.endswith(ends)]
  return [case for case in cases if not case.startswith('elu1')]


def _stress_row(arms: Arms, dtype: str) -> rows.Row:
  stored = [_label(case, 'checkpoint') for case in _cases(arms)]
  if dtype == 'float32':
    limit = f'checkpoint below {_LIMIT:g} in all cases'
    safe = [_below(label, _LIMIT) for label in stored]
  else:
    limit = 'checkpoint within a factor 1.5 of full in all cases'
    safe = [
      claims.below(
        _label(case, 'checkpoint'),
        than=_label(case, 'full'),
        margin=-np.log(1.5),
        paired=True,
        log=True,
      )
      for case in _cases(arms)
    ]
  return rows.Row(
    id=f'precision-stress-{dtype}',
    claim='With peaked attention or one dominant key, subtraction loses the '
    'gradient; stored states keep it (relative error).',
    study=study.Study(errors.run, arms),
    ours=_errors,
    trend=f'subtract above {_LOST:g} at the greatest factors of softmax_pos and '
    f'square; {limit}',
    claims=[
      *(_above(_label(c, 'subtract'), _LOST) for c in _greatest(arms)),
      *safe,
    ],
    figure=_points,
    explain='L=256, C=16, d=32, h=2, s=2.',
    headline=_label(_greatest(arms)[0], 'subtract'),
  )


def _audited(results: study.Results) -> dict[str, list[tuple[float, float]]]:
  """Error and drift of every run of `subtract`, by state."""
  found: dict[str, list[tuple[float, float]]] = {
    state: [] for state in ('lost', 'between', 'sound')
  }
  for case in _cases(results.arms):
    mine, safe = (_label(case, kind) for kind in KINDS[1:])
    others = results(safe if safe in results.arms else mine, 'error')
    drifts = results(mine, 'drift')
    for error, value, other in zip(
      results(mine, 'error'), drifts, others, strict=True
    ):
      state = 'between'
      if error > _LOST and error > 3 * other:
        state = 'lost'
      elif error < _SOUND or error < 1.5 * other:
        state = 'sound'
      found[state].append((error, value))
  return found


def _flagged(results: study.Results) -> dict[str, float]:
  found = {}
  for state, points in _audited(results).items():
    # NaN is flagged too.
    flags = [not value <= drift.THRESHOLD for _, value in points]
    found[f'{state}, flagged'] = float(sum(flags))
    found[f'{state}, not flagged'] = float(len(flags) - sum(flags))
  return found


def _explain_audit(results: study.Results) -> str:
  counts = _flagged(results)
  return (
    f'A gradient is lost if its error is above {_LOST:g} and above three times '
    f'that of stored states. It is sound if its error is below {_SOUND:g}, or below '
    f'1.5 times that of stored states. There are {sum(counts.values()):.0f} runs, '
    f'with {counts["lost, not flagged"]:g} lost gradients missed and '
    f'{counts["sound, flagged"]:g} false alarms.'
  )


_WIDE = _stressed(wide=True)
ROWS = (
  rows.Row(
    id='precision-random',
    claim='Gradients in chunks are exact up to rounding (relative error against '
    'the gradient of the whole sequence in float64).',
    study=study.Study(errors.run, RANDOM),
    ours=_errors,
    trend=f'below {_LIMIT:g} in float32 and {_LIMIT_DOUBLE:g} in float64',
    claims=[
      _below(label, _LIMIT_DOUBLE if 'float64' in label else _LIMIT)
      for label in RANDOM
    ],
    figure=_points,
    explain='Parameters are random, as at the start; d=64, h=4, s=3, L=512, C=64. '
    + _STATED,
    headline='square post_branch: subtract',
  ),
  rows.Row(
    id='precision-chunk',
    claim='The error of subtraction grows, mildly, with the number of chunks; '
    'that of stored states does not (relative error of the gradient).',
    study=study.Study(errors.run, OF_CHUNK | OF_LENGTH),
    ours=_errors,
    trend='subtract: least chunk above largest, longest sequence less than ten '
    'times the shortest; checkpoint: least and largest chunk within a factor 3',
    claims=_grows(),
    figure=_growth_figure,
    explain=f'The kernel is the square one, parameters are random. {_STATED}',
  ),
  _stress_row(STRESSED, 'float32'),
  _stress_row(HALF, 'bfloat16'),
  rows.Row(
    id='precision-wide-states',
    claim='States in float64 do not rescue subtraction: a term recomputed in '
    'float32 from a recovered state is not the term that was added (relative '
    'error).',
    study=study.Study(errors.run, _WIDE),
    ours=_errors,
    trend='subtract above 1e-3 for softmax_pos and square; checkpoint below '
    f'{_LIMIT:g}',
    claims=[
      *(_above(_label(c, 'subtract'), 1e-3) for c in _greatest(_WIDE)),
      *(_below(_label(c, 'checkpoint'), _LIMIT) for c in _cases(_WIDE)),
    ],
    figure=_points,
    explain='L=256, C=16, d=32, h=2, s=2. Activations are in float32.',
  ),
  rows.Row(
    id='precision-audit',
    claim='The audit tells lost gradients from sound ones. It compares what '
    'queries read from the recovered first state with what they read from the '
    'known one (runs).',
    study=study.Study(
      errors.run, RANDOM | STRESSED | HALF | OF_CHUNK | OF_LENGTH
    ),
    ours=_flagged,
    trend=f'at the threshold {drift.THRESHOLD:g} all that are lost are flagged, '
    'and none that is sound',
    claims=(
      claims.Check(
        'none that is lost is missed',
        lambda table: table['lost, not flagged'][0] == 0,
      ),
      claims.Check(
        'no alarm is false', lambda table: table['sound, flagged'][0] == 0
      ),
    ),
    figure=lambda results: figures.Lines(
      lines=[
        figures.Line(state, *np.maximum(np.transpose(points), 1e-17), style='o')
        for state, points in _audited(results).items()
        if points
      ],
      levels={'threshold': drift.THRESHOLD},
      xlabel='relative error of the gradient',
      ylabel='drift',
      xscale='log',
      yscale='log',
    ),
    explain=_explain_audit,
  ),
)
