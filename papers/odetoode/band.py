"""Gradients along the depth of flows, random and trained (Lemma 4.1)."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from papers import claims, figures, rows, study
from papers.odetoode import pictures
from rl.odetoode import (
  bodies,
  certificates,
  flows,
  generators,
  manifolds,
  retractions,
  trivialization,
)
from runtime.data import images as images_lib

# (d, N, T) of random nets.
CASES = (
  *((d, n, 1.0) for d in (1, 4, 16, 64) for n in (10, 100)),
  *((d, 1000, t) for d in (16, 64) for t in (1.0, 4.0, 10.0)),
  (256, 10, 1.0),
)
_ROUNDING = {'float64': 1e-9, 'float32': 1e-4}
_STATES = 32


def ratios(norms: np.ndarray, time: float) -> study.Record:
  """The greatest of |g_n| / |g_N|, [N + 1, states], and how far beyond its band."""
  return {
    'greatest': np.nanmax(norms),
    'beyond': certificates.beyond_band(norms, time),
  }


@functools.lru_cache(maxsize=1)
def _norms(d: int, n: int, time: float) -> Callable[..., Any]:
  """(key, whether free) -> |g_n| / |g_N| of random states and losses."""

  def run(key: Any, spread: Any) -> Any:
    keys = jax.random.split(key, 6)
    normal = lambda i, *shape: jax.random.normal(keys[i], shape)
    b = generators.skew_iso(*(normal(i, d, d) / math.sqrt(d) for i in (0, 1)))
    # Draws of Haar's measure are of single precision.
    w0 = retractions.newton_schulz(
      manifolds.haar(keys[2], d).astype(jnp.float64)
    )
    flow = flows.matrix_flow(w0, b, n_steps=n, time=time)
    free = 2 * normal(3, d, d) / math.sqrt(d)
    matrices = jnp.where(spread, free, flow.matrices)
    x0, c = normal(4, _STATES, d), normal(5, _STATES, d)
    loss = lambda nudges: jnp.sum(
      c * flows.states(x0, matrices, time=time, nudges=nudges)[-1]
    )
    gradients = jax.grad(loss)(jnp.zeros((n + 1, _STATES, d)))
    norms = jnp.linalg.norm(gradients, axis=-1)
    return norms / norms[-1]

  return jax.jit(run)


@dataclasses.dataclass(frozen=True)
class Random:
  """An orthogonal flow, and constant Gaussian W of spectral scale 2."""

  d: int  # Width.
  n: int  # Steps N.
  time: float  # T.


@dataclasses.dataclass(frozen=True)
class Trained:
  """Classifiers of digits after 300 steps."""

  time: float  # T.
  orthogonal: bool = True  # Whether W_0 is orthogonal.


def band(
  net: Random | Trained, *, seeds: tuple[int, ...]
) -> list[study.Record]:
  """Ratios of gradients along the depth, one record per seed."""
  if isinstance(net, Random):
    return [_random(net, seed) for seed in seeds]
  found = pictures.train(
    seeds,
    300,
    data=images_lib.digits(),
    body=bodies.ODEtoODE(
      16, n_steps=100, time=net.time, orthogonal=net.orthogonal
    ),
    optimizer=trivialization.trivialize(optax.adam(3e-3)),
    batch_size=64,
  )
  return [
    ratios(norms, net.time)
    for trainer, state in found
    for norms in trainer.gradient_norms(state)
  ]


def _random(net: Random, seed: int) -> study.Record:
  record = {}
  with jax.enable_x64(True):
    for kind in ('orthogonal', 'free'):
      norms = _norms(net.d, net.n, net.time)(
        jax.random.key(seed), kind == 'free'
      )
      for name, value in ratios(np.asarray(norms), net.time).items():
        record[f'{kind} {name}'] = value
  return record


_BAND = study.Study(
  band,
  {f'd={d}, N={n}, T={t:g}': Random(d, n, t) for d, n, t in CASES}
  | {
    'trained, T=1': Trained(1.0),
    'trained, T=4': Trained(4.0),
    'trained with free W_0, T=4': Trained(4.0, orthogonal=False),
  },
  together=True,
)


def _nets(results: study.Results, time: float | None = None) -> list[str]:
  """Random nets, all or those of d > 1 at a time."""
  return [
    arm
    for arm, net in results.settings.items()
    if isinstance(net, Random)
    and (time is None or (net.d > 1 and net.time == time))
  ]


def _band_ours(results: study.Results) -> dict[str, Any]:
  nets = _nets(results)
  worst = max(results(arm, 'orthogonal beyond').max() for arm in nets)
  ours: dict[str, Any] = {'orthogonal, log beyond': worst}
  for arm, net in results.settings.items():
    if isinstance(net, Trained):
      ours[f'{arm}, log beyond'] = results(arm, 'beyond')
  for time in sorted({results.settings[arm].time for arm in nets}):
    for kind in ('orthogonal', 'free'):
      ours[f'{kind}, T={time:g}, greatest ratio'] = np.max(
        [results(arm, f'{kind} greatest') for arm in _nets(results, time)], 0
      )
  return ours


def _stays(label: str, dtype: str) -> claims.Claim:
  return claims.Check(
    f'{label} is at most {_ROUNDING[dtype]:g}',
    lambda table: max(table[label]) <= _ROUNDING[dtype],
  )


def _band_figure(results: study.Results) -> figures.Panel:
  times = np.linspace(0.8, 12, 50)
  points = [
    figures.Line(
      label,
      [shift * results.settings[arm].time for arm in _nets(results)],
      np.array([results(arm, f'{kind} greatest') for arm in _nets(results)]).T,
      style='o',
    )
    for kind, label, shift in (
      ('orthogonal', 'orthogonal', 0.95),
      ('free', 'free, scale 2', 1.05),
    )
  ]
  return figures.Lines(
    lines=[*points, figures.Line('e^T', times, np.exp(times), style=':')],
    xscale='log',
    yscale='log',
    xlabel='time T',
    ylabel='greatest |dL/dx_n| / |dL/dx_N|',
  )


ROWS = (
  rows.Row(
    id='gradient-band',
    claim='Lemma 4.1: gradients with respect to the state stay within a band that '
    'does not depend on depth, width or what was learnt.',
    study=_BAND,
    ours=_band_ours,
    unlisted=lambda results: {
      'free, T=1, log beyond': np.ravel(
        [results(arm, 'free beyond') for arm in _nets(results, 1.0)]
      )
    },
    trend='(1 - eta)^(N-n) <= |g_n| / |g_N| <= (1 + eta)^(N-n) for all n, states and '
    'nets (log beyond <= rounding); W free of scale 2 leaves the band at T = 1 in '
    'some draws and exceeds 1000 at T = 10',
    claims=(
      _stays('orthogonal, log beyond', 'float64'),
      *(_stays(f'trained, T={t}, log beyond', 'float32') for t in (1, 4)),
      claims.Check(
        'some free draws leave the band at T = 1',
        lambda table: max(table['free, T=1, log beyond']) > 0,
      ),
      claims.Check(
        'free W exceeds 1000 at T = 10',
        lambda table: max(table['free, T=10, greatest ratio']) > 1e3,
      ),
    ),
    figure=_band_figure,
    explain=f'Each seed draws {len(CASES)} random nets in float64, with d up to '
    f'256, N up to 1000 and {_STATES} states. The trained nets learnt digits in '
    'float32. The band is e^T wide, so it says little at T = 10.',
  ),
)
