"""Time and memory of a frame against the number of patches.

The programs are those of `benchmarks.implicit_attention`: a policy whose patches
are single pixels, so that a picture of s x s pixels has l = s^2 of them. Each
seed has pictures and turns of its own.
"""

import dataclasses
import functools

import numpy as np

from benchmarks import harness, programs
from benchmarks import implicit_attention as benchmark
from papers import claims, figures, rows, scaling, study

FORMS = (benchmark.IMPLICIT, benchmark.EXACT)
# Patches from which on growth is measured. Below, what implicit attention costs is
# what any call costs.
_FROM = {benchmark.IMPLICIT: 4096, benchmark.EXACT: 1024}
_BOTH = 'both'


@dataclasses.dataclass(frozen=True)
class Setting:
  """Settings of the timing."""

  features: int = 16  # M of implicit attention.
  longest_exact: int = 4096  # Patches beyond which exact attention is left out.
  turns: int = 3  # Of each form and seed.


@functools.cache
def _built(setting: Setting, side: int) -> dict[harness.Form, programs.Program]:
  """The forms of a side, whose results are checked."""
  sizes = benchmark.Sizes(
    features=setting.features, longest_exact=setting.longest_exact
  )
  case, built = benchmark.Frame(side), {}
  for form in benchmark.SUBJECT.forms(sizes, case):
    built[form] = form.make(case)
    wrong = form.check(case, built[form])
    if wrong is not None:
      raise RuntimeError(f'nothing to time: {form.key}: {case}: {wrong}')
  return built


def run(setting: Setting, *, seed: int, at: int) -> study.Record:
  """Times the forms in turns on pictures of a seed, `at` pixels along each side.

  Returns:
    By form, CPU seconds of a frame and bytes besides inputs and outputs.

  Raises:
    RuntimeError: if a form does not compute what it should.
  """
  measured = harness.measure(
    benchmark.Frame(at),
    _built(setting, at),
    programs.Settings(rounds=setting.turns, seconds=60.0),
    seeds=(seed,),
  )
  times = {f'{one.form}, seconds': one.median('cpu') for one in measured}
  return times | {f'{one.form}, bytes': one.bytes for one in measured}


def _by_length(
  results: study.Results, form: str, metric: str
) -> scaling.Points:
  """A metric by the number of patches, where the form was measured."""
  found = results.by_place(_BOTH, f'{form}, {metric}')
  return {side**2: values for side, values in found.items()}


def _ours(results: study.Results) -> dict[str, list[float]]:
  found = {
    f'{form}: exponent of {name}': scaling.exponents(
      _by_length(results, form, metric), least=_FROM[form]
    )
    for metric, name in (('seconds', 'time'), ('bytes', 'memory'))
    for form in FORMS
  }
  times = [_by_length(results, form, 'seconds') for form in FORMS]
  return found | {'crossover': scaling.crossovers(*times)}


def _explain(results: study.Results) -> str:
  ours, exact = (_by_length(results, form, 'seconds') for form in FORMS)
  texts = [
    f'{form}: '
    + ', '.join(f'{1e3 * np.median(x):.3g} at {n}' for n, x in times.items())
    for form, times in zip(FORMS, (ours, exact), strict=True)
  ]
  last = max(exact)
  faster = np.median(exact[last] / ours[last])
  return (
    f'CPU milliseconds of a frame with m = {results.settings[_BOTH].features}, '
    f'by l: {"; ".join(texts)}. At l = {last} implicit is {faster:.3g} times '
    'faster. Exponents are fitted from 4096 patches on, those of exact attention '
    'from 1024 on.'
  )


def _panel(
  results: study.Results, metric: str, unit: float, label: str
) -> figures.Lines:
  return figures.by_place(
    {form: _by_length(results, form, metric) for form in FORMS},
    unit=unit,
    xlabel='patches l',
    ylabel=label,
    xscale='log2',
    yscale='log',
  )


ROWS = (
  rows.Row(
    id='cost-against-patches',
    claim='Implicit attention makes time and memory linear in the number of '
    'patches, where exact attention is quadratic (exponents of l, and the l from '
    'which on implicit is faster).',
    study=study.Study(
      run,
      {_BOTH: Setting()},
      seeds=3,
      at=(16, 24, 32, 48, 64, 96, 128, 192, 256),
    ),
    ours=_ours,
    trend='implicit: 1 +- 0.2 in time and memory; exact: at least 1.8 in both; '
    'faster from less than 600 patches on',
    claims=(
      *(
        claims.close(f'implicit: exponent of {name}', 1.0, within=0.2)
        for name in ('time', 'memory')
      ),
      *(
        claims.above(f'exact: exponent of {name}', 1.8)
        for name in ('time', 'memory')
      ),
      claims.below('crossover', 600.0),
    ),
    figure=lambda results: [
      _panel(results, 'seconds', 1e-3, 'CPU time of a frame (ms)'),
      _panel(results, 'bytes', 2**20, 'temporary memory (MiB)'),
    ],
    explain=_explain,
    headline='implicit: exponent of time',
  ),
)
