"""The row about steps on the orthogonal group: orders and defects."""

import functools
import math
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import reproduce_common as common

from rl.odetoode import flows, generators, manifolds, retractions

__all__ = ['retraction_finding', 'retraction_rows']

PLANE = (
  jnp.array([[0.0, 1.0], [1.0, 0.0]]),
  jnp.diag(jnp.array([1.0, 0.0])),
)
_ORDERS = {
  'exp, order 1': (retractions.Exp(), 1),
  'exp, order 2': (retractions.Exp(), 2),
  'exp, order 4': (retractions.Exp(), 4),
  'Cayley, order 1': (retractions.Cayley(), 1),
  'Cayley, order 2': (retractions.Cayley(), 2),
  'Cayley, order 4': (retractions.Cayley(), 4),
  'Taylor-8, order 1': (retractions.Taylor(), 1),
  'Cayley-Neumann-8, order 1': (retractions.CayleyNeumann(), 1),
  'Euler': (retractions.Euler(), 1),
}


def retraction_rows(
  scale: str, seeds: Sequence[int], *, steps: Sequence[int] = (25, 50, 100)
) -> list[common.Finding]:
  """Errors of W(1) on a closed form, and defects.

  Args:
    scale: the same at both.
    seeds: nothing is random.
    steps: N, each twice the one before.

  Returns:
    The finding.
  """
  del scale, seeds
  angle = math.atan(math.tanh(1.0))
  exact = np.array(
    [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
  )
  errors: dict[str, list[float]] = {}
  defects: dict[str, float] = {}
  with jax.enable_x64(True):
    b = generators.skew_iso(*(x.astype(jnp.float64) for x in PLANE))
    for name, (retraction, order) in _ORDERS.items():
      for n in steps:
        last = flows.matrix_flow(
          jnp.eye(2), b, n_steps=n, retraction=retraction, order=order
        ).last
        errors.setdefault(name, []).append(float(abs(last - exact).max()))
      defects[name] = float(manifolds.orthogonality_defect(last))
  return [retraction_finding(errors, defects, steps)]


def retraction_finding(
  errors: Mapping[str, Sequence[float]],
  defects: Mapping[str, float],
  steps: Sequence[int],
) -> common.Finding:
  """Judges orders and defects.

  Args:
    errors: of W(1), by method, for each N.
    defects: of the last W at the greatest N.
    steps: N.

  Returns:
    The finding.
  """
  ours, parts = {}, []
  for name, found in errors.items():
    ratio = found[-2] / found[-1]
    ours[f'{name}: error at N={steps[0]}'] = (found[0],)
    ours[f'{name}: error ratio per halving'] = (ratio,)
    ours[f'{name}: defect'] = (defects[name],)
    if name == 'Euler':
      parts.append('holds' if defects[name] > 1e-4 else 'fails')
      continue
    order = int(name[-1])
    right = abs(ratio / 2**order - 1) < 0.1 and defects[name] < 1e-12
    parts.append('holds' if right else 'fails')
  return common.Finding(
    {
      'id': 'retraction-orders',
      'claim': 'Steps on the group keep W orthogonal, and converge at their order.',
      'ours': ours,
      'published': 'not found',
      'trend': 'errors of W(1) on the closed form (d = 2, Delta = 1) fall by 2, 4 '
      'and 16 per halving of the step; defects below 1e-12; Euler, the control, '
      'leaves the group',
      'verdict': common.combine(parts),
      'explanation': 'float64; a series of order 8 has errors of its own far '
      'below those of the steps.',
    },
    functools.partial(_retraction_picture, errors, steps),
  )


def _retraction_picture(
  errors: Mapping[str, Sequence[float]],
  steps: Sequence[int],
  path: pathlib.Path,
) -> None:
  fig, (axis,) = common.new_axes(1)
  shown = [name for name in errors if not name.startswith('Taylor')]
  for i, name in enumerate(shown):
    style = ('o-', 's--', '^:')[i // 3 % 3]
    color = common.COLORS[i % len(common.COLORS)]
    axis.plot(steps, errors[name], style, ms=3, color=color, label=name)
  axis.set_xscale('log', base=2)
  axis.set_yscale('log')
  axis.set_xlabel('steps N')
  axis.set_ylabel('error of W(1)')
  axis.legend(frameon=False, fontsize='x-small')
  common.save(fig, path)
