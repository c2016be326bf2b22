"""E1: error of the output of attention over the number of features (Fig. 4).

L = 4096 keys and values, 512 queries, d = 16, all entries normal; queries and
keys with standard deviation 1 (high norm) or 0.5 (low norm). The error is the
mean squared error of the output against exact attention. A run with a seed has
inputs and projections of its own; kernels, matrices and norms share them.

Kernels are compared twice: at equal r, the number of features, which is what
they cost; and at equal m, the number of projections, where trig and hyp have
two features for each.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import reproduce_common as common
import reproduce_performer_error_table as table_lib

from runtime.record import ledger, verdicts

__all__ = ['findings', 'rows']

SOURCE = 'arXiv:2009.14794, Fig. 4'
Errors = table_lib.Errors
Table = table_lib.Table
_CURVES = 'curves, no numbers'


def rows(scale: str, seeds: Sequence[int]) -> list[common.Finding]:
  """Measures and judges.

  Args:
    scale: 'tiny' or 'paper', which are the same here.
    seeds: one run each.

  Returns:
    A finding for each trend.
  """
  del scale
  errors, bad, norms = table_lib.measure(seeds)
  return findings(errors, bad, norms)


def findings(
  errors: Errors, bad: Errors, norms: Mapping[str, tuple[float, ...]]
) -> list[common.Finding]:
  """Judges measured errors; see `measure`."""
  high, low = Table(errors, 'high-norm'), Table(errors, 'low-norm')
  texts = {
    regime: f'Entries of q, k ~ N(0, {table_lib.SCALES[regime]:g}^2): |x+y|^2 is '
    f'{mean:.3g} in the mean, {top:.3g} at the 95th percentile; the mean '
    f'square of the exact output is {power:.2g}. '
    for regime, (mean, top, power) in norms.items()
  }
  return [
    _positive_wins(high, texts['high-norm']),
    _bad_rows(bad, texts['high-norm']),
    _trig_wins(low, texts['low-norm']),
    _fixed_norms(low, texts['low-norm']),
    _falls(low, texts['low-norm']),
    _orthogonal(low, texts['low-norm']),
  ]


def _finding(
  table: Table,
  settings: Sequence[tuple[str, str, str]],
  published: str,
  *,
  ratios: Mapping[str, np.ndarray] | None = None,
  **fields: Any,
) -> common.Finding:
  """A finding whose numbers are errors, or ratios given as logarithms."""
  ours = table.labels(settings)
  if ratios is not None:
    ours = {k: tuple(map(float, 10**v)) for k, v in ratios.items()}
  return common.Finding(
    {
      'ours': ours,
      'published': ledger.Published(published, SOURCE),
      **fields,
    },
    functools.partial(table_lib.picture, table, settings),
  )


def _positive_wins(table: Table, norms: str) -> common.Finding:
  found, names, ratios = [], [], []
  for m in table.sizes:
    decades = 1.0 if m >= 256 else 2.0
    for budget, trig in (('m', m), ('r', m // 2)):
      one, two = table.at('pos', m), table.at('trig', trig)
      found.append(table.below(one, two, decades))
      names.append(f'm={m}, equal {budget}')
    ratios.append(f'{10 ** np.median(one - table.at("trig", m)):.1g}')
  return _finding(
    table,
    [('pos', 'rorf', 'chi'), ('hyp', 'rorf', 'chi'), ('trig', 'rorf', 'chi')],
    f'{_CURVES}: positive features below trigonometric ones',
    id='fig4-high-norm-positive-features',
    claim='Where norms are high, positive features approximate attention far '
    'better than trigonometric ones (mean squared error of the output).',
    trend='pos below trig by a factor 100 for m <= 128 and 10 at m = 256, at '
    'equal m and at equal r',
    verdict=common.combine(found),
    explanation=f'{norms}Median pos / trig at equal m = '
    f'{", ".join(map(str, table.sizes))}: {", ".join(ratios)}. '
    + _parts(names, found),
  )


def _bad_rows(bad: Errors, norms: str) -> common.Finding:
  def at(kernel: str, m: int) -> np.ndarray:
    return bad['high-norm', kernel, 'rorf', 'chi', m]

  sizes = sorted({key[4] for key in bad if key[1] == 'pos'})
  first, last = sizes[0], sizes[-1]
  worst = max(float(at('pos', m).max()) for m in sizes)
  found = [
    verdicts.verdict(
      at('trig', first), [0.0], higher_is_better=True, margin=0.1
    ),
    verdicts.verdict(at('trig', last), [0.0], higher_is_better=True),
    'holds' if worst == 0 else 'fails',
  ]
  ours = {f'trig rorf m={m}': tuple(map(float, at('trig', m))) for m in sizes}
  ours |= {f'pos rorf m={m}': tuple(map(float, at('pos', m))) for m in sizes}
  return common.Finding(
    {
      'id': 'fig4-high-norm-bad-denominators',
      'claim': 'Trigonometric features make row sums that are zero or negative;'
      ' positive ones cannot (fraction of rows).',
      'ours': ours,
      'published': 'not found',
      'trend': f'trig: above 10 % at m = {first}, above 0 at m = {last}; pos: '
      'exactly 0',
      'verdict': common.combine(found),
      'explanation': norms.strip(),
    },
    functools.partial(table_lib.bad_picture, sizes, ours),
  )


def _trig_wins(table: Table, norms: str) -> common.Finding:
  sizes = [m for m in table.sizes if m >= 32]
  found = [
    table.below(table.at('trig', trig), table.at('pos', m))
    for m in sizes
    for trig in (m, m // 2)
  ]
  return _finding(
    table,
    [('pos', 'rorf', 'chi'), ('hyp', 'rorf', 'chi'), ('trig', 'rorf', 'chi')],
    f'{_CURVES}; inputs of one norm only',
    id='fig4-low-norm-trigonometric-features',
    claim='Where norms are low, trigonometric features are the better ones: '
    'the order of Fig. 4 depends on the norms (mean squared error).',
    trend='trig below pos for m >= 32, at equal m and at equal r',
    verdict=common.combine(found),
    explanation=norms
    + _parts(
      [f'm={m}, equal {budget}' for m in sizes for budget in 'mr'], found
    ),
  )


def _fixed_norms(table: Table, norms: str) -> common.Finding:
  ratios = {
    f'{kernel} m={m}': table.at(kernel, m, norm='sqrt_d') - table.at(kernel, m)
    for m in table.sizes
    if m >= 32
    for kernel in ('pos', 'hyp')
  }
  settings = [
    (kernel, 'rorf', norm)
    for kernel in ('pos', 'hyp')
    for norm in ('chi', 'sqrt_d')
  ]
  return _finding(
    table,
    settings,
    f'{_CURVES}: norms are not varied',
    ratios=ratios,
    id='fig4-low-norm-regularized',
    claim='Frequencies of norm sqrt(d) (the regularised kernel) approximate '
    'softmax attention better than those of norm chi(d) (ratio of the mean '
    'squared errors).',
    trend='below 1 for m >= 32, pos and hyp',
    **_below_one(ratios, norms),
  )


def _falls(table: Table, norms: str) -> common.Finding:
  kernels = ('pos', 'hyp', 'trig')
  ratios = {
    f'{kernel} m={m}': table.at(kernel, m) - table.at(kernel, n)
    for n, m in zip(table.sizes, table.sizes[1:], strict=False)
    for kernel in kernels
  }
  return _finding(
    table,
    [(kernel, 'rorf', 'chi') for kernel in kernels],
    f'{_CURVES}: all fall',
    ratios=ratios,
    id='fig4-low-norm-more-features',
    claim='The error falls with the number of features (mean squared error '
    'over that at half as many).',
    trend='below 1 for each doubling of m, pos, hyp and trig',
    **_below_one(ratios, norms),
  )


def _orthogonal(table: Table, norms: str) -> common.Finding:
  kernels = ('pos', 'hyp', 'trig')
  ratios = {
    f'{kernel} m={m}': table.at(kernel, m) - table.at(kernel, m, ortho='iid')
    for m in table.sizes
    for kernel in kernels
  }
  return _finding(
    table,
    [(kernel, ortho, 'chi') for kernel in kernels for ortho in ('iid', 'rorf')],
    f'{_CURVES}: orthogonal below independent',
    ratios=ratios,
    id='fig4-low-norm-orthogonal',
    claim='Orthogonal frequencies approximate attention better than '
    'independent ones (ratio of the mean squared errors).',
    trend='below 1 for every m, pos, hyp and trig',
    **_below_one(ratios, norms),
  )


def _below_one(ratios: Mapping[str, np.ndarray], norms: str) -> dict[str, str]:
  """Verdict that all ratios (logarithms) are below 1, and what is not."""
  found = [
    verdicts.verdict(values, [0.0], higher_is_better=False)
    for values in ratios.values()
  ]
  return {
    'verdict': common.combine(found),
    'explanation': norms + _parts(list(ratios), found),
  }


def _parts(names: Sequence[str], found: Sequence[str]) -> str:
  """Says which parts do not hold."""
  others = [
    f'{name} ({verdict})'
    for name, verdict in zip(names, found, strict=True)
    if verdict != 'holds'
  ]
  if not others:
    return f'All {len(found)} comparisons hold.'
  return f'Of {len(found)} comparisons these do not hold: {"; ".join(others)}.'
