"""E1: measuring the error of the output of attention, and drawing it.

See `reproduce_performer_errors.py` for the setting.
"""

import functools
import math
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import reproduce_common as common

from performer import attention
from performer.attention import projections
from performer.attention.analysis import recovery
from runtime.record import verdicts

__all__ = ['SCALES', 'SIZES', 'Errors', 'Table', 'bad_picture', 'measure']

SIZES = (8, 16, 32, 64, 128, 256)
SCALES = {'high-norm': 1.0, 'low-norm': 0.5}
KEYS, QUERIES, WIDTH = 4096, 512, 16
_COPIES = {'pos': 1, 'hyp': 2, 'trig': 2}

# By (regime, kernel, ortho, norm, m): one mean squared error per seed.
Errors = Mapping[tuple[str, str, str, str, int], np.ndarray]


@functools.partial(jax.jit, static_argnames=('kernel', 'm'))
def _run(
  q: jax.Array, k: jax.Array, v: jax.Array, w: jax.Array, *, kernel: str, m: int
) -> tuple[jax.Array, jax.Array]:
  """Outputs, and fractions of bad denominators; all arrays lead with seeds."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # That trig is signed is the subject.
    favor = attention.Favor(
      kernel=f'softmax_{kernel}', features=m * _COPIES[kernel], chunk=512
    )

  def one(q: Any, k: Any, v: Any, w: Any) -> Any:
    q, k, v = (x[None, :, None] for x in (q, k, v))
    out = favor(q, k, v, projection=w, causal=False)[0, :, 0]
    bad = recovery.bad_denominator_fraction(
      favor, q, k, projection=w, causal=False
    )
    return out, bad

  return jax.vmap(one)(q, k, v, w)


def _exact(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Exact attention, float64, seed by seed."""
  out = []
  for one, two, three in zip(q, k, v, strict=True):
    logits = one.astype(np.float64) @ two.T / math.sqrt(one.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    out.append(weights / weights.sum(-1, keepdims=True) @ three)
  return np.stack(out)


def measure(
  seeds: Sequence[int],
  *,
  sizes: Sequence[int] = SIZES,
  keys: int = KEYS,
  queries: int = QUERIES,
) -> tuple[Errors, Errors, dict[str, tuple[float, ...]]]:
  """Runs all settings.

  Args:
    seeds: one run each.
    sizes: numbers m of projections; hyp and trig also run at half the least.
    keys: L.
    queries: their number.

  Returns:
    Mean squared errors; fractions of rows whose denominator is not positive;
    and by regime the mean and 95th percentile of |x + y|^2, and the mean
    square of the exact output.
  """
  errors, bad, norms = {}, {}, {}
  for regime, scale in SCALES.items():
    draws = np.stack(
      [
        np.random.default_rng(seed).standard_normal(
          (3, max(keys, queries), WIDTH)
        )
        for seed in seeds
      ]
    ).astype(np.float32)
    q, k = scale * draws[:, 0, :queries], scale * draws[:, 1, :keys]
    v = draws[:, 2, :keys]
    exact = _exact(q, k, v)
    norms[regime] = (*_squares(q, k), float(np.mean(exact**2)))
    for kernel, copies in _COPIES.items():
      halves = (sizes[0] // 2,) if copies == 2 else ()
      for m in (*halves, *sizes):
        for ortho, norm in _matrices(kernel):
          w = _draw(seeds, m, ortho, norm)
          out, fraction = _run(q, k, v, w, kernel=kernel, m=m)
          gap = np.asarray(out, np.float64) - exact
          key = (regime, kernel, ortho, norm, m)
          errors[key] = np.mean(gap**2, axis=(1, 2))
          bad[key] = np.asarray(fraction, np.float64)
  return errors, bad, norms


def _matrices(kernel: str) -> list[tuple[str, str]]:
  norms = ('chi',) if kernel == 'trig' else ('chi', 'sqrt_d')
  return [(ortho, norm) for norm in norms for ortho in ('iid', 'rorf')]


def _draw(seeds: Sequence[int], m: int, ortho: str, norm: str) -> jax.Array:
  keys = jnp.stack([jax.random.key(1000 + seed) for seed in seeds])
  draw = functools.partial(
    projections.draw, rows=m, size=WIDTH, ortho=ortho, norm=norm
  )
  return jax.vmap(draw)(keys)


def _squares(q: np.ndarray, k: np.ndarray) -> tuple[float, float]:
  """Mean and 95th percentile of |x + y|^2 over pairs."""
  number = min(q.shape[1], k.shape[1])
  total = (q[:, :number] + k[:, :number]).astype(np.float64)
  squares = np.sum(total**2, axis=-1) / math.sqrt(q.shape[-1])
  return float(squares.mean()), float(np.quantile(squares, 0.95))


class Table:
  """Errors of one regime, as decimal logarithms."""

  def __init__(self, errors: Errors, regime: str) -> None:
    self.errors = errors
    self.regime = regime
    self.sizes = sorted({key[4] for key in errors if key[1] == 'pos'})

  def at(
    self, kernel: str, m: int, *, ortho: str = 'rorf', norm: str = 'chi'
  ) -> np.ndarray:
    """Logarithms of the errors of a setting, one per seed."""
    return np.log10(self.errors[self.regime, kernel, ortho, norm, m])

  def below(
    self, one: np.ndarray, two: np.ndarray, decades: float = 0.0
  ) -> str:
    """Whether errors are lower, by so many decades; one seed is one pair."""
    return verdicts.verdict(
      one, two, higher_is_better=False, margin=decades, paired=True
    )

  def labels(
    self, settings: Sequence[tuple[str, str, str]]
  ) -> dict[str, tuple[float, ...]]:
    """Errors of (kernel, ortho, norm) at every m, by label."""
    found = {}
    for kernel, ortho, norm in settings:
      for (regime, a, b, c, m), values in self.errors.items():
        if (regime, a, b, c) == (self.regime, kernel, ortho, norm):
          label = f'{_name(kernel, ortho, norm)} m={m}'
          found[label] = tuple(map(float, values))
    return found


def _name(kernel: str, ortho: str, norm: str) -> str:
  length = ' sqrt(d)' if norm == 'sqrt_d' else ''
  return f'{kernel}{length} {ortho}'


def picture(
  table: Table, settings: Sequence[tuple[str, str, str]], path: pathlib.Path
) -> None:
  """Errors over m and over r: medians, bands from quartile to quartile."""
  fig, axes = common.new_axes(2, sharey=True)
  kernels = list(dict.fromkeys(kernel for kernel, _, _ in settings))
  varied = len(set(settings)) > len(kernels)
  for axis, budget in zip(axes, ('m', 'r'), strict=True):
    for kernel, ortho, norm in settings:
      found = {
        key[4]: values
        for key, values in table.errors.items()
        if key[:4] == (table.regime, kernel, ortho, norm)
      }
      factor = _COPIES[kernel] if budget == 'r' else 1
      chosen = [m for m in sorted(found) if m * factor in table.sizes]
      low, middle, high = np.quantile(
        [found[m] for m in chosen], (0.25, 0.5, 0.75), axis=1
      )
      second = (ortho, norm) != ('rorf', 'chi')
      color = common.COLORS[kernels.index(kernel)]
      places = [m * factor for m in chosen]
      axis.plot(
        places,
        middle,
        '--' if second else '-',
        color=color,
        marker='o',
        markersize=3,
        label=_name(kernel, ortho, norm) if varied else kernel,
      )
      axis.fill_between(places, low, high, color=color, alpha=0.15, lw=0)
    axis.set(xscale='log', yscale='log', xticks=table.sizes)
    axis.set_xticks(table.sizes, labels=map(str, table.sizes))
    axis.minorticks_off()
    axis.grid(alpha=0.25)
  axes[0].set(xlabel='projections m', ylabel='mean squared error of the output')
  axes[1].set(xlabel='features r')
  axes[1].legend(frameon=False, fontsize='small')
  fig.suptitle(
    f'q, k ~ N(0, {SCALES[table.regime]:g}²), d = {WIDTH}, L = {KEYS}; '
    'median and quartiles over seeds',
    fontsize='medium',
  )
  common.save(fig, path)


def bad_picture(
  sizes: Sequence[int],
  ours: Mapping[str, Sequence[float]],
  path: pathlib.Path,
) -> None:
  """Draws fractions of bad denominators over m."""
  fig, (axis,) = common.new_axes(1)
  for color, kernel in zip(common.COLORS, ('pos', 'trig'), strict=False):
    values = 100 * np.array([ours[f'{kernel} rorf m={m}'] for m in sizes])
    middle = np.median(values, axis=1)
    axis.plot(sizes, middle, color=color, marker='o', ms=3, label=kernel)
    axis.fill_between(
      sizes, values.min(1), values.max(1), color=color, alpha=0.15, lw=0
    )
  axis.set_xscale('log')
  axis.set_xticks(sizes, labels=map(str, sizes))
  axis.minorticks_off()
  axis.set(xlabel='projections m', ylabel='rows with denominator ≤ 0 (%)')
  axis.grid(alpha=0.25)
  axis.legend(frameon=False)
  axis.set_title(
    'q, k ~ N(0, 1): median and range over seeds', fontsize='medium'
  )
  common.save(fig, path)
