"""The row about parameters of the flows, and operations."""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import reproduce_common as common
import reproduce_odetoode_digits as digits

from rl.odetoode import accounting, baselines, bodies

__all__ = ['params_finding', 'params_rows']


def _formulas(d: int) -> dict[str, tuple[bodies.Body, int]]:
  """Bodies of arXiv:2006.11421 at width d, and their parameters."""
  orthogonal = d * (d - 1) // 2
  gate = (d * d + 2) * 16 + 17 * 16 + 17 * d * d
  return {
    'ODEtoODE-ISO': (bodies.ODEtoODE(d), d * (d + 1) + orthogonal),
    'ODEtoODE-Gated, K=4': (
      bodies.ODEtoODE(d, kind='gated'), 4 * gate + 4 + orthogonal
    ),
    'NANODE-5': (baselines.NANODE(d), 11 * d * d),
    'BaseODE': (baselines.NODE(d, hidden=(d, d)), 3 * (d * d + d)),
    'HyperODE': (
      baselines.HyperODE(d), (d * d + 1) * 16 + 17 * 16 + 17 * d * d
    ),
    'DeepNet': (baselines.Dense(d), 25 * (d * d + d)),
    'DeepResNet': (baselines.Dense(d, residual=True), 25 * (d * d + d)),
  }  # fmt: skip


def params_rows(
  scale: str, seeds: Sequence[int], *, widths: Sequence[int] = (16, 64)
) -> list[common.Finding]:
  """Counts parameters and operations of the bodies.

  Args:
    scale: the same at both.
    seeds: nothing is random.
    widths: d.

  Returns:
    The finding.
  """
  del scale, seeds
  return [
    params_finding(
      {
        d: {
          name: (accounting.cost(body), formula)
          for name, (body, formula) in _formulas(d).items()
        }
        for d in widths
      }
    )
  ]


def params_finding(
  found: Mapping[int, Mapping[str, tuple[accounting.Cost, int]]],
) -> common.Finding:
  """Judges counts.

  Args:
    found: by width and body, the cost by the code and parameters by formula.

  Returns:
    The finding.
  """
  ours, same = {}, []
  for d, table in found.items():
    for name, (cost, formula) in table.items():
      ours[f'{name}, d={d}: parameters'] = (float(cost.params),)
      ours[f'{name}, d={d}: kFLOP per state'] = (cost.state_flops / 1e3,)
      ours[f'{name}, d={d}: kFLOP of weights'] = (cost.weights_flops / 1e3,)
      same.append(cost.params == formula)
  return common.Finding(
    {
      'id': 'flow-parameters',
      'claim': 'The flow of ODEtoODE-ISO needs fewer parameters than its '
      'baselines of the same width (heads not counted).',
      'ours': ours,
      'published': 'not found',
      'trend': 'counts by the code equal the formulas exactly; ODEtoODE-ISO has '
      'the fewest',
      'verdict': 'holds' if all(same) and _fewest(found) else 'fails',
      'explanation': 'Symmetric matrices count d (d + 1) / 2, orthogonal ones '
      'd (d - 1) / 2. Operations of matrix products, 25 steps; those of the '
      'weights are spent once for all states.',
    },
    functools.partial(_params_picture, found),
  )


def _fewest(
  found: Mapping[int, Mapping[str, tuple[accounting.Cost, int]]],
) -> bool:
  return all(
    min(table, key=lambda name: table[name][0].params) == digits.ISO
    for table in found.values()
  )


def _params_picture(
  found: Mapping[int, Mapping[str, tuple[accounting.Cost, int]]],
  path: pathlib.Path,
) -> None:
  fig, (axis,) = common.new_axes(1)
  names = [*next(iter(found.values()))]
  for i, (d, table) in enumerate(found.items()):
    values = [table[name][0].params for name in names]
    places = np.arange(len(names)) + 0.4 * i - 0.2
    axis.barh(places, values, 0.38, color=common.COLORS[i], label=f'd = {d}')
  axis.set_yticks(range(len(names)), names)
  axis.invert_yaxis()
  axis.set_xscale('log')
  axis.set_xlabel('parameters of the flow')
  axis.legend(frameon=False, fontsize='small')
  common.save(fig, path)
