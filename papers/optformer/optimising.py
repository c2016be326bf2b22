"""OptFormer as an optimiser of functions whose families it never saw.

All methods begin with the same five trials. Seeds are tasks, and intervals come from
resampled tasks.
"""

import functools

import numpy as np

from hpo.optformer import acquisitions, behaviours, suggesting
from papers import claims, figures, rows, study
from papers.optformer import methods, peers, searches
from runtime.record import ledger

RANDOM, PRIOR, EI = 'random', 'OptFormer, prior', 'OptFormer, EI'
VIEWS = 'OptFormer, EI of eight views'
UCB_VIEWS = 'OptFormer, UCB(0.9) of eight views'
GP_UCB = 'GP-UCB, the original'
_EXPLAIN = (
  'Seeds are tasks: noisy functions of the five held-out families with 2 to 4 '
  'parameters of all types, 40 trials, of which the first five are uniform and the '
  'same for all methods. Scores are of the noiseless values: 0 is the median of '
  'uniform points, 1 the best known; what lacks to 1 is the regret, at least 1e-4.'
)


def optformer(
  acquisition: acquisitions.Acquisition = acquisitions.EI(),
  num_candidates: int = 100,
  **policy: object,
) -> methods.OptFormer:
  """The shipped model with a policy; arguments as those of `Policy`."""
  return methods.OptFormer(
    suggesting.Policy(acquisition, num_candidates, **policy)
  )


def averaged(
  acquisition: acquisitions.Acquisition = acquisitions.EI(),
) -> methods.OptFormer:
  """Forecasts are averaged over eight views, of fewer candidates."""
  return optformer(acquisition, num_candidates=16, views=8)


def compared(
  found: dict[str, methods.Method],
  seeds: int,
  *,
  at: tuple[str, ...] = (),
  **options: object,
) -> study.Study:
  """Methods on the same tasks.

  Args:
    found: methods by label.
    seeds: number of tasks.
    at: as for `searches.run`.
    **options: as those of `searches.Setting`.
  """
  arms = {name: searches.Setting(m, **options) for name, m in found.items()}
  return study.Study(searches.run, arms, seeds=seeds, at=at)


def scores(results: study.Results) -> dict[str, np.ndarray]:
  """The last score and the logarithm of its regret, of every arm and task."""
  return rows.table(results, 'final', form='{arm}') | rows.table(
    results, 'log_regret', form='{arm}: log10 regret'
  )


def better(one: str, than: str, *, margin: float = 0.0) -> claims.Difference:
  """One method has a smaller regret than another, over resampled tasks.

  Args:
    one: arm.
    than: arm.
    margin: in powers of ten; below 0: the regret may be larger by that.
  """
  return claims.below(
    f'{one}: log10 regret',
    than=f'{than}: log10 regret',
    margin=margin,
    paired=True,
    resampled=True,
  )


def curves(results: study.Results) -> list[figures.Panel]:
  """Scores and regrets after the trials that all methods share; means over tasks."""
  shared = results.settings[results.arms[0]].starts
  best = {arm: results(arm, 'best')[:, shared:] for arm in results.arms}
  at = np.arange(results(results.arms[0], 'best').shape[1])[shared:] + 1
  regrets = [regret_line(arm, values, at) for arm, values in best.items()]
  return [
    figures.lines(
      best, at, spread='pooled', xlabel='trial', ylabel='best score so far'
    ),
    figures.Lines(lines=regrets, xlabel='trial', ylabel='regret', yscale='log'),
  ]


def regret_line(
  label: str, best: np.ndarray, at: np.ndarray | None = None
) -> figures.Line:
  """The geometric mean of regrets over tasks.

  Args:
    label: of the line.
    best: scores, [tasks, trials].
    at: numbers of the trials; None: 1, 2, ...
  """
  regrets = 10 ** searches.log_regrets(best).mean(axis=0)
  at = np.arange(1, len(regrets) + 1) if at is None else at
  return figures.Line(label, at, regrets)


row = functools.partial(rows.Row, ours=scores, figure=curves)


def _times(results: study.Results) -> str:
  found = results.told('.2g', 'seconds')
  return f'{_EXPLAIN} CPU seconds of a suggestion, compiling included: {found}.'


OURS = {
  RANDOM: methods.Random(),
  PRIOR: optformer(acquisitions.Prior(), 1),
  EI: optformer(),
}
# What the package suggests with, for so few parameters.
_UCB = {'OptFormer, UCB(0.9)': optformer(acquisitions.UCB(0.9))}
_PEERS = {
  'TPE (Optuna)': peers.Optuna('tpe'),
  'CMA-ES (Optuna)': peers.Optuna('cma'),
  'Eagle (Vizier)': peers.Vizier('eagle'),
}
_VIZIER = 'GP bandit (Vizier)'
_CANDIDATES = {f'M = {count}': count for count in (1, 10, 100)}

_COMPARABLE = ledger.Published(
  'EI and Thompson sampling comparable to Vizier or better on the held-out '
  'families, but Thompson sampling on Linear Slope',
  'arXiv:2205.13320, Figure 19',
)

ROWS = (
  row(
    id='held-out',
    claim='Expected improvement with OptFormer beats random search and its own '
    'prior on families of functions that it never saw.',
    study=compared(OURS | {GP_UCB: methods.Behaviour(behaviours.GpUcb())}, 120),
    trend='regret falls from random to the prior and to expected improvement',
    claims=(better(PRIOR, RANDOM), better(EI, RANDOM), better(EI, PRIOR)),
    published=_COMPARABLE,
    explain=_times,
    headline=EI,
  ),
  row(
    id='held-out-peers',
    claim='OptFormer is as good as optimisers that are in wide use.',
    study=compared(OURS | _UCB | _PEERS, 120),
    trend='regret at most a quarter above those of TPE, CMA-ES and Eagle',
    claims=tuple(better(EI, name, margin=-0.1) for name in _PEERS),
    published=_COMPARABLE,
    explain=_times,
    headline=EI,
  ),
  row(
    id='held-out-vizier',
    claim='OptFormer is as good as the Gaussian processes of Vizier.',
    study=compared(
      {EI: optformer()} | _UCB | {_VIZIER: peers.Vizier('gp')}, 15
    ),
    trend='regret at most a quarter above that of the GP bandit',
    claims=(better(EI, _VIZIER, margin=-0.1),),
    published=_COMPARABLE,
    explain=f'{_EXPLAIN} The GP bandit needs seconds a suggestion, so there are '
    'few tasks.',
    headline=EI,
  ),
  row(
    id='candidates',
    claim='The more candidates are ranked, the better the best of them is.',
    study=compared(
      {name: optformer(num_candidates=m) for name, m in _CANDIDATES.items()},
      120,
    ),
    trend='regret falls from 1 to 10 and to 100 candidates',
    claims=(better('M = 10', 'M = 1'), better('M = 100', 'M = 10')),
    explain=_EXPLAIN,
    headline='M = 100',
  ),
)
