"""Memory that does not grow: a gradient of 131072 positions."""

import functools
import itertools

import numpy as np

from benchmarks import programs, slim_bars
from benchmarks import slim_forms as forms
from papers import claims, figures, rows, study
from papers.slim import memory

KINDS = ('subtract', 'checkpoint2')
SHORT, LONG = LENGTHS = (8192, 131072)
LIMIT = 8  # MiB.
_DISTANCE = f'gradients apart, L={LONG}'


def apart(setting: memory.Turns, *, seed: int) -> study.Record:
  """Relative distance of the gradients of two forms."""
  found = []
  for form in setting.chosen:
    program = memory.compiled(form, setting.model, setting.length)
    found.append(program.call(*program.inputs(seed))[1])
  return {'distance': programs.distance(*found)}


_label = '{} L={} MiB'.format


def study_of(
  sizes: forms.Sizes, chunk: int, short: int = SHORT, long: int = LONG
) -> study.Study:
  """Compiles at both lengths, and computes gradients at the longer one."""
  model = forms.build(sizes)
  pair = tuple(forms.Form(kind, chunk) for kind in KINDS)
  places = zip(LENGTHS, (short, long), strict=True)
  fixed = {
    _label(kind, name): functools.partial(
      memory.plan, memory.Setting(model, kind, chunk), at=length
    )
    for kind, (name, length) in itertools.product(KINDS, places)
  }
  arms = {_DISTANCE: memory.Turns(model, long, pair)}
  return study.Study(apart, arms, fixed=fixed)


def _sizes(results: study.Results) -> dict[str, np.ndarray]:
  fixed = tuple(results.study.fixed)
  unit = 1 / memory.MIB
  return rows.table(results, 'bytes', form='{arm}', arms=fixed, factor=unit)


def _is_flat(table: claims.Table) -> bool:
  """Copies of inputs may grow."""
  short, long = (memory.MIB * table[_label(KINDS[0], n)][0] for n in LENGTHS)
  return abs(slim_bars.beyond_inputs(LONG, long, SHORT, short)) <= 0.1 * short


def _explain(results: study.Results) -> str:
  setting = results.settings[_DISTANCE]
  short, long = (_sizes(results)[_label(KINDS[0], n)][0] for n in LENGTHS)
  return (
    f'C={setting.chosen[0].chunk}, d={setting.model.d_model}, '
    f's={setting.model.num_layers}. Gradients were computed, not only compiled. '
    f'Subtract grows by {long - short:.3g} MiB.'
  )


def _figure(results: study.Results) -> figures.Panel:
  sizes = _sizes(results)
  return figures.by_place(
    {k: {n: sizes[_label(k, n)][0] for n in LENGTHS} for k in KINDS},
    levels={'limit': LIMIT},
    xlabel='length L',
    ylabel='temporary memory (MiB)',
    xscale='log2',
    options={'ylim': (0, None)},
  )


ROWS = (
  rows.Row(
    id='constant-memory',
    claim='The gradient of a very long sequence fits into constant memory (MiB of '
    'temporaries; distance of the gradients by subtraction and from stored states '
    'at the longer length).',
    study=study_of(forms.Sizes(32, 4, 1, 128, 64), chunk=64),
    ours=lambda results: (
      _sizes(results) | {_DISTANCE: results(_DISTANCE, 'distance')}
    ),
    trend=f'below {LIMIT} MiB at L={LONG}; subtract within 10 % of L={SHORT}, '
    f'where {slim_bars.INPUT_BYTES} bytes per position may be copies of inputs; '
    'gradients closer than 1e-4',
    claims=(
      claims.Check(
        f'below {LIMIT} MiB at L={LONG}',
        lambda table: all(table[_label(k, LONG)][0] < LIMIT for k in KINDS),
      ),
      claims.Check('subtract grows by at most 10 %', _is_flat),
      claims.below(_DISTANCE, than=1e-4),
    ),
    figure=_figure,
    explain=_explain,
    headline=_label(KINDS[0], LONG),
  ),
)
