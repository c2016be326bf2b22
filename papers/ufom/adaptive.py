"""Adaptive q on the one-dimensional study: cost to one accuracy."""

import functools

import jax
import numpy as np

from hpo import ufom
from hpo.ufom import synthetic as ufom_synthetic
from papers import claims, figures, rows, study
from papers.ufom import runs, synthetic

ADAPTIVE = 'adaptive'


def run(
  setting: synthetic.Descent | ufom.AdaptiveRule, *, seed: int
) -> study.Record:
  """Cost, mean square of the true gradient, and q, at every record."""
  if isinstance(setting, synthetic.Descent):
    record = synthetic.descend(setting, seed=seed)
    cost = ufom.cost(setting.tasks.r, setting.q).expected * setting.at
    return record | {'cost': cost, 'q': np.full(setting.records, setting.q)}
  base, price = _fixed(1.0), ufom.cost(setting.r)
  theta, count, q = ufom_synthetic.descend_adaptively(
    base.tasks,
    setting,
    key=jax.random.key(seed),
    runs=base.runs,
    steps=base.steps,
    step=synthetic.STEP,
    starts=base.starts,
    every=base.steps // base.records,
  )
  true = base.tasks.gradients(np.asarray(theta, np.float64)).mean(-1)
  cost = price.det * base.at + price.rnd * np.asarray(count).mean(1)
  return {'square': (true**2).mean(1), 'cost': cost, 'q': np.mean(q, axis=1)}


def _fixed(q: float) -> synthetic.Descent:
  return synthetic.Descent(ufom.study(0.01), q, steps=10_000, records=100)


def _target(results: study.Results) -> float:
  """The accuracy that all curves reach."""
  return max(results.last(arm, 'square').max() for arm in results.arms)


def cost_to(cost: np.ndarray, square: np.ndarray, target: float) -> float:
  """Where a curve first falls to the target, between records."""
  i = int(np.argmax(square <= target))
  if i == 0:
    return float(cost[0])
  logs, ends = np.log(square[[i, i - 1]]), np.log(cost[[i, i - 1]])
  return float(np.exp(np.interp(np.log(target), logs, ends)))


def _costs(results: study.Results) -> dict[str, list[float]]:
  target = _target(results)
  curves = lambda arm: (results(arm, 'cost'), results(arm, 'square'))
  return {
    arm: [cost_to(*pair, target) for pair in zip(*curves(arm), strict=True)]
    for arm in results.arms
  }


def _explain(results: study.Results) -> str:
  price, costs = ufom.cost(10), _costs(results)
  best = runs.cheapest(costs, ADAPTIVE)
  q = results.last(ADAPTIVE, 'q').mean()
  return (
    'Each seed has 1000 starts. Steps are 10 / (k + 1). An exact gradient costs '
    f'{price.det + price.rnd:g}, as recomputed, a first-order one {price.det:g}. '
    f'The target is {_target(results):.3g}. The best fixed arm, chosen on these '
    f'runs, is {best} with {np.mean(costs[best]):.4g} gradients. The rule needs '
    f'{np.mean(costs[ADAPTIVE]):.4g}, and has q = {q:.2f} at the end.'
  )


def _figure(results: study.Results) -> list[figures.Panel]:
  panel = functools.partial(
    figures.by_arm,
    results,
    x='cost',
    spread='pooled',
    xscale='log',
    xlabel='gradient evaluations',
  )
  squares = {'yscale': 'log', 'ylabel': 'mean of (dM/dtheta)^2'}
  levels = {'target': _target(results)}
  return [panel('square', levels=levels, **squares), panel('q', ylabel='q')]


ROWS = (
  rows.Row(
    id='adaptive-toy',
    claim='Adaptive q needs about as many gradients as the best fixed q (until '
    'the mean squared true gradient is the one that all reach; alpha = 0.01).',
    study=study.Study(
      run,
      {f'q={q:g}': _fixed(q) for q in (0.05, 0.1, 0.2, 0.5, 1.0)}
      | {ADAPTIVE: ufom.AdaptiveRule(r=10)},
      seeds=8,
    ),
    ours=_costs,
    trend='at most 10 % more than the best fixed q',
    claims=lambda table: (
      claims.below(
        ADAPTIVE, runs.cheapest(table, ADAPTIVE), margin=-np.log(1.1), log=True
      ),
    ),
    figure=_figure,
    explain=_explain,
    headline=ADAPTIVE,
  ),
)
