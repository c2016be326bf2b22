"""Flows on the orthogonal group: gradients, orders, parameters."""

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
  accounting,
  baselines,
  bodies,
  flows,
  generators,
  manifolds,
  retractions,
  trivialization,
)
from rl.odetoode.images import data as data_lib

__all__ = ['ROWS', 'Random', 'Trained', 'band', 'converge', 'count', 'ratios']

# Gradients along the depth (Lemma 4.1).

# (d, N, T) of random nets.
CASES = (
  *((d, n, 1.0) for d in (1, 4, 16, 64) for n in (10, 100)),
  *((d, 1000, t) for d in (16, 64) for t in (1.0, 4.0, 10.0)),
  (256, 10, 1.0),
)
_ROUNDING = {'float64': 1e-9, 'float32': 1e-4}
_STATES = 32


def ratios(norms: np.ndarray, time: float) -> dict[str, float]:
  """Extremes of |g_n| / |g_N|, [..., N + 1, states], over steps and states.

  Returns:
    The 'greatest', and 'beyond': the log of how far a ratio lies outside of its
    band; below 0 inside.
  """
  depth = norms.shape[-2] - 1
  left = np.arange(depth, -1, -1)[:, None]
  eta = time / depth
  with np.errstate(divide='ignore'):
    low = left * np.log(max(1 - eta, 0.0)) if eta < 1 else -np.inf * (left > 0)
    logs = np.log(norms)
  high = left * math.log1p(eta)
  below = np.where(left > 0, low - logs, 0.0)
  above = np.where(left > 0, logs - high, 0.0)
  beyond = max(np.nanmax(below), np.nanmax(above))
  return {'greatest': float(np.nanmax(norms)), 'beyond': float(beyond)}


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
  """An orthogonal flow, and constant Gaussian W of spectral scale 2.

  Attributes:
    d: width.
    n: steps N.
    time: T.
  """

  d: int
  n: int
  time: float


@dataclasses.dataclass(frozen=True)
class Trained:
  """Classifiers of digits after 300 steps.

  Attributes:
    time: T.
    orthogonal: whether W_0 is.
  """

  time: float
  orthogonal: bool = True


def band(
  net: Random | Trained, *, seeds: tuple[int, ...]
) -> list[study.Record]:
  """Ratios of gradients along the depth, one record per seed."""
  if isinstance(net, Random):
    return [_random(net, seed) for seed in seeds]
  found = pictures.train(
    seeds,
    300,
    data=data_lib.digits(),
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


def _band_free(results: study.Results) -> dict[str, np.ndarray]:
  found = [results(arm, 'free beyond') for arm in _nets(results, 1.0)]
  return {'free, T=1, log beyond': np.ravel(found)}


def _stays(label: str, dtype: str) -> claims.Claim:
  return claims.Check(
    f'{label} is at most {_ROUNDING[dtype]:g}',
    lambda table: max(table[label]) <= _ROUNDING[dtype],
  )


def _band_figure(results: study.Results) -> list[figures.Panel]:
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
  return [
    figures.Lines(
      lines=[*points, figures.Line('e^T', times, np.exp(times), style=':')],
      xscale='log',
      yscale='log',
      xlabel='time T',
      ylabel='greatest |dL/dx_n| / |dL/dx_N|',
    )
  ]


_BAND_ROW = rows.Row(
  id='gradient-band',
  claim='Lemma 4.1: gradients with respect to the state stay within a band that '
  'does not depend on depth, width or what was learnt.',
  study=_BAND,
  ours=_band_ours,
  unlisted=_band_free,
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
  explain=f'{len(CASES)} random nets for each seed, of d up to 256 and N up to '
  f'1000, {_STATES} states each, float64; nets trained on digits in float32. The '
  'band is e^T wide: it says little at T = 10.',
)


# Orders of the steps on the group.

_PLANE = (((0.0, 1.0), (1.0, 0.0)), ((1.0, 0.0), (0.0, 0.0)))
_STEPS = (25, 50, 100)
_METHODS = {
  **{
    f'{name}, order {order}': (retraction, order)
    for name, retraction in (
      ('exp', retractions.Exp()),
      ('Cayley', retractions.Cayley()),
    )
    for order in (1, 2, 4)
  },
  'Taylor-8, order 1': (retractions.Taylor(), 1),
  'Cayley-Neumann-8, order 1': (retractions.CayleyNeumann(), 1),
  'Euler': (retractions.Euler(), 1),
}


def converge(
  method: tuple[retractions.Retraction, int], *, at: int
) -> study.Record:
  """Error of W(1) on a closed form (d = 2, Delta = 1), and its defect.

  Args:
    method: the retraction and the order.
    at: steps N.
  """
  angle = math.atan(math.tanh(1.0))
  c, s = math.cos(angle), math.sin(angle)
  with jax.enable_x64(True):
    last = flows.matrix_flow(
      jnp.eye(2),
      generators.skew_iso(*(jnp.array(x, jnp.float64) for x in _PLANE)),
      n_steps=at,
      retraction=method[0],
      order=method[1],
    ).last
    return {
      'error': float(abs(last - np.array([[c, -s], [s, c]])).max()),
      'defect': float(manifolds.orthogonality_defect(last)),
    }


def _orders_ours(results: study.Results) -> dict[str, Any]:
  ours, (first, *_, before, last) = {}, _STEPS
  for arm in results.arms:
    errors = {n: results(arm, 'error', at=n) for n in (first, before, last)}
    ours[f'{arm}: error at N={first}'] = errors[first]
    ours[f'{arm}: error ratio per halving'] = errors[before] / errors[last]
    ours[f'{arm}: defect'] = results(arm, 'defect', at=last)
  return ours


def _orders_claims() -> list[claims.Claim]:
  found: list[claims.Claim] = [claims.above('Euler: defect', than=1e-4)]
  for name, (_, order) in _METHODS.items():
    if name != 'Euler':
      ratio, power = f'{name}: error ratio per halving', 2.0**order
      found.append(claims.close(ratio, to=power, within=0.1 * power))
      found.append(claims.below(f'{name}: defect', than=1e-12))
  return found


def _orders_figure(results: study.Results) -> list[figures.Panel]:
  shown = [arm for arm in results.arms if not arm.startswith('Taylor')]
  return [
    figures.Lines(
      lines=[
        figures.Line(
          arm,
          _STEPS,
          [results(arm, 'error', at=n)[0] for n in _STEPS],
          style=('o-', 's--', '^:')[i // 3 % 3],
        )
        for i, arm in enumerate(shown)
      ],
      xscale='log2',
      yscale='log',
      xlabel='steps N',
      ylabel='error of W(1)',
    )
  ]


_ORDERS_ROW = rows.Row(
  id='retraction-orders',
  claim='Steps on the group keep W orthogonal, and converge at their order.',
  study=study.Study(converge, _METHODS, seeds=None, at=_STEPS),
  ours=_orders_ours,
  trend='errors of W(1) on the closed form (d = 2, Delta = 1) fall by 2, 4 and 16 '
  'per halving of the step; defects below 1e-12; Euler, the control, leaves the '
  'group',
  claims=_orders_claims(),
  figure=_orders_figure,
  explain='float64; a series of order 8 has errors of its own far below those of '
  'the steps.',
)


# Parameters of the flows, and operations.

_WIDTHS = (16, 64)
_COUNTS = ('parameters', 'kFLOP per state', 'kFLOP of weights')


def _formulas(d: int) -> dict[str, tuple[bodies.Body, int]]:
  """Bodies of the paper at width d, and their parameters."""
  orthogonal = d * (d - 1) // 2
  gate = (d * d + 2) * 16 + 17 * 16 + 17 * d * d
  return {
    pictures.ISO: (bodies.ODEtoODE(d), d * (d + 1) + orthogonal),
    'ODEtoODE-Gated, K=4': (
      bodies.ODEtoODE(d, kind='gated'),
      4 * gate + 4 + orthogonal,
    ),
    'NANODE-5': (baselines.NANODE(d), 11 * d * d),
    'BaseODE': (baselines.NODE(d, hidden=(d, d)), 3 * (d * d + d)),
    'HyperODE': (
      baselines.HyperODE(d),
      (d * d + 1) * 16 + 17 * 16 + 17 * d * d,
    ),
    'DeepNet': (baselines.Dense(d), 25 * (d * d + d)),
    'DeepResNet': (baselines.Dense(d, residual=True), 25 * (d * d + d)),
  }


def count(body: bodies.Body) -> study.Record:
  """Parameters and operations of a body."""
  cost = accounting.cost(body)
  numbers = (cost.params, cost.state_flops / 1e3, cost.weights_flops / 1e3)
  return dict(zip(_COUNTS, map(float, numbers), strict=True))


def _has(label: str, count: int) -> claims.Claim:
  return claims.Check(
    f'{label} are {count:,}', lambda table: table[label][0] == count
  )


def _counts_claims() -> tuple[claims.Claim, ...]:
  labels = {
    f'{name}, d={d}: parameters': (d, formula)
    for d in _WIDTHS
    for name, (_, formula) in _formulas(d).items()
  }
  ours = {d: f'{pictures.ISO}, d={d}: parameters' for d in _WIDTHS}
  same = tuple(_has(label, formula) for label, (_, formula) in labels.items())
  fewest = tuple(
    claims.below(ours[d], than=label)
    for label, (d, _) in labels.items()
    if label not in ours.values()
  )
  return (
    claims.All(same, 'counts by the code equal the formulas'),
    claims.All(fewest, f'{pictures.ISO} has the fewest parameters'),
  )


_COUNTS_ROW = rows.Row(
  id='flow-parameters',
  claim='The flow of ODEtoODE-ISO needs fewer parameters than its baselines of the '
  'same width (heads not counted).',
  study=study.Study(
    count,
    {
      f'{name}, d={d}': body
      for d in _WIDTHS
      for name, (body, _) in _formulas(d).items()
    },
    seeds=None,
  ),
  ours=lambda results: {
    f'{arm}: {name}': results(arm, name)
    for arm in results.arms
    for name in _COUNTS
  },
  trend='counts by the code equal the formulas exactly; ODEtoODE-ISO has the '
  'fewest',
  claims=_counts_claims(),
  figure=lambda results: [
    figures.Bars(
      names=list(_formulas(1)),
      groups={
        f'd = {d}': [
          results(f'{name}, d={d}', 'parameters')[0] for name in _formulas(1)
        ]
        for d in _WIDTHS
      },
      xscale='log',
      xlabel='parameters of the flow',
    )
  ],
  explain='Symmetric matrices count d (d + 1) / 2, orthogonal ones d (d - 1) / 2. '
  'Operations of matrix products, 25 steps; those of the weights are spent once '
  'for all states.',
)

ROWS = (_BAND_ROW, _ORDERS_ROW, _COUNTS_ROW)
