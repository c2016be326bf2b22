"""Fig. 3: time of attention over the length of the sequence.

FAVOR+ (positive features, r = 256), exact attention, and attention that returns
V, which bounds what any attention can reach; B = 1, H = 8, d = 64. Uses the
forms of `benchmarks.attention`; each seed has inputs and turns of its own. On a
CPU the time is that of all threads, which other processes do not lengthen.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks import attention_forms as forms
from benchmarks import attention_runs as runs
from benchmarks import harness, programs
from papers import claims, figures, rows, scaling, study
from performer import attention
from runtime.record import ledger

FAVOR, EXACT, IDENTITY = NAMES = 'ours pos', 'jax.nn exact', 'identity'
SOURCE = 'arXiv:2009.14794, Fig. 3, 20 and 21'


@dataclasses.dataclass(frozen=True)
class Setting:
  """Settings of the timing."""

  case: forms.Case  # At any length.
  mechanism: attention.Favor  # Of the form `ours pos`.
  turns: int = 3  # Of each form and seed.
  memory_bytes: int = 3 * 2**30  # A form that needs more is left out.


@functools.cache
def _checked(name: str, setting: Setting) -> forms.Implementation:
  """A form whose results are checked."""
  one = forms.make(name, setting.case)
  wrong = runs.check(one, setting.case)
  if wrong is not None:
    raise RuntimeError(f'nothing to time: {name}: {setting.case}: {wrong}')
  if name == FAVOR and one.attend(True).func != setting.mechanism:
    raise ValueError(
      f'the benchmark must time {setting.mechanism}, got {one.attend(True).func}'
    )
  return one


def run(
  setting: Setting, *, seeds: Sequence[int], at: int
) -> list[study.Record]:
  """Times the forms in turns.

  Returns:
    For each seed the median seconds of the forms that fit.

  Raises:
    RuntimeError: if a form does not compute what it should.
    ValueError: if the benchmark times another mechanism.
  """
  case = dataclasses.replace(setting.case, length=at)
  fit = [
    name
    for name in NAMES
    if _checked(name, setting).bytes_needed(case) <= setting.memory_bytes
  ]
  built = {
    harness.Form(name, runs.program): runs.program(name, 1.0, case)
    for name in fit
  }
  settings = programs.Settings(rounds=setting.turns, seconds=60.0)
  clock = _clock()
  return [
    {
      one.form: one.median(clock)
      for one in harness.measure(case, built, settings, seeds=(seed,))
    }
    for seed in seeds
  ]


def _clock() -> programs.Clock:
  return 'cpu' if jax.default_backend() == 'cpu' else 'wall'


def _study(longest: int) -> study.Study:
  mechanism = attention.Favor(kernel='softmax_pos', features=256)
  return study.Study(
    run,
    {k: Setting(forms.Case(*v, 1), mechanism) for k, v in forms.KINDS.items()},
    seeds=5,
    at=tuple(2**n for n in range(8, longest + 1)),
    together=True,
  )


_STUDIES = {'tiny': _study(13), 'paper': _study(16)}


def _exponents(results: study.Results) -> dict[str, list[float]]:
  found = {}
  for kind in forms.KINDS:
    for name, form, least, most in (
      ('FAVOR+', FAVOR, 0, math.inf),
      ('exact', EXACT, 1024, 4096),
      ('returns V', IDENTITY, 1024, math.inf),
    ):
      times = results.by_place(kind, form)
      found[f'{name}, {kind}'] = scaling.exponents(times, least, most)
  return found


def _causal_ratios(results: study.Results) -> dict[str, np.ndarray]:
  found = {}
  for what in ('forward', 'forward+backward'):
    one, two = (
      results.by_place(f'{direction} {what}', FAVOR)
      for direction in ('bidirectional', 'causal')
    )
    found |= {f'{what} L={n}': two[n] / one[n] for n in one if n >= 1024}
  return found


_row = functools.partial(
  rows.Row,
  study=_STUDIES,
  figure=lambda results: [
    figures.by_place(
      {form: results.by_place(kind, form) for form in NAMES},
      unit=1e-3,
      xlabel='length L',
      ylabel=f'{kind}: time (ms)',
      xscale='log2',
      yscale='log',
    )
    for kind in forms.KINDS
  ],
  title='B = 1, H = 8, d = 64, r = 256, float32',
  explain=lambda results: (
    'Times are CPU times of all threads.'
    if _clock() == 'cpu'
    else 'Times are by the wall clock.'
  ),
)
ROWS = (
  _row(
    id='fig3-growth',
    claim='Time grows linearly with the length, that of exact attention '
    'quadratically (exponent of L).',
    ours=_exponents,
    published=ledger.Published('curves, no numbers', SOURCE),
    trend='FAVOR+ at most 1.3 over all lengths, exact at least 1.8 between 1024 '
    'and 4096',
    claims=[
      *(claims.below(f'FAVOR+, {kind}', than=1.3) for kind in forms.KINDS),
      *(claims.above(f'exact, {kind}', than=1.8) for kind in forms.KINDS),
    ],
  ),
  _row(
    id='fig3-crossover',
    claim='From some length on FAVOR+ is faster than exact attention (that '
    'length, interpolated; the least one measured if from the start).',
    ours=lambda results: {
      kind: scaling.crossovers(
        *(results.by_place(kind, form) for form in (FAVOR, EXACT))
      )
      for kind in forms.KINDS
    },
    published=ledger.Published('curves, no numbers', SOURCE),
    trend='below 1024 for every kind',
    claims=[claims.below(kind, than=1024.0) for kind in forms.KINDS],
  ),
  _row(
    id='fig3-causal',
    claim='Causal FAVOR+ costs little more than bidirectional (time over that of '
    'the bidirectional kind).',
    ours=_causal_ratios,
    trend='at most 1.5 from 1024 on',
    claims=lambda table: [claims.below(label, than=1.5) for label in table],
  ),
)
