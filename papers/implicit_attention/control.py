"""Policies from pixels by ES: parity, patch sizes, distractions, noise.

All policies have an LSTM of 16 units, population and step size in common; what
differs is what they make of a picture. Runs that rows share are done once.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from papers import claims, evolution, figures, rows, study
from papers.implicit_attention import runs
from performer import attention
from rl.envs import (
  cartpole,
  distractions,
  dodge,
  lane_following,
  pixels,
  scenes,
)
from rl.implicit_attention import fronts, patches, votes
from runtime.record import ledger

IMPLICIT, EXACT, BLIND = 'implicit', 'exact', 'blind'
_RANDOM = 'random actions'
_SCALE = 0.2  # Of distractions: the medium setting of arXiv:2101.02722.
_NOISE = 'noise'
DISTRACTIONS = ('color', 'background', 'camera')
_WITHIN = 0.1  # Of the return that is compared with.


class Task(NamedTuple):
  """A game."""

  name: str  # In sentences.
  env: scenes.PixelEnvironment  # Without distractions.
  ordered: tuple[int, ...] | None = None  # See `policies.PixelPolicy`.

  def setting(self, front: nn.Module, env: Any = None) -> runs.Setting:
    """Training on the task or on a variant of it; judged on all variants."""
    tests = {name: self._distracted(**{name: _SCALE}) for name in DISTRACTIONS}
    tests[_NOISE] = self.noise
    return runs.Setting(env or self.env, front, tests, self.ordered)

  def _distracted(self, **scales: float) -> distractions.Distracted:
    return distractions.Distracted(self.env, **scales)

  @property
  def colored(self) -> distractions.Distracted:
    """The task in colours that change within an episode."""
    return self._distracted(color=_SCALE)

  @property
  def noise(self) -> distractions.Distracted:
    """The task before a background that has nothing of its own."""
    return self._distracted(background=1.0)


_SWING_UP = pixels.PixelView(cartpole.CartPoleSwingUp(), pixels.swing_up_scene)
# No policy learns to dodge, seeing or not, and few to swing up: their rows say so.
TASKS = {
  'dodge': Task('dodging what falls', dodge.Dodge(), (0, 1, 2)),
  'lane': Task('following a lane', lane_following.LaneFollowing()),
  'swing-up': Task('swinging a pole up', _SWING_UP),
}


def _rank(
  size: int = 7, stride: int = 4, count: int = 10, *, exact: bool = False
) -> fronts.Rank:
  vote = votes.Exact()
  if not exact:
    vote = votes.Implicit(attention.Favor(kernel='softmax_hyp', features=32))
  return fronts.Rank(vote, patches.Patches(size, stride), count=count)


def _study(arms: Mapping[str, runs.Setting], seeds: int = 3) -> study.Study:
  random = functools.partial(runs.random_return, next(iter(arms.values())))
  return study.Study(runs.run, arms, seeds=seeds, fixed={_RANDOM: random})


def _finals(results: study.Results) -> dict[str, np.ndarray]:
  both = (*results.arms, *results.study.fixed)
  return rows.table(results, 'final', form='{arm}', arms=both)


def _tolerance(table: claims.Table, label: str) -> float:
  return _WITHIN * abs(float(np.mean(table[label])))


_curves = evolution.curves(
  levels=lambda results: {_RANDOM: results(_RANDOM, 'final')[0]}
)
_row = functools.partial(rows.Row, curves=True, figure=_curves)


# Parity with exact attention.


def _parity_claims(table: claims.Table) -> list[claims.Claim]:
  """Above both floors by three deviations of them, and near exact attention."""
  deviation = float(np.std(table[BLIND], ddof=1))
  return [
    *(
      claims.above(arm, floor, margin=3 * deviation)
      for arm in (IMPLICIT, EXACT)
      for floor in (BLIND, _RANDOM)
    ),
    # Both have the same first parameters, perturbations and episodes by seed.
    claims.above(
      IMPLICIT, EXACT, margin=-_tolerance(table, EXACT), paired=True
    ),
  ]


def _parity(
  name: str, *, colored: bool = False, generations: int = 200, seeds: int = 3
) -> rows.Row:
  """At the end of learning, later than that of the other rows."""
  task = TASKS[name]
  env = task.colored if colored else task.env
  chosen = {IMPLICIT: _rank(), EXACT: _rank(exact=True), BLIND: fronts.Blind()}
  return _row(
    id=f'parity-{name}{"-colors" if colored else ""}',
    claim='A policy that chooses patches by implicit attention reaches the return '
    'of one with exact attention '
    f'({task.name}{" in changing colours" if colored else ""}).',
    study=_study(
      {
        arm: dataclasses.replace(
          task.setting(front, env), generations=generations
        )
        for arm, front in chosen.items()
      },
      seeds,
    ),
    ours=_finals,
    trend='both above a policy that sees nothing and above random actions, by '
    'three deviations of the former; implicit no more than '
    f'{_WITHIN:.0%} below exact',
    claims=_parity_claims,
    explain='Pictures of 48 x 48 pixels, 121 patches of 7 x 7, of which ten are '
    f'told; 32 features; {generations} generations.',
    headline=IMPLICIT,
  )


# Patch sizes.

_STRIDES = {7: 4, 5: 3, 3: 2, 1: 1}


def _bars(
  numbers: Callable[[study.Results], Mapping[str, np.ndarray]],
  tests: Sequence[str],
  label: str,
) -> Callable[[study.Results], list[figures.Panel]]:
  """The curves, and a bar for each arm and test."""

  def figure(results: study.Results) -> list[figures.Panel]:
    found = numbers(results)
    groups = {
      test: [found[f'{arm}, {test}'].mean() for arm in results.arms]
      for test in tests
    }
    bars = figures.Bars(names=results.arms, groups=groups, xlabel=label)
    return [*_curves(results), bars]

  return figure


_SIZE_TESTS = ('final', *DISTRACTIONS)


_sizes = rows.numbers(*_SIZE_TESTS, form='{arm}, {metric}')
_PATCHES = _row(
  id='patch-sizes',
  claim='Patches may be as small as single pixels: the policy is smaller, and '
  'generalises as well or better (return, clean and distracted).',
  study=_study(
    {
      f'p={size}': TASKS['lane'].setting(_rank(size, stride))
      for size, stride in _STRIDES.items()
    }
  ),
  ours=_sizes,
  trend=f'p=1 no more than {_WITHIN:.0%} below p=7, clean and in changed colours',
  claims=lambda table: [
    claims.above(
      f'p=1, {test}', f'p=7, {test}', margin=-_tolerance(table, f'p=7, {test}')
    )
    for test in ('final', 'color')
  ],
  figure=_bars(_sizes, _SIZE_TESTS, 'return of the final policy'),
  explain='Trained without distractions on following a lane. '
  f'Strides by size: {_STRIDES}. Exact attention over the 2304 pixels would have '
  'a matrix of 20 MiB for each frame.',
  headline='p=1, final',
)


# Distractions.


def _drops(results: study.Results) -> dict[str, np.ndarray]:
  """The share of the clean return that a distraction takes."""
  return {
    f'{arm}, {test}': 1 - results(arm, test) / results(arm, 'final')
    for test in DISTRACTIONS
    for arm in results.arms
  }


_FLAT, _CONVOLUTIONS = 'means of pixels', 'convolutions'


def _generalisation(name: str) -> rows.Row:
  task = TASKS[name]
  chosen = {
    IMPLICIT: _rank(),
    _CONVOLUTIONS: fronts.Convolutions(),
    _FLAT: fronts.Flat(),
  }
  return _row(
    id=f'generalisation-{name}',
    claim='A policy that sees few places loses less to distractions that it was '
    f'not trained with ({task.name}; share of the return that is lost).',
    study=_study({k: task.setting(front) for k, front in chosen.items()}),
    ours=_drops,
    unlisted=rows.numbers('final', form='{arm}, clean'),
    trend='implicit loses less than convolutions and than means of pixels, under '
    'each distraction',
    claims=[
      claims.below(f'{IMPLICIT}, {test}', f'{other}, {test}')
      for test in DISTRACTIONS
      for other in (_CONVOLUTIONS, _FLAT)
    ],
    figure=_bars(_drops, DISTRACTIONS, 'share of the return that is lost'),
    explain=lambda results: (
      f'Distractions of scale {_SCALE:g} that change within an episode. Clean '
      f'returns: {results.told(".4g", "final")}; random actions '
      f'{results(_RANDOM, "final")[0]:.4g}.'
    ),
    headline=f'{IMPLICIT}, color',
  )


# Noise.

_COUNTS = (5, 10, 20)
_CLEAN = 'trained without noise'


def _noise_returns(results: study.Results) -> dict[str, np.ndarray]:
  found = {f'K={count}': results(f'K={count}', 'final') for count in _COUNTS}
  return found | {
    _CLEAN: results(_CLEAN, _NOISE),
    _RANDOM: results(_RANDOM, 'final'),
  }


_NOISY = _row(
  id='noise-background',
  claim='Before a background of noise attention follows the noise; a policy that '
  'is trained there does better the more patches it sees (return in noise).',
  study=_study(
    {
      f'K={count}': TASKS['lane'].setting(
        _rank(count=count), TASKS['lane'].noise
      )
      for count in _COUNTS
    }
    | {_CLEAN: TASKS['lane'].setting(_rank())}
  ),
  ours=_noise_returns,
  published=ledger.Published(
    {'K=5': 452.0, 'K=10': 577.0, 'K=20': 660.0, _CLEAN: -58.0},
    'arXiv:2003.08165, article: CarRacing, exact attention',
  ),
  trend='K=5 < K=10 < K=20; K=10 above the same policy trained without noise',
  claims=(
    claims.grows([f'K={count}' for count in _COUNTS], paired=False),
    claims.above('K=10', _CLEAN),
  ),
  explain='The task is following a lane before moving waves, which cover the '
  'whole ground. That attention follows the noise is not measured, only its '
  'effect.',
  headline='K=20',
)

ROWS = (
  # Longer searches leave no corner.
  _parity('dodge', generations=100),
  # One search in three finds the lane late.
  _parity('lane', seeds=5),
  _parity('lane', colored=True, seeds=5),
  _parity('swing-up'),
  _PATCHES,
  *map(_generalisation, ('dodge', 'lane')),
  _NOISY,
)
