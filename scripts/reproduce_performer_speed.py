"""E3: time of attention over the length of the sequence (Fig. 3).

FAVOR+ (positive features, r = 256), exact attention, and attention that returns
V, which bounds what any attention can reach; B = 1, H = 8, d = 64. Uses the
functions of `benchmarks.attention`; each seed has inputs and turns of its own. On
a CPU the time is that of all threads, which other processes do not lengthen.
"""

import functools
import statistics
from collections.abc import Sequence

import jax
import reproduce_common as common

from benchmarks import attention, growth, harness, programs, record
from benchmarks import attention_bars as report
from benchmarks import attention_forms as forms
from runtime.record import ledger, verdicts

__all__ = ['Times', 'findings', 'measure', 'rows']

LENGTHS = {
  'tiny': tuple(2**n for n in range(8, 14)),
  'paper': tuple(2**n for n in range(8, 17)),
}
TURNS = 3  # Of each seed.
FAVOR, EXACT, IDENTITY = 'ours pos', 'jax.nn exact', 'identity'
SOURCE = 'arXiv:2009.14794, Fig. 3, 20 and 21'
_KINDS = forms.KINDS


def measure(
  seeds: Sequence[int], *, lengths: Sequence[int], turns: int = TURNS
) -> harness.Results:
  """Checks and times the three forms.

  Args:
    seeds: of the inputs.
    lengths: those at which exact attention does not fit leave it out.
    turns: of each form and seed.

  Returns:
    The records.

  Raises:
    RuntimeError: if a form does not compute what it should.
  """
  sizes = forms.Sizes(
    lengths=tuple(lengths),
    compile_lengths=(),
    forms=(FAVOR, EXACT, IDENTITY),
    call_seconds=60.0,
    memory_bytes=3 * 2**30,
    matmul=512,
  )
  results = harness.run(
    attention.SUBJECT,
    sizes,
    programs.Settings(rounds=turns, seconds=60.0),
    attention.cases(sizes),
    seeds=seeds,
  )
  refused = [row for row in results.left_out if row['why'] == 'refused']
  if refused:
    raise RuntimeError(f'nothing to time: {refused}')
  return results


class Times:
  """Median times by seed.

  Attributes:
    clock: 'cpu' on a CPU, else 'wall'.
  """

  def __init__(self, results: harness.Results, seeds: Sequence[int]) -> None:
    self._results = results
    self._seeds = len(seeds)
    self.clock = 'cpu' if jax.default_backend() == 'cpu' else 'wall'

  def at(self, form: str, causal: bool, backward: bool) -> dict[int, list]:
    """Seconds by length, one for each seed."""
    found = {}
    timed = report.timed(self._results, form, causal, backward)
    for length, one in timed.items():
      values = [getattr(s, self.clock) for s in one.samples]
      turns = len(values) // self._seeds
      found[length] = [
        statistics.median(values[i * turns : (i + 1) * turns])
        for i in range(self._seeds)
      ]
    return found

  def slopes(
    self, form: str, causal: bool, backward: bool, low: int, high: int
  ) -> list[float]:
    """Exponent of the length between two lengths, for each seed."""
    times = self.at(form, causal, backward)
    chosen = [length for length in times if low <= length <= high]
    return [
      growth.slope({length: times[length][i] for length in chosen})
      for i in range(self._seeds)
    ]

  def crossovers(self, causal: bool, backward: bool) -> list[float]:
    """Length from which FAVOR+ is faster; twice the longest if none."""
    ours = self.at(FAVOR, causal, backward)
    exact = self.at(EXACT, causal, backward)
    lengths = sorted(set(ours) & set(exact))
    return [
      growth.crossover({n: exact[n][i] / ours[n][i] for n in lengths})
      or 2.0 * lengths[-1]
      for i in range(self._seeds)
    ]


def rows(scale: str, seeds: Sequence[int]) -> list[common.Finding]:
  """Measures and judges.

  Args:
    scale: 'paper' goes to lengths for an accelerator.
    seeds: of the inputs.

  Returns:
    Findings: growth, crossover, causal beside bidirectional.
  """
  results = measure(seeds, lengths=LENGTHS[scale])
  return findings(results, seeds)


def findings(
  results: harness.Results, seeds: Sequence[int]
) -> list[common.Finding]:
  """Judges measured times; see `measure`."""
  times = Times(results, seeds)
  device = jax.devices()[0].device_kind
  draw = functools.partial(
    _draw, results, f'{device}; B = 1, H = 8, d = 64, r = 256, float32'
  )
  text = (
    'CPU time of all threads.' if times.clock == 'cpu' else 'Wall-clock time.'
  )
  return [
    common.Finding(judge(times) | {'explanation': text}, draw)
    for judge in (_growth, _crossover, _causal)
  ]


def _draw(results: harness.Results, title: str, path: str) -> None:
  record.picture(report.panels(results), path, title=title)


def _kind(causal: bool, backward: bool) -> str:
  kind = 'causal' if causal else 'bidirectional'
  return f'{kind} {"forward+backward" if backward else "forward"}'


def _growth(times: Times) -> dict:
  ours, parts = {}, []
  for kind in _KINDS:
    favor = times.slopes(FAVOR, *kind, 0, 1 << 20)
    exact = times.slopes(EXACT, *kind, 1024, 4096)
    bound = times.slopes(IDENTITY, *kind, 1024, 1 << 20)
    parts += [
      verdicts.verdict(favor, [1.3], higher_is_better=False),
      verdicts.verdict(exact, [1.8], higher_is_better=True),
    ]
    for name, values in (
      ('FAVOR+', favor),
      ('exact', exact),
      ('returns V', bound),
    ):
      ours[f'{name}, {_kind(*kind)}'] = tuple(values)
  return {
    'id': 'fig3-growth',
    'claim': 'Time grows linearly with the length, that of exact attention '
    'quadratically (exponent of L).',
    'ours': ours,
    'published': ledger.Published('curves, no numbers', SOURCE),
    'trend': 'FAVOR+ at most 1.3 over all lengths, exact at least 1.8 between '
    '1024 and 4096',
    'verdict': common.combine(parts),
  }


def _crossover(times: Times) -> dict:
  ours = {_kind(*kind): tuple(times.crossovers(*kind)) for kind in _KINDS}
  parts = [
    verdicts.verdict(values, [1024.0], higher_is_better=False)
    for values in ours.values()
  ]
  return {
    'id': 'fig3-crossover',
    'claim': 'From some length on FAVOR+ is faster than exact attention '
    '(that length, interpolated; the least one measured if from the start).',
    'ours': ours,
    'published': ledger.Published('curves, no numbers', SOURCE),
    'trend': 'below 1024 for every kind',
    'verdict': common.combine(parts),
  }


def _causal(times: Times) -> dict:
  ours, parts = {}, []
  for backward in (False, True):
    one = times.at(FAVOR, False, backward)
    two = times.at(FAVOR, True, backward)
    what = 'forward+backward' if backward else 'forward'
    for length in sorted(one):
      if length >= 1024:
        pairs = zip(two[length], one[length], strict=True)
        ratios = tuple(a / b for a, b in pairs)
        ours[f'{what} L={length}'] = ratios
        parts.append(verdicts.verdict(ratios, [1.5], higher_is_better=False))
  return {
    'id': 'fig3-causal',
    'claim': 'Causal FAVOR+ costs little more than bidirectional (time over '
    'that of the bidirectional kind).',
    'ours': ours,
    'published': 'not found',
    'trend': 'at most 1.5 from 1024 on',
    'verdict': common.combine(parts),
  }
