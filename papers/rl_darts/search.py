"""Searches by PPO, and the cells that come out of them.

All rows share runs: a search per game and seed, cells of several times of the
search from scratch, random cells, and IMPALA's network.

As published, logits are parameters like others. In 256 iterations Adam's steps of
the weights' size leave them where they begin. So the searches here give them an
optimiser of their own with larger steps; one arm is as published.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from nas.rl_darts import diagnostics
from papers import claims, figures, rows, study
from papers.rl_darts import games, runs
from runtime.record import ledger

_GAMES = {
  'grid': games.grid,
  'Breakout': functools.partial(games.minatar, name='Breakout'),
  'Asterix': functools.partial(games.minatar, name='Asterix'),
}
SUPERNET, IMPALA, DERIVED = 'supernet', 'IMPALA', 'derived cell'
GRID_SEARCH = f'grid: {SUPERNET}'
_TIMES = (0, 64, 128, 256)  # Iterations of a search of 256.
GRID = runs.Setting(games.grid)
FAST = dataclasses.replace(GRID, retrained=_TIMES, alpha_rate=0.03)
_PUBLISHED = f'{GRID_SEARCH}, published rule'
_SEEDS = 8  # The spread of three, 0.25 of IMPALA's return, needs as many.
_DRAWN = 'grid: random cells'


def _arms() -> dict[str, runs.Setting]:
  """A search and IMPALA's network in every game."""
  found = {}
  for name, game in _GAMES.items():
    setting = FAST
    if name != 'grid':
      setting = dataclasses.replace(
        FAST, game=game, retrained=_TIMES[-1:], discount=0.99
      )
    found[f'{name}: {SUPERNET}'] = setting
    found[f'{name}: {IMPALA}'] = runs.baseline(setting)
  return found


def _levels(results: study.Results) -> dict[str, np.ndarray]:
  """Mean returns of all three, in every game."""
  found = {}
  for name in _GAMES:
    searched, impala = f'{name}: {SUPERNET}', f'{name}: {IMPALA}'
    found |= {arm: results(arm, 'level') for arm in (searched, impala)}
    found[f'{name}: {DERIVED}'] = results.last(searched, 'cell_level')
  return found


def _games_won(arm: str, share: float) -> claims.Difference:
  """An arm has a share of the return of IMPALA on two of three games.

  As the median of three numbers is above a bound where two of them are.
  """

  def median(table: claims.Table) -> np.ndarray:
    shares = [
      np.divide(table[f'{name}: {arm}'], table[f'{name}: {IMPALA}'])
      for name in _GAMES
    ]
    return np.median(shares, axis=0)

  text = f'{arm}, return over that of {IMPALA}, median of three games'
  return claims.above(claims.Derived(text, median), share)


def _entropy_share(results: study.Results) -> dict[str, np.ndarray]:
  """Entropies at the end over those of equal logits."""
  last = lambda name: results.last(f'{name}: {SUPERNET}', 'entropy')
  return {f'{n}: entropy over ln 5': last(n) / np.log(5) for n in _GAMES}


def _learning(results: study.Results) -> list[figures.Panel]:
  panels = []
  for name in _GAMES:
    searched, impala = f'{name}: {SUPERNET}', f'{name}: {IMPALA}'
    cells = results.curves(searched, 'cell_returns')
    curves = {
      SUPERNET: results.curves(searched, 'returns'),
      DERIVED: [curve[-1] for curve in cells],
      IMPALA: results.curves(impala, 'returns'),
    }
    panels.append(
      figures.lines(
        curves,
        runs.steps_of(results, impala),
        spread='mean',
        xlabel='steps',
        ylabel='return while training',
        options={'title': name},
      )
    )
  return panels


_SETTING = (
  f'{runs.describe(GRID)} Adam moves the logits by 0.03, and the weights by '
  '0.001.'
)


def _explain_games(results: study.Results) -> str:
  means = {label: x.mean() for label, x in _levels(results).items()}
  share = lambda name, arm: (
    f'{arm} {means[f"{name}: {arm}"] / means[f"{name}: {IMPALA}"]:.2f}'
  )
  shares = '; '.join(
    f'{name}: {share(name, SUPERNET)}, {share(name, DERIVED)}'
    for name in _GAMES
  )
  return f'{_SETTING} Mean returns over those of IMPALA: {shares}.'


def _random(results: study.Results) -> np.ndarray:
  """Levels of all random cells."""
  return results(_DRAWN, 'cell_level').ravel()


def _random_means(results: study.Results) -> np.ndarray:
  """The mean over the random cells of each seed."""
  return results(_DRAWN, 'cell_level').mean(axis=1)


def _cells(results: study.Results) -> dict[str, np.ndarray]:
  levels = results(GRID_SEARCH, 'cell_level')
  found = {_at(time): levels[:, index] for index, time in enumerate(_TIMES)}
  entropy = 'entropy of an edge at the end (nats)'
  return found | {
    _RANDOM: _random_means(results),
    'rank correlation': _ranks(results),
    entropy: results.last(GRID_SEARCH, 'entropy'),
    f'published rule: {entropy}': results.last(_PUBLISHED, 'entropy'),
  }


def _at(time: int) -> str:
  return f'cell at {time / _TIMES[-1]:.0%} of the search'


def _ranks(results: study.Results) -> np.ndarray:
  """Spearman's rho between the time in a search and the level of its cell."""
  levels = results(GRID_SEARCH, 'cell_level')
  return np.array(
    [diagnostics.spearman(np.array(_TIMES), row) for row in levels]
  )


def _explain_cells(results: study.Results) -> str:
  found = results.records[GRID_SEARCH, None]
  distinct = [
    len({one['genotypes'][str(time)] for time in _TIMES}) for one in found
  ]
  last = [one['genotypes'][str(_TIMES[-1])] for one in found]
  skips = [text.count('SkipConnection') - 1 for text in last]
  return (
    f'{_SETTING} By the published rule both move by 0.001. '
    f'{_random(results).size} random cells, each with a seed of its own. '
    f'Of {len(_TIMES)} cells of a search {distinct} differ, by seed. The last cells '
    f'have {skips} skip connections among 7 edges.'
  )


def _by_time(results: study.Results) -> list[figures.Panel]:
  random, found = _random(results), results.records[GRID_SEARCH, None]
  masses = [
    figures.Line(
      op, [m['times'] for m in found], [m['mass'][op] for m in found], 'mean'
    )
    for op in found[0]['mass']
  ]
  return [
    figures.lines(
      {'cells of searches': list(results(GRID_SEARCH, 'cell_level'))},
      np.array(_TIMES) / _TIMES[-1],
      spread='mean',
      style='o-',
      levels={
        'mean of random cells': random.mean(),
        'best of random cells': random.max(),
      },
      xlabel='share of the search',
      ylabel='level from scratch',
    ),
    figures.Lines(
      lines=masses, xlabel='iteration of the search', ylabel='mean probability'
    ),
  ]


def _efficiency(results: study.Results) -> dict[str, np.ndarray]:
  """Steps of random search over those of a search and one training."""
  random = _random(results)
  final = results.last(GRID_SEARCH, 'cell_level')
  counts = np.array([diagnostics.cells_for(level, random) for level in final])
  return {
    _RATIO: counts / 2,
    'searched': final,
    _RANDOM: _random_means(results),
  }


def _explain_efficiency(results: study.Results) -> str:
  random, final = _random(results), results.last(GRID_SEARCH, 'cell_level')
  rng = np.random.default_rng(0)
  ratios = [
    diagnostics.cells_for(
      rng.choice(final, final.size).mean(), rng.choice(random, random.size)
    )
    / 2
    for _ in range(1000)
  ]
  low, middle, high = np.percentile(ratios, [2.5, 50, 97.5])
  return (
    f'{_SETTING} A search and the training of its cell take twice the steps of '
    'one random cell. The ratio is that of the steps with which the best random '
    f'cell is expected to be as good, at most 500: {middle:.3g} with a bootstrap '
    f'interval of [{low:.3g}, {high:.3g}]. A best random cell is partly luck of '
    'its training.'
  )


def _bars(results: study.Results) -> figures.Panel:
  random = np.sort(_random(results))
  final = results.last(GRID_SEARCH, 'cell_level')
  at = np.arange(1, 33)
  return figures.lines(
    {'best of random cells': diagnostics.best_of(random, at)},
    at,
    levels={'searched, mean': final.mean(), 'searched, best': final.max()},
    xscale='log2',
    xlabel='random cells trained',
    ylabel='expected level of the best',
  )


def _pairs(results: study.Results) -> tuple[np.ndarray, np.ndarray]:
  """Returns of supernets at the times of their cells, and levels of these."""
  returns = results(GRID_SEARCH, 'returns')
  last = returns.shape[1]
  rows_of = [round(time / _TIMES[-1] * last) for time in _TIMES]
  at = returns[:, [max(row - 1, 0) for row in rows_of]]
  return at, results(GRID_SEARCH, 'cell_level')


def _correlation(results: study.Results) -> dict[str, Any]:
  one, two = _pairs(results)
  return {
    'pooled rank correlation': diagnostics.spearman(one.ravel(), two.ravel()),
    'points': one.size,
  }


def _explain_correlation(results: study.Results) -> str:
  one, two = (x.ravel() for x in _pairs(results))
  rng = np.random.default_rng(0)
  draws = [rng.integers(0, one.size, one.size) for _ in range(1000)]
  rho = [diagnostics.spearman(one[i], two[i]) for i in draws]
  low, high = np.nanpercentile(rho, [2.5, 97.5])
  return (
    f'{_SETTING} A supernet learns while it searches, so its return grows with '
    f'time whatever its logits do. Bootstrap interval: [{low:.2f}, {high:.2f}].'
  )


def _scatter(results: study.Results) -> figures.Panel:
  one, two = _pairs(results)
  return figures.Lines(
    lines=[
      figures.Line(f'seed {i}', x, y, style='o')
      for i, (x, y) in enumerate(zip(one, two, strict=True))
    ],
    xlabel='return of the supernet',
    ylabel='level of its cell, from scratch',
  )


_RANDOM, _EACH = 'random cells, mean', 'random cells'
_RATIO = 'steps of random search over those of search'
_STUDY = study.Study(
  runs.run,
  {
    GRID_SEARCH: FAST,
    _PUBLISHED: GRID,
    _DRAWN: dataclasses.replace(GRID, random=4),
  },
  seeds=_SEEDS,
  together=True,
)
ROWS = (
  rows.Row(
    id='games',
    claim='A supernet learns in PPO nearly as IMPALA does, and so does the cell '
    'derived from it (return, three small games).',
    study={'tiny': study.Study(runs.run, _arms(), seeds=_SEEDS, together=True)},
    ours=lambda results: _levels(results) | _entropy_share(results),
    trend='on 2 of 3 games, which is the median by seed, the supernet above 0.7 of '
    'IMPALA, and the derived cell above 0.9; entropies fall by 5 % on the grid levels',
    claims=(
      _games_won(SUPERNET, 0.7),
      _games_won(DERIVED, 0.9),
      claims.below('grid: entropy over ln 5', 0.95),
    ),
    figure=_learning,
    explain=_explain_games,
    headline=f'grid: {DERIVED}',
    curves=True,
  ),
  rows.Row(
    id='later-cells',
    claim='Cells derived later in a search are better (level from scratch, grid '
    'levels).',
    study={'tiny': _STUDY},
    ours=_cells,
    trend='rank correlation of time and level above 0; the last cell not below the '
    'mean of random cells by 0.5',
    claims=(
      claims.above('rank correlation', 0.0),
      claims.above(_at(_TIMES[-1]), than=_EACH, margin=-0.5),
    ),
    unlisted=lambda results: {_EACH: _random(results)},
    figure=_by_time,
    explain=_explain_cells,
    headline='rank correlation',
  ),
  rows.Row(
    id='random-search',
    claim='Search reaches the best of many random cells with fewer steps (grid '
    'levels).',
    study={'tiny': _STUDY},
    ours=_efficiency,
    trend='the ratio above 1',
    claims=(claims.above(_RATIO, 1.0, log=True),),
    figure=_bars,
    published=ledger.Published(30.0, 'arXiv:2106.02229, abstract: up to 30'),
    explain=_explain_efficiency,
  ),
  rows.Row(
    id='supernet-correlation',
    claim='The return of a supernet tells the level of its cell (rank correlation, '
    'grid levels).',
    study={'tiny': _STUDY},
    ours=_correlation,
    trend='reported only: over 12 points or more',
    claims=(
      claims.Check('at least 12 points', lambda t: min(t['points']) >= 12),
    ),
    figure=_scatter,
    explain=_explain_correlation,
  ),
)
