"""Generalisation to fresh levels, ablations of operations, and bi-level search."""

import dataclasses
import functools

import numpy as np

from papers import claims, figures, rows, study
from papers.rl_darts import games, runs
from papers.rl_darts.search import FAST, GRID, IMPALA, SUPERNET

_COUNTS = (10, 50)
_ALL = 'all'


def _limited(count: int) -> runs.Setting:
  return runs.Setting(
    functools.partial(games.grid, levels=count), fresh=games.fresh_grid
  )


def _by_levels() -> dict[str, runs.Setting]:
  """Both networks on few levels, and on all."""
  found = {}
  for count in (*_COUNTS, _ALL):
    setting = GRID if count == _ALL else _limited(count)
    found[f'{SUPERNET}, {count} levels'] = setting
    found[f'{IMPALA}, {count} levels'] = runs.baseline(setting)
  return found


def _gaps(results: study.Results) -> dict[str, np.ndarray]:
  """Returns of training, and what they lose on fresh levels."""
  found = rows.table(results, 'level', form='{arm}: return')
  for network in (SUPERNET, IMPALA):
    for count in _COUNTS:
      arm = f'{network}, {count} levels'
      found[f'{arm}: gap'] = results(arm, 'level') - results(arm, 'fresh')
  return found


def _gap_figure(results: study.Results) -> figures.Panel:
  lines = []
  for network in (SUPERNET, IMPALA):
    arms = [f'{network}, {count} levels' for count in _COUNTS]
    all_levels = results(f'{network}, {_ALL} levels', 'level')
    for metric, style in (('level', 'o-'), ('fresh', 'o--')):
      known = [results(arm, metric) for arm in arms] + [all_levels]
      lines.append(
        figures.Line(
          f'{network}, {"training" if metric == "level" else "fresh"}',
          np.arange(len(known)),
          np.stack(known, axis=1),
          spread='mean',
          style=style,
          color=(SUPERNET, IMPALA).index(network),
        )
      )
  ticks = {'xticks': range(3), 'xticklabels': [*map(str, _COUNTS), _ALL]}
  return figures.Lines(
    lines=lines, xlabel='training levels', ylabel='return', options=ticks
  )


def _study(arms: dict[str, runs.Setting]) -> dict[str, study.Study]:
  return {'tiny': study.Study(runs.run, arms, together=True)}


_WITHOUT = {
  'Micro': (),
  'without Tanh': ('Tanh',),
  'without Relu': ('Relu',),
  'without both': ('Relu', 'Tanh'),
}


def _modes() -> dict[str, runs.Setting]:
  """Joint search on all levels; bi-level with other levels for the logits."""
  apart = runs.Setting(
    functools.partial(games.grid, start=1_000),
    other=functools.partial(games.grid, levels=1_000),
    alpha_rate=FAST.alpha_rate,
  )
  return {
    'joint': FAST,
    'first order': dataclasses.replace(apart, mode='first_order'),
    'second order': dataclasses.replace(apart, mode='second_order'),
  }


_returns = figures.of_arms(
  {'returns': 'return while training'},
  lambda results: runs.steps_of(results, results.arms[0]),
  spread='mean',
  xlabel='steps',
)
ROWS = (
  rows.Row(
    id='levels',
    claim='With more training levels the gap to fresh levels shrinks, for supernets '
    'as for IMPALA (return on grid levels).',
    study=_study(_by_levels()),
    ours=_gaps,
    trend='the gap at 50 levels below that at 10, for both networks',
    claims=[
      claims.below(
        f'{network}, 50 levels: gap', than=f'{network}, 10 levels: gap'
      )
      for network in (SUPERNET, IMPALA)
    ],
    figure=_gap_figure,
    explain=runs.describe(GRID)
    + ' 128 episodes on fresh levels judge the end. With all levels, those of '
    'training are fresh.',
    headline=f'{SUPERNET}, 50 levels: gap',
  ),
  rows.Row(
    id='operations',
    claim='Without non-linear operations the supernet loses (return on grid levels).',
    study=_study(study.vary(GRID, 'shut', _WITHOUT)),
    ours=rows.numbers('level'),
    trend='without both below Micro',
    claims=(claims.below('without both', than='Micro'),),
    figure=_returns,
    explain=runs.describe(GRID)
    + ' Logits of operations that are left out are held at minus infinity. The '
    "network's head has ReLU in all arms.",
    headline='without both',
  ),
  rows.Row(
    id='bilevel',
    claim='Joint training of weights and logits, as published, against bi-level '
    'search of first and second order (return on grid levels).',
    study=_study(_modes()),
    ours=lambda results: {
      **rows.table(results, 'level', form='{arm}: return'),
      **{
        f'{arm}: return at first': results(arm, 'returns')[:, 0]
        for arm in results.arms
      },
      **rows.table(results, 'entropy', form='{arm}: entropy of an edge (nats)'),
    },
    trend='all three end above their first returns; no claim about the best',
    claims=[
      claims.above(f'{arm}: return', than=f'{arm}: return at first')
      for arm in ('joint', 'first order', 'second order')
    ],
    figure=_returns,
    explain=runs.describe(GRID)
    + ' In bi-level search a quarter of the lanes have levels of their own for the '
    'logits, so weights learn from three quarters of the steps.',
    headline='joint: return',
  ),
)
