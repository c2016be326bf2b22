"""Adaptive q on the one-dimensional study: cost to one accuracy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from hpo import ufom
from papers import claims, figures, rows, study
from papers.ufom import synthetic

__all__ = ['ROWS', 'cost_to', 'descend_adaptively', 'run']

ADAPTIVE = 'adaptive'


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames='sizes')
def descend_adaptively(
  tasks: ufom.Tasks,
  rule: ufom.AdaptiveRule,
  key: Key[Array, ''],
  *,
  sizes: tuple[int, int, int],
  starts: tuple[float, float],
) -> tuple[Float[Array, 'records runs'], ...]:
  """Runs of outer SGD, each of which adapts its own q.

  Args:
    tasks: each step draws one of the two.
    rule: of q.
    key: of starts, tasks and xi.
    sizes: numbers of runs, of records and of steps between them.
    starts: ends of the interval from which theta_0 is drawn.

  Returns:
    Theta, the number of exact gradients so far and q.
  """
  runs, records, every = sizes
  inner = ufom.Inner(tasks.r, tasks.alpha, mode='store')
  low, high = starts
  first = jax.random.uniform(
    jax.random.fold_in(key, 0), (runs,), minval=low, maxval=high
  )
  averages = jax.vmap(lambda _: rule.init())(first)

  def one(theta: Any, averages: Any, key: Key[Array, '']) -> Any:
    task_key, xi_key = jax.random.split(key)
    task = jax.random.bernoulli(task_key).astype(jnp.int32)
    q = rule.q(averages)
    found = ufom.ufom_grad(tasks.problem, theta, task, xi_key, q, inner)
    return found.grad, rule.update(averages, found, q), found.xi, q

  def body(k: Integer[Array, ''], state: Any) -> Any:
    theta, averages, count, _ = state
    keys = jax.random.split(jax.random.fold_in(key, k + 1), runs)
    grad, averages, xi, q = jax.vmap(one)(theta, averages, keys)
    return theta - synthetic.STEP / (k + 1) * grad, averages, count + xi, q

  def record(state: Any, i: Integer[Array, '']) -> tuple[Any, Any]:
    state = jax.lax.fori_loop(i * every, (i + 1) * every, body, state)
    theta, _, count, q = state
    return state, (theta, count, q)

  state = first, averages, jnp.zeros(runs), jnp.zeros(runs)
  return jax.lax.scan(record, state, jnp.arange(records))[1]


def run(
  setting: synthetic.Descent | ufom.AdaptiveRule, *, seed: int
) -> study.Record:
  """Cost, mean square of the true gradient, and q, at every record.

  Args:
    setting: runs at a fixed q, or the rule that adapts it.
    seed: of starts, tasks and xi.
  """
  if isinstance(setting, synthetic.Descent):
    record = synthetic.descend(setting, seed=seed)
    cost = ufom.cost(setting.tasks.r, setting.q).expected * setting.at
    return record | {'cost': cost, 'q': np.full(setting.records, setting.q)}
  base, price = _fixed(1.0), ufom.cost(setting.r)
  theta, count, q = descend_adaptively(
    base.tasks,
    setting,
    jax.random.key(seed),
    sizes=(base.runs, base.records, base.steps // base.records),
    starts=base.starts,
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
  return {
    arm: [
      cost_to(cost, square, target)
      for cost, square in zip(
        results(arm, 'cost'), results(arm, 'square'), strict=True
      )
    ]
    for arm in results.arms
  }


def _best(table: claims.Table) -> str:
  fixed = [arm for arm in table if arm != ADAPTIVE]
  return min(fixed, key=lambda arm: np.mean(table[arm]))


def _explain(results: study.Results) -> str:
  price, costs = ufom.cost(10), _costs(results)
  best, q = _best(costs), results.last(ADAPTIVE, 'q').mean()
  return (
    '1000 starts for each seed; steps are 10 / (k + 1); exact gradients priced '
    f'as recomputed, {price.det + price.rnd:g}, first-order ones {price.det:g}. '
    f'Target {_target(results):.3g}. Best fixed, chosen on these runs: {best}, '
    f'{np.mean(costs[best]):.4g} gradients; the rule '
    f'{np.mean(costs[ADAPTIVE]):.4g}, with q = {q:.2f} at the end.'
  )


def _figure(results: study.Results) -> list[figures.Panel]:
  lines = {
    metric: [
      figures.Line(
        arm if metric == 'square' else '',
        results(arm, 'cost').mean(0),
        results(arm, metric).mean(0),
      )
      for arm in results.arms
    ]
    for metric in ('square', 'q')
  }
  cost = {'xscale': 'log', 'xlabel': 'gradient evaluations'}
  return [
    figures.Lines(
      lines=lines['square'],
      levels={'target': _target(results)},
      yscale='log',
      ylabel='mean of (dM/dtheta)^2',
      **cost,
    ),
    figures.Lines(lines=lines['q'], ylabel='q', **cost),
  ]


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
      claims.below(ADAPTIVE, _best(table), margin=-np.log(1.1), log=True),
    ),
    figure=_figure,
    explain=_explain,
    headline=ADAPTIVE,
  ),
)
