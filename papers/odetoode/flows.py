"""Flows on the orthogonal group: orders of their steps, and parameters."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from papers import claims, figures, rows, study
from papers.odetoode import control, pictures
from rl.odetoode import (
  accounting,
  bodies,
  flows,
  generators,
  manifolds,
  retractions,
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
  'Taylor-8, order 1': (retractions.Taylor(8), 1),
  'Cayley-Neumann-8, order 1': (retractions.CayleyNeumann(8), 1),
  'Euler': (retractions.Euler(), 1),
}


def converge(
  method: tuple[retractions.Retraction, int], *, at: int
) -> study.Record:
  """Error of W(1) on a closed form (d = 2, Delta = 1), and its defect.

  The method is a retraction and an order; `at` is the number N of steps.
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


_ORDERS_ROW = rows.Row(
  id='retraction-orders',
  claim='Steps on the group keep W orthogonal, and converge at their order.',
  study=study.Study(converge, _METHODS, seeds=None, at=_STEPS),
  ours=_orders_ours,
  trend='errors of W(1) on the closed form (d = 2, Delta = 1) fall by 2, 4 and 16 '
  'per halving of the step; defects below 1e-12; Euler, the control, leaves the '
  'group',
  claims=_orders_claims(),
  figure=figures.of_arms(
    {'error': 'error of W(1)'},
    arms=[arm for arm in _METHODS if 'Taylor' not in arm],
    style='o-',
    xscale='log2',
    yscale='log',
    xlabel='steps N',
  ),
  explain='Computed in float64. The error of a series of order 8 is far below that '
  'of the steps.',
)


# Parameters of the flows, and operations.

_WIDTHS = (16, 64)
_COUNTS = ('parameters', 'kFLOP per state', 'kFLOP of weights')


def _bodies(d: int) -> dict[str, tuple[bodies.Body, int]]:
  """Bodies of the paper at width d, and the formulas of their parameters."""
  orthogonal, dense = d * (d - 1) // 2, d * d + d
  gate = (d * d + 2) * 16 + 17 * 16 + 17 * d * d
  formulas = {
    pictures.ISO: dense + orthogonal,
    'NANODE-5': 11 * d * d,
    'BaseODE': 3 * dense,
    'HyperODE': (d * d + 1) * 16 + 17 * 16 + 17 * d * d,
    'DeepNet': 25 * dense,
    'DeepResNet': 25 * dense,
  }
  known, gated = control.models(d), bodies.ODEtoODE(d, kind='gated')
  found = {name: (known[name], number) for name, number in formulas.items()}
  return found | {'ODEtoODE-Gated, K=4': (gated, 4 * gate + 4 + orthogonal)}


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
    for name, (_, formula) in _bodies(d).items()
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
      for name, (body, _) in _bodies(d).items()
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
  figure=lambda results: figures.Bars(
    names=list(_bodies(_WIDTHS[0])),
    groups={
      f'd = {d}': [
        results(f'{name}, d={d}', 'parameters')[0]
        for name in _bodies(_WIDTHS[0])
      ]
      for d in _WIDTHS
    },
    xscale='log',
    xlabel='parameters of the flow',
  ),
  explain='A symmetric matrix counts as d (d + 1) / 2 parameters, an orthogonal '
  'one as d (d - 1) / 2. Operations are those of matrix products in 25 steps. The '
  'operations of the weights are spent once for all states.',
)

ROWS = (_ORDERS_ROW, _COUNTS_ROW)
