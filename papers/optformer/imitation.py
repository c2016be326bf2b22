"""Likelihoods of what the imitated algorithms proposed, beside their exact floors.

Studies are of the five families that are never trained on. Each is read under every
algorithm's name: with its own, the loss should be near to the floor; with another one,
far above.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from hpo import studies
from hpo.optformer import (
  bbob_problems,
  bbob_studies,
  behaviours,
  imitation,
  quantizing,
)
from hpo.optformer.behaviours import floors
from papers import claims, figures, rows, study
from papers.optformer import methods, tasks

NAMES = tuple(b.name.removeprefix('designer_') for b in behaviours.BEHAVIOURS)
_KNOWN = ('random_search', 'grid_search_shuffled', 'hill_climb', 'reg_evo')
# Whose proposals depend on what was seen.
_STRUCTURED = ('hill_climb', 'reg_evo', 'eagle_strategy', 'recursive_gp')
_PARTS = ('loss', 'uniform', 'floor')  # Of a record; not all have a floor.
_STREAM = 'papers'
_SOURCE = bbob_studies.Source(
  dimensions=tasks.Bbob().dimensions,
  kinds=tasks.Bbob().kinds,
  disguise=tasks.Bbob().disguise,
)


@dataclasses.dataclass(frozen=True)
class Setting:
  """The studies of one algorithm."""

  algorithm: str  # In `NAMES`.
  source: bbob_studies.Source = _SOURCE  # Of the studies.
  # Trials before this one do not count: little can be known there.
  first: int = 15
  model: Any = methods.Model()  # Has `load`.


def run(
  setting: Setting, *, seeds: tuple[int, ...], at: str
) -> list[study.Record]:
  """Judges studies, whose numbers are seeds; the model is told the name `at`.

  Returns:
    For each, means over trials in nats: the loss, that of uniform legal tokens,
    and the floor, if it is known.
  """
  found = [_study(setting, seed) for seed in seeds]
  told = [
    dataclasses.replace(
      one, problem=dataclasses.replace(one.problem, algorithm=f'designer_{at}')
    )
    for one in found
  ]
  costs = imitation.losses(setting.model.load(), told)
  return [
    {'loss': cost[setting.first :].mean(), **_references(setting, one)}
    for cost, one in zip(costs, found, strict=True)
  ]


def _study(setting: Setting, seed: int) -> studies.Study:
  names = [b.name for b in setting.source.algorithms]
  return setting.source.study(
    0,
    names.index(f'designer_{setting.algorithm}') + len(names) * seed,
    stream=_STREAM,
    families=bbob_problems.HELD_OUT,
  )


def _references(setting: Setting, found: studies.Study) -> dict[str, float]:
  counts = quantizing.legal_counts(found.problem.space.parameters)
  record = {'uniform': float(np.log(counts).sum())}
  floor = floors.floor(found)
  if floor is not None:
    record['floor'] = float(floor[setting.first :].mean())
  return record


STUDY = study.Study(
  run,
  {name: Setting(name) for name in NAMES},
  seeds=512,
  at=NAMES,
  together=True,
)


def _own(results: study.Results) -> dict[str, np.ndarray]:
  """Losses with the right name, floors, and losses of uniform tokens."""
  return {
    f'{name}: {metric}': results(name, metric, at=name)
    for name in NAMES
    for metric in _PARTS
    if metric in results.records[name, name][0]
  }


def _others(results: study.Results) -> dict[str, np.ndarray]:
  """With the right name, and the mean over all others."""
  found = {}
  for name in NAMES:
    wrong = [
      results(name, 'loss', at=other) for other in NAMES if other != name
    ]
    found[f'{name}: right name'] = results(name, 'loss', at=name)
    found[f'{name}: wrong names'] = np.mean(wrong, axis=0)
  return found


def _share(table: claims.Table, name: str) -> float:
  """Of the gap between uniform tokens and the floor, how much is closed."""
  loss, uniform, floor = (np.mean(table[f'{name}: {x}']) for x in _PARTS)
  return (uniform - loss) / (uniform - floor)


def _beyond(
  name: str, text: str, excess: Callable[..., np.ndarray]
) -> claims.Claim:
  """The mean of an excess over losses is not above 0, over resampled studies."""
  derived = claims.computed(
    f'loss of {name} minus {text}', excess, *(f'{name}: {x}' for x in _PARTS)
  )
  return claims.below(derived, than=0.0, resampled=True)


def _near(name: str, share: float) -> claims.Claim:
  """The mean loss is at most the floor and a share of it."""
  return _beyond(
    name,
    f'{1 + share:g} times its floor',
    lambda loss, uniform, floor: loss - (1 + share) * floor,
  )


def _closes(name: str, least: float) -> claims.Claim:
  """A share of the gap to the floor is closed."""
  return _beyond(
    name,
    f'that which closes {least:.0%} of the gap between uniform and its floor',
    lambda loss, uniform, floor: loss - uniform + least * (uniform - floor),
  )


def _explain(results: study.Results) -> str:
  table = _own(results)
  closed = ', '.join(f'{name} {_share(table, name):.0%}' for name in _KNOWN[2:])
  return (
    'Nats a trial, from trial 15 on, of studies of held-out families with 2 to 4 '
    'parameters of all types. Seeds are studies. Share of the gap between uniform '
    f'legal tokens and the floor that is closed: {closed}.'
  )


def _bars(results: study.Results) -> figures.Panel:
  table = {label: x.mean() for label, x in _own(results).items()}
  of = lambda part: [table.get(f'{name}: {part}', np.nan) for name in NAMES]
  return figures.Bars(
    names=NAMES,
    groups={'OptFormer': of('loss')},
    marks={'floor': of('floor'), 'uniform': of('uniform')},
    xlabel='nats a trial',
  )


def _matrix(results: study.Results) -> figures.Panel:
  values = [
    [results(writer, 'loss', at=name).mean() for writer in NAMES]
    for name in NAMES
  ]
  return figures.Shades(
    rows=NAMES,
    columns=NAMES,
    values=values,
    xlabel='who wrote the studies',
    ylabel='name that the model is told',
  )


_CLAIM = 'OptFormer imitates each algorithm that its text names'
_row = functools.partial(
  rows.Row, study=STUDY, ours=_own, figure=_bars, explain=_explain
)

ROWS = (
  _row(
    id='imitation-uniform',
    claim=f'{_CLAIM}: random search and shuffled grids reach their floors.',
    trend='losses within 1 % of the entropy of the algorithms',
    claims=tuple(_near(name, 0.01) for name in _KNOWN[:2]),
    headline='random_search: loss',
  ),
  _row(
    id='imitation-structured',
    claim=f'{_CLAIM}: hill climbing and evolution, which copy parents.',
    trend='60 % of the gap to the floor is closed for hill climbing, 35 % for '
    'evolution',
    claims=(_closes('hill_climb', 0.6), _closes('reg_evo', 0.35)),
    headline='hill_climb: loss',
  ),
  _row(
    id='imitation-floors',
    claim=f'{_CLAIM}, to 15 % of what is possible.',
    trend='losses of the stochastic algorithms without a grid within 15 % of their '
    'floors',
    claims=tuple(
      _near(name, 0.15) for name in ('random_search', 'hill_climb', 'reg_evo')
    ),
    headline='reg_evo: loss',
  ),
  _row(
    id='imitation-names',
    claim='Proposals depend on the name: with a wrong one they are unlikely.',
    ours=_others,
    trend='a wrong name costs a nat a trial or more of every algorithm whose '
    'proposals depend on what was seen',
    claims=tuple(
      claims.above(
        f'{name}: wrong names',
        than=f'{name}: right name',
        margin=1.0,
        paired=True,
        resampled=True,
      )
      for name in _STRUCTURED
    ),
    figure=_matrix,
    explain='Nats a trial, from trial 15 on, of held-out families. Wrong names: '
    'the mean over the six others. Seeds are studies.',
    headline='hill_climb: wrong names',
  ),
)
