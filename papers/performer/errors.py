"""Fig. 4: error of the output of attention over the number of features.

L = 4096 keys and values, 512 queries, d = 16, all entries normal; queries and
keys with standard deviation 1 (high norm) or 0.5 (low norm). The error is the
mean squared error of the output against exact attention. A run with a seed has
inputs and projections of its own; kernels, matrices and norms share them.

Kernels are compared twice: at equal r, the number of features, which is what
they cost; and at equal m, the number of projections, where trig and hyp have
two features for each.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from papers import claims, figures, mechanisms, rows, study
from performer import attention
from performer.attention.kernels import projections
from runtime.record import ledger

SIZES = (8, 16, 32, 64, 128, 256)  # m that all kernels have.
COPIES = {'pos': 1, 'hyp': 2, 'trig': 2}  # Features of a projection.
_CURVES = 'curves, no numbers'


@dataclasses.dataclass(frozen=True)
class Setting:
  """Attention whose error is measured."""

  kernel: str  # Short name, a key of `COPIES`.
  scale: float  # Standard deviation of the entries of queries and keys.
  ortho: str = 'rorf'  # See `attention.Favor`, as the next.
  norm: str = 'chi'  # Of the rows of the projection.
  sizes: tuple[int, ...] = SIZES  # m, numbers of projections.
  keys: int = 4096  # L.
  queries: int = 512  # Number of queries.
  width: int = 16  # d.

  def favor(self, m: int) -> attention.Favor:
    """The mechanism with m projections, which are drawn apart."""
    kernel = f'softmax_{self.kernel}'
    return mechanisms.with_projections(kernel, m, chunk=512)

  def inputs(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values, [length, d], float32."""
    shape = (3, max(self.keys, self.queries), self.width)
    q, k, v = np.random.default_rng(seed).standard_normal(shape)
    q, k, v = (x.astype(np.float32) for x in (q, k, v))
    q, k = self.scale * q[: self.queries], self.scale * k[: self.keys]
    return q, k, v[: self.keys]


def _exact(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Exact attention, float64."""
  logits = q.astype(np.float64) @ k.T / math.sqrt(q.shape[-1])
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True) @ v


@functools.partial(jax.jit, static_argnums=0)
def _attend(
  favor: attention.Favor, q: Any, k: Any, v: Any, w: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Outputs [queries, d], and the fraction of bad denominators."""
  q, k, v = (x[None, :, None] for x in (q, k, v))
  out = favor(q, k, v, projection=w, causal=False)[0, :, 0]
  return out, attention.bad_denominator_fraction(
    favor, q, k, projection=w, causal=False
  )


def run(setting: Setting, *, seed: int) -> study.Record:
  """Measures errors for every number of projections.

  Returns:
    By m: the mean squared error, and the fraction of rows whose denominator is
    not positive. Also the mean and the 95th percentile of |x + y|^2, and the
    mean square of the exact output.
  """
  q, k, v = setting.inputs(seed)
  exact = _exact(q, k, v)
  errors, bad = [], []
  for m in setting.sizes:
    w = projections.draw(
      jax.random.key(1000 + seed),
      m,
      setting.width,
      ortho=setting.ortho,
      norm=setting.norm,
    )
    out, fraction = _attend(setting.favor(m), q, k, v, w)
    errors.append(np.mean((np.asarray(out, np.float64) - exact) ** 2))
    bad.append(float(fraction))
  number = min(len(q), len(k))
  total = (q[:number] + k[:number]).astype(np.float64)
  squares = np.sum(total**2, axis=-1) / math.sqrt(setting.width)
  return {
    'error': errors,
    'bad': bad,
    'norm': squares.mean(),
    'great norm': np.quantile(squares, 0.95),
    'power': np.mean(exact**2),
  }


def _setting(kernel: str, scale: float, **options: str) -> Setting:
  """Features come in pairs where half of the least m makes as many."""
  halves = (SIZES[0] // 2,) if COPIES[kernel] == 2 else ()
  return Setting(kernel, scale, sizes=(*halves, *SIZES), **options)


_HIGH = study.Study(
  run, {f'{k} rorf': _setting(k, 1.0) for k in COPIES}, seeds=15
)
_LOW = study.Study(
  run,
  {f'{k} rorf': _setting(k, 0.5) for k in COPIES}
  | {f'{k} iid': _setting(k, 0.5, ortho='iid') for k in COPIES}
  | {
    f'{k} sqrt(d) rorf': _setting(k, 0.5, norm='sqrt_d') for k in ('pos', 'hyp')
  },
  seeds=15,
)
_KERNELS = tuple(_HIGH.arms)


def _by_size(
  results: study.Results, arm: str, metric: str = 'error'
) -> dict[int, np.ndarray]:
  """A metric [seeds] by the number of projections."""
  sizes = results.settings[arm].sizes
  return dict(zip(sizes, results(arm, metric).T, strict=True))


def _errors(results: study.Results) -> dict[str, np.ndarray]:
  return {
    f'{arm} m={m}': values
    for arm in _KERNELS
    for m, values in _by_size(results, arm).items()
  }


def _inputs(results: study.Results) -> str:
  """The setting in words."""
  arm = _KERNELS[0]
  mean, top, power = (
    results(arm, name).mean() for name in ('norm', 'great norm', 'power')
  )
  return (
    f'Entries of q and k are N(0, {results.settings[arm].scale:g}^2). Then '
    f'|x+y|^2 is {mean:.3g} on average and {top:.3g} at its 95th percentile. The '
    f'mean square of the exact output is {power:.2g}.'
  )


def _against_trig(results: study.Results) -> str:
  pos, trig = (_by_size(results, f'{k} rorf') for k in ('pos', 'trig'))
  ratios = [np.median(pos[m] / trig[m]) for m in SIZES]
  return (
    f'{_inputs(results)} Median error of pos over that of trig, at equal m = '
    f'{", ".join(map(str, SIZES))}: {", ".join(f"{x:.1g}" for x in ratios)}.'
  )


def _figure(results: study.Results, arms: Sequence[str]) -> list[figures.Panel]:
  """Errors over m and over r: medians, bands from quartile to quartile."""
  panels = []
  axes = {'xscale': 'log2', 'yscale': 'log'}
  for budget in ('projections m', 'features r'):
    lines = []
    for arm in arms:
      kernel = results.settings[arm].kernel
      factor = COPIES[kernel] if budget == 'features r' else 1
      errors = _by_size(results, arm)
      chosen = [m for m in errors if m * factor in SIZES]
      lines.append(
        figures.Line(
          arm,
          [m * factor for m in chosen],
          np.stack([errors[m] for m in chosen], axis=1),
          spread='quartiles',
          style='o-' if arm in _KERNELS else 's--',
          color=list(COPIES).index(kernel),
        )
      )
    ylabel = 'mean squared error of the output'
    panels.append(
      figures.Lines(lines=lines, xlabel=budget, ylabel=ylabel, **axes)
    )
  return panels


def _bad(results: study.Results, arm: str) -> dict[int, np.ndarray]:
  found = _by_size(results, arm, 'bad')
  return {m: found[m] for m in SIZES}


def _lower(one: str, two: str, decades: float = 0.0) -> claims.Claim:
  """The first error is below the second, by so many decades."""
  margin = decades * math.log(10)
  return claims.below(one, than=two, margin=margin, paired=True, log=True)


def _ratio_row(
  arms: Mapping[str, tuple[str, str]],
  sizes: Sequence[int],
  *,
  halves: bool = False,
  **fields: Any,
) -> rows.Row:
  """Ratios below 1 of errors of two arms by kernel; `halves`: at m and m / 2."""

  def ratios(results: study.Results) -> dict[str, np.ndarray]:
    errors = {arm: _by_size(results, arm) for arm in results.arms}
    return {
      f'{kernel} m={m}': errors[one][m] / errors[two][m // 2 if halves else m]
      for m in sizes
      for kernel, (one, two) in arms.items()
    }

  return rows.Row(
    study=_LOW,
    ours=ratios,
    claims=[
      claims.below(f'{kernel} m={m}', than=1.0, log=True)
      for m in sizes
      for kernel in arms
    ],
    figure=lambda results: _figure(
      results, dict.fromkeys(arm for pair in arms.values() for arm in pair)
    ),
    explain=_inputs,
    **fields,
  )


def _source(text: str = _CURVES) -> ledger.Published:
  return ledger.Published(text, 'arXiv:2009.14794, Fig. 4')


ROWS = (
  rows.Row(
    id='fig4-high-norm-positive-features',
    claim='Where norms are high, positive features approximate attention far '
    'better than trigonometric ones (mean squared error of the output).',
    study=_HIGH,
    ours=_errors,
    published=_source(f'{_CURVES}: positive features below trigonometric ones'),
    trend='pos below trig by a factor 100 for m <= 128 and 10 at m = 256, at '
    'equal m and at equal r',
    claims=[
      _lower(f'pos rorf m={m}', f'trig rorf m={n}', 1.0 if m >= 256 else 2.0)
      for m in SIZES
      for n in (m, m // 2)
    ],
    figure=lambda results: _figure(results, _KERNELS),
    explain=_against_trig,
    headline='pos rorf m=128',
  ),
  rows.Row(
    id='fig4-high-norm-bad-denominators',
    claim='Trigonometric features make row sums that are zero or negative; '
    'positive ones cannot (fraction of rows).',
    study=_HIGH,
    ours=lambda results: {
      f'{arm} m={m}': values
      for arm in ('trig rorf', 'pos rorf')
      for m, values in _bad(results, arm).items()
    },
    trend=f'trig: above 10 % at m = {SIZES[0]}, above 0 at m = {SIZES[-1]}; pos: '
    'exactly 0',
    claims=[
      claims.above(f'trig rorf m={SIZES[0]}', than=0.1),
      claims.above(f'trig rorf m={SIZES[-1]}', than=0.0),
      claims.Check(
        'no row of pos is bad',
        lambda table: not any(any(table[f'pos rorf m={m}']) for m in SIZES),
      ),
    ],
    figure=lambda results: figures.by_place(
      {arm: _bad(results, arm) for arm in ('pos rorf', 'trig rorf')},
      unit=0.01,
      xlabel='projections m',
      ylabel='rows with denominator ≤ 0 (%)',
      xscale='log2',
    ),
    explain=_inputs,
  ),
  rows.Row(
    id='fig4-low-norm-trigonometric-features',
    claim='Where norms are low, trigonometric features approximate attention '
    'better than positive ones, so that the order of Fig. 4 depends on the norms '
    '(mean squared error).',
    study=_LOW,
    ours=_errors,
    published=_source(f'{_CURVES}; inputs of one norm only'),
    trend='trig below pos for m >= 32, at equal m and at equal r',
    claims=[
      _lower(f'trig rorf m={n}', f'pos rorf m={m}')
      for m in SIZES[2:]
      for n in (m, m // 2)
    ],
    figure=lambda results: _figure(results, _KERNELS),
    explain=_inputs,
    headline='trig rorf m=128',
  ),
  _ratio_row(
    {k: (f'{k} sqrt(d) rorf', f'{k} rorf') for k in ('pos', 'hyp')},
    SIZES[2:],
    id='fig4-low-norm-regularized',
    claim='Frequencies of norm sqrt(d) (the regularised kernel) approximate '
    'softmax attention better than those of norm chi(d) (ratio of the mean '
    'squared errors).',
    published=_source(f'{_CURVES}: norms are not varied'),
    trend='below 1 for m >= 32, pos and hyp',
  ),
  _ratio_row(
    {k: 2 * (f'{k} rorf',) for k in COPIES},
    SIZES[1:],
    halves=True,
    id='fig4-low-norm-more-features',
    claim='The error falls with the number of features (mean squared error '
    'over that at half as many).',
    published=_source(f'{_CURVES}: all fall'),
    trend='below 1 for each doubling of m, pos, hyp and trig',
  ),
  _ratio_row(
    {k: (f'{k} rorf', f'{k} iid') for k in COPIES},
    SIZES,
    id='fig4-low-norm-orthogonal',
    claim='Orthogonal frequencies approximate attention better than '
    'independent ones (ratio of the mean squared errors).',
    published=_source(f'{_CURVES}: orthogonal below independent'),
    trend='below 1 for every m, pos, hyp and trig',
  ),
)
