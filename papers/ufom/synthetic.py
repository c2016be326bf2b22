"""One-dimensional problems: divergence, and the best q against the inner rate.

Settings are the published ones at every scale; only numbers of runs differ.
"""

import dataclasses
import functools

import jax
import numpy as np

from hpo import ufom
from hpo.ufom import synthetic
from papers import claims, figures, rows, study
from runtime.record import ledger

STEP = 10.0  # Outer steps are STEP / (k + 1).
ALPHAS = (0.001, 0.005, 0.01, 0.02, 0.05)
PREDICTED_Q = 0.11  # `best_q(0.01, p=0.5, stored=True)`, rounded.
_LIMIT = np.sqrt(0.12)  # sqrt(2 D) of the counter-example.


@dataclasses.dataclass(frozen=True)
class Descent:
  """Runs of outer SGD on two tasks."""

  tasks: ufom.Tasks  # The two.
  q: float  # Probability of exact gradients.
  starts: tuple[float, float] = (-50.0, 50.0)  # Interval of the first theta.
  runs: int = 1000  # For each seed.
  steps: int = 20_000  # Of a run.
  records: int = 200  # Of a run, at equal distances.

  def theta(self, seed: int) -> np.ndarray:
    """Theta [records, runs], float64."""
    key = jax.random.fold_in(jax.random.key(seed), round(1000 * self.q))
    found = synthetic.descend(
      self.tasks,
      q=self.q,
      key=key,
      runs=self.runs,
      steps=self.steps,
      step=STEP,
      starts=self.starts,
      every=self.steps // self.records,
    )
    return np.asarray(found, np.float64)

  @property
  def at(self) -> np.ndarray:
    """Outer steps of the records."""
    return np.linspace(self.steps / self.records, self.steps, self.records)


def slopes(tasks: ufom.Tasks, theta: np.ndarray) -> np.ndarray:
  """|dM/dtheta| anywhere, by differentiation."""
  inner = ufom.Inner(tasks.r, tasks.alpha, mode='store')

  @jax.jit
  @jax.vmap
  def slope(theta: jax.Array) -> jax.Array:
    found = [inner.exact(tasks.problem, theta, i).grad for i in (0, 1)]
    return (found[0] + found[1]) / 2

  flat = slope(theta.ravel().astype(np.float32))
  return np.abs(np.asarray(flat, np.float64)).reshape(theta.shape)


def price(q: float) -> float:
  """Of an outer step in the study, whose exact gradients are stored."""
  return ufom.cost(10, q, 'store_phi').expected


def diverge(setting: Descent, *, seed: int) -> study.Record:
  """Squared true gradients: means at the records, and all at the end."""
  found = slopes(setting.tasks, setting.theta(seed))
  square = (found**2).mean(1)
  last = {'last': found[-1] ** 2, 'slope': found[-1].mean()}
  return last | {'square': square, 'rms': np.sqrt(square), 'step': setting.at}


def descend(setting: Descent, *, seed: int) -> study.Record:
  """Mean squares of the true gradient, where losses are quadratic."""
  true = setting.tasks.gradients(setting.theta(seed)).mean(-1)
  return {'square': (true**2).mean(1), 'cost': setting.at * price(setting.q)}


# First-order descent does not converge.


def _divergence(runs: int) -> study.Study:
  return study.Study(
    diverge,
    {
      f'q={q:g}': Descent(
        ufom.counterexample(),
        q,
        starts=(-10.0, 30.0),
        runs=runs,
        steps=10_000,
        records=50,
      )
      for q in (0.0, 0.1, 0.5, 1.0)
    },
  )


def _every_run(results: study.Results) -> dict[str, np.ndarray]:
  """Numbers over all runs of all seeds, besides those of the row."""
  return {
    f'{name}, {arm}': results(arm, metric).ravel()
    for arm in results.arms
    for name, metric in (('every run', 'last'), ('|dM/dtheta|', 'slope'))
  }


def _near_limits() -> list[claims.Claim]:
  """Means over all runs beside Robbins and Monro's limits."""
  found = []
  for arm, setting in _divergence(1).arms.items():
    limit = setting.tasks.predicted(setting.q, STEP, setting.steps)
    found.append(
      claims.close(f'every run, {arm}', to=limit, within=0.1 * limit)
    )
  return found


_DIVERGENCE = rows.Row(
  id='divergence',
  claim='First-order descent does not converge, UFOM does: squared true gradient '
  'after 10,000 steps on the counter-example.',
  study={'tiny': _divergence(1334), 'paper': _divergence(4000)},
  ours=rows.numbers('square'),
  unlisted=_every_run,
  published=ledger.Published(
    'FOM ends at a gradient of about 0.33 to 0.37',
    'arXiv:2106.02487, experiments on synthetic data, read off a figure',
  ),
  trend='FOM ends within 0.02 of |dM/dtheta| = sqrt(2 D) = 0.346; mean '
  '|dM/dtheta| of UFOM at q = 0.1 below 0.06; every mean square within 10 % of '
  'the Robbins-Monro limit',
  claims=(
    claims.close('|dM/dtheta|, q=0', to=_LIMIT, within=0.02),
    claims.below('|dM/dtheta|, q=0.1', than=0.06),
    *_near_limits(),
  ),
  figure=figures.of_arms(
    {'rms': 'RMS of dM/dtheta'},
    'step',
    spread='pooled',
    levels={'sqrt(2 D)': _LIMIT},
    xscale='log',
    yscale='log',
    xlabel='outer step',
  ),
)


# q against the inner rate.


def constants(alpha: float) -> tuple[float, float]:
  """D2 and V2 of the study's tasks, over a grid on [-50, 50]."""
  tasks = ufom.study(alpha)
  theta = np.linspace(-50, 50, 10_001)
  exact = tasks.gradients(theta)
  gap = exact - tasks.gradients(theta, first_order=True)
  return float((gap**2).mean(-1).max()), float((exact**2).mean(-1).max())


def best_q(alpha: float, *, p: float, stored: bool) -> float:
  """The predicted q of the study."""
  price = ufom.cost(10, mode='store_phi' if stored else 'recompute')
  return float(ufom.optimal_q(*constants(alpha), price.det, price.rnd, p))


def predict(alpha: float) -> study.Record:
  """Values that are known without a run."""
  D2, V2 = constants(alpha)
  return {
    'D2': D2,
    'V2': V2,
    'q* (p=1/2, stored)': best_q(alpha, p=0.5, stored=True),
    'q* (p=2, recompute)': best_q(alpha, p=2.0, stored=False),
  }


_KNOWN = ('D2', 'V2', 'q* (p=1/2, stored)', 'q* (p=2, recompute)')


def _against_alpha(
  results: study.Results, names: tuple[str, ...], **axes: str
) -> figures.Lines:
  curves = {n: [results(a, n)[0] for a in results.arms] for n in names}
  return figures.lines(
    curves, ALPHAS, style='o-', xscale='log', xlabel='alpha', **axes
  )


_CONSTANTS = rows.Row(
  id='constants-against-alpha',
  claim='With the inner rate the bias D2 grows, the gradient V2 shrinks, and '
  'exact gradients are worth computing more often.',
  study=study.Study(predict, {f'alpha={a:g}': a for a in ALPHAS}, seeds=None),
  ours=rows.numbers(*_KNOWN, form='{metric}, {arm}'),
  trend='D2 and both q* rise and V2 falls with alpha',
  claims=[
    claims.grows(
      [f'{name}, alpha={a:g}' for a in ALPHAS], falls=name == 'V2', paired=False
    )
    for name in _KNOWN
  ],
  figure=lambda results: [
    _against_alpha(results, _KNOWN[:2], yscale='log'),
    _against_alpha(results, _KNOWN[2:], ylabel='q*'),
  ],
  explain='D2 and V2 are suprema over a grid on [-50, 50]. Nothing is random.',
)


def at_equal_cost(results: study.Results) -> dict[str, np.ndarray]:
  """Squares at the cost of the whole first-order run, between records."""
  cost = np.log(results.last('q=0', 'cost')[0])
  logs = lambda arm, metric: np.log(results(arm, metric))
  return {
    arm: np.exp(
      [
        np.interp(cost, *curve)
        for curve in zip(logs(arm, 'cost'), logs(arm, 'square'), strict=True)
      ]
    )
    for arm in results.arms
  }


_CURVES = rows.Row(
  id='q-curves',
  claim='At equal cost the predicted q beats both first-order and exact gradients '
  '(squared true gradient, alpha = 0.01).',
  study=study.Study(
    descend,
    {f'q={q:g}': Descent(ufom.study(0.01), q) for q in (0.0, PREDICTED_Q, 1.0)},
  ),
  ours=at_equal_cost,
  trend=f'q = {PREDICTED_Q:g} is lowest at the cost of 20000 first-order steps',
  claims=[
    claims.below(f'q={PREDICTED_Q:g}', than=other, log=True, paired=True)
    for other in ('q=0', 'q=1')
  ],
  figure=figures.of_arms(
    {'square': 'mean of (dM/dtheta)^2'},
    'cost',
    spread='pooled',
    xscale='log',
    yscale='log',
    xlabel='gradient evaluations',
  ),
  explain='Each seed has 1000 starts. Steps are 10 / (k + 1). An exact gradient '
  'costs 21, a first-order one 11. Intervals are of differences of logarithms, '
  'paired by seed.',
  headline=f'q={PREDICTED_Q:g}',
)


@dataclasses.dataclass(frozen=True)
class Scan:
  """A search for the cheapest q."""

  alpha: float  # Inner rate.
  starts: int = 2000  # For each seed.
  steps: int = 100  # Of a run.
  num_q: int = 20  # Values of q, from 0.05 to 1.


def cheapest(setting: Scan, *, seed: int) -> study.Record:
  """The q that reaches the result of q = 0.05 at the least cost."""
  tasks, steps = ufom.study(setting.alpha), setting.steps
  grid = np.linspace(0.05, 1, setting.num_q)
  one = functools.partial(
    Descent, tasks, runs=setting.starts, steps=steps, records=steps
  )
  curves = [descend(one(q=float(q)), seed=seed)['square'] for q in grid]
  target = curves[0].min()
  costs = [
    (int(np.argmax(curve <= target)) + 1) * price(float(q))
    if (curve <= target).any()
    else np.inf
    for q, curve in zip(grid, curves, strict=True)
  ]
  return {'q': grid[int(np.argmin(costs))]}


_SCANNED = np.geomspace(0.001, 0.05, 10)
_BEST = [f'best q, alpha={alpha:.3g}' for alpha in _SCANNED]


def _third(text: str, labels: list[str]) -> claims.Derived:
  mean = lambda *found: np.mean(found, axis=0)
  whole = f'mean best q over the third of {text} alphas'
  return claims.computed(whole, mean, *labels)


def _scan_figure(results: study.Results) -> figures.Panel:
  found = np.array([results(arm, 'q') for arm in _BEST]).T
  theory = [best_q(alpha, p=0.5, stored=True) for alpha in _SCANNED]
  lines = [figures.Line('', _SCANNED, values, style='o') for values in found]
  lines.append(figures.Line('q* (p=1/2, stored)', _SCANNED, theory, style='--'))
  axes = {'xscale': 'log', 'xlabel': 'alpha', 'ylabel': 'best q'}
  return figures.Lines(lines=lines, **axes)


_AGAINST_ALPHA = rows.Row(
  id='q-against-alpha',
  claim='The best q grows with the inner rate.',
  study=study.Study(
    cheapest,
    {
      label: Scan(float(alpha))
      for label, alpha in zip(_BEST, _SCANNED, strict=True)
    },
  ),
  ours=rows.numbers('q'),
  trend='the third of greatest alphas has a greater best q than the third of '
  'least',
  claims=(
    claims.above(
      _third('greatest', _BEST[-3:]),
      than=_third('least', _BEST[:3]),
      paired=True,
    ),
  ),
  figure=_scan_figure,
  explain='A search has 2000 starts, 100 steps and 20 values of q from 0.05 on. '
  'The best q reaches the least squared gradient of the run with q = 0.05 at the '
  'least cost.',
)

ROWS = (_DIVERGENCE, _CONSTANTS, _CURVES, _AGAINST_ALPHA)
