"""Tuners within a run: meta-gradients, level replay, augmentations."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax

from hpo.autorl import (
  actor_critic,
  augmentations,
  bandits,
  chain,
  curricula,
  drac,
  knobs,
  levels,
  mgrl,
  programs,
)
from papers import claims, figures, rows, study
from rl import networks, ppo
from rl.envs import lanes, mazes


@dataclasses.dataclass(frozen=True)
class Setting:
  """A program and how long it runs."""

  program: programs.Program  # What to run.
  iterations: int  # Of each seed.
  records: int = 10  # Rows of the record.


def run(setting: Setting, *, seeds: Sequence[int]) -> list[study.Record]:
  """Curves of a program, for each seed, by the last part of their name."""
  found = programs.run(
    setting.program, seeds, setting.iterations, records=setting.records
  )
  return [
    {
      name.replace('eval/episode_return', 'test').split('/')[-1]: x[i]
      for name, x in found.items()
    }
    for i in range(len(seeds))
  ]


def _iterations(results: study.Results) -> np.ndarray:
  one = results.settings[results.arms[0]]
  return (np.arange(one.records) + 1) * (one.iterations // one.records)


# Meta-gradients on a chain whose best discount is known.
UP, DOWN, FIXED = 'from 0.8', 'from 0.98', 'fixed 0.8'
_CHAIN = chain.Chain()


def _chain(start: float, outer: float | None) -> Setting:
  """Actor-critic on the chain; without an outer discount, a constant one."""
  inner = actor_critic.Loss(discount=start, entropy_cost=0.05)
  learnt: dict[str, Any] = {}
  if outer is not None:
    learnt = {
      'knobs': (knobs.Knob('discount', start),),
      'outer': actor_critic.Loss(discount=outer, entropy_cost=0.0),
    }
  agent = mgrl.MetaActorCritic(
    inner=inner, learning_rate=0.02, meta_optimizer=optax.adam(0.03), **learnt
  )
  make = lambda count: lanes.Lanes(_CHAIN, count)
  return Setting(programs.Agent(agent, make(16), make(100)), 600, 20)


def _chain_figure(results: study.Results) -> list[figures.Panel]:
  options = {'x': _iterations(results), 'xlabel': 'iteration'}
  learnt = figures.by_arm(
    results,
    'discount',
    arms=(UP, DOWN),
    ylabel='learnt discount',
    levels={'both rewards worth the same': _CHAIN.threshold},
    **options,
  )
  return [learnt, figures.by_arm(results, 'test', ylabel='return', **options)]


_MGRL = rows.Row(
  id='chain',
  claim='A discount that is learnt by meta-gradients moves to where the outer '
  'objective is best (learnt discount, and undiscounted return).',
  study=study.Study(
    run,
    {UP: _chain(0.8, 0.99), DOWN: _chain(0.98, 0.7), FIXED: _chain(0.8, None)},
    seeds=5,
    together=True,
  ),
  ours=lambda results: (
    rows.table(results, 'discount', form='discount {arm}', arms=(UP, DOWN))
    | rows.table(results, 'test', form='return {arm}', arms=(UP, FIXED))
  ),
  trend=f'from 0.8 it ends above {_CHAIN.threshold:.3f}, from 0.98 below; returns '
  'with the learnt discount are higher than with the constant one',
  claims=(
    claims.above(f'discount {UP}', _CHAIN.threshold),
    claims.below(f'discount {DOWN}', _CHAIN.threshold),
    claims.above(f'return {UP}', f'return {FIXED}', margin=0.5),
  ),
  figure=_chain_figure,
  explain='Ten states: 1 at once, or 2 after ten steps. Both are worth the same at a '
  f'discount of {_CHAIN.threshold:.3f}. The outer objective has a discount of 0.99 '
  'for the run that starts at 0.8, and of 0.7 for the one that starts at 0.98. '
  'Actor-critic with 16 lanes of 20 steps, Adam at 0.02; one inner update; the '
  'discount moves by Adam at 0.03 through a sigmoid.',
  headline=f'discount {UP}',
)


def _last_tests(results: study.Results) -> dict[str, np.ndarray]:
  return {arm: results(arm, 'test')[:, -3:].mean(1) for arm in results.arms}


# Level replay on mazes, a part of which has no way to the goal.
_LEVELS = 200
UNIFORM, PLR, ROBUST = 'uniform', 'PLR', 'robust PLR'


def _mazes(replay: levels.Replay, uniform: bool = False) -> Setting:
  make = lambda **options: mazes.Maze(walls=0.5, max_steps=24, **options)
  agent = ppo.PPO(
    encoder=networks.MLP((64, 64)),
    unroll_length=48,
    num_minibatches=4,
    num_epochs=4,
    normalize_rewards=False,
    learning_rate=1e-3,
    discount=0.95,
    trace=0.9,
    entropy_cost=0.02,
  )
  program = curricula.Program(
    agent,
    make(solvable=False, num_levels=_LEVELS),
    curricula.PrioritizedLevels(replay, uniform=uniform),
    num_lanes=16,
    eval_env=lanes.Lanes(make(start_level=10_000), 256),
  )
  return Setting(program, 300, 10)


def _mazes_told(results: study.Results) -> str:
  played = '; '.join(
    f'{arm} {results(arm, "episode_return")[:, -3:].mean():.2f}'
    for arm in results.arms
  )
  return (
    'Mazes of 5x5 cells, half of them walls, 200 training levels, many without a way '
    'to the goal; 256 solvable levels to test, mean of the last three records. PPO, 16 '
    'lanes of 48 steps, 300 iterations. Ranks to the power of -1, a share of 0.3 by '
    'staleness. The published power of -10 takes the first rank nearly always, and '
    'lanes that draw at once would all play one level. Mean returns of the episodes '
    f'that were played at the end: {played}. Where those of PLR are near 1, the levels '
    'with the largest scores are solved already: a short way gives many rewards per '
    'step, and so large errors of the values per step, while hard levels are played '
    'less than in uniform draws.'
  )


_PLR = rows.Row(
  id='level-replay',
  claim='Prioritised level replay generalises better than uniform levels at equal '
  'steps (share of new, solvable levels that are solved).',
  study=study.Study(
    run,
    {
      UNIFORM: _mazes(levels.Replay(_LEVELS), uniform=True),
      PLR: _mazes(
        levels.Replay(_LEVELS, temperature=1.0, stale=0.3, replay=None)
      ),
      ROBUST: _mazes(
        levels.Replay(
          _LEVELS, temperature=1.0, stale=0.3, replay=0.5, robust=True
        )
      ),
    },
    seeds=5,
    together=True,
  ),
  ours=_last_tests,
  trend='PLR above uniform, robust PLR above uniform',
  claims=(claims.above(PLR, UNIFORM), claims.above(ROBUST, UNIFORM)),
  figure=figures.of_arms(
    {'test': 'solved test levels', 'seen': 'share of levels seen'},
    lambda results: results.curves(UNIFORM, 'environment_steps')[0],
    spread='mean',
    xlabel='environment steps',
  ),
  explain=_mazes_told,
  headline=PLR,
)

# Augmentations on mazes whose colours say nothing.
PLAIN, UCB = 'PPO', 'UCB-DrAC'
_ARMS = (
  augmentations.color_jitter,
  augmentations.crop,
  augmentations.cutout,
  augmentations.flip,
)


def _colors(augmented: bool) -> Setting:
  make = lambda **options: mazes.Maze(
    cells=8, walls=0.2, colors=True, max_steps=32, **options
  )
  algorithm: Any = ppo.PPO(
    encoder=networks.MLP((64, 64)),
    unroll_length=32,
    num_minibatches=4,
    num_epochs=3,
    learning_rate=1e-3,
    discount=0.95,
    normalize_rewards=False,
  )
  if augmented:
    bandit = bandits.ArmWindows(len(_ARMS))
    algorithm = drac.DrAC(algorithm, _ARMS, bandit)
  program = programs.Agent(
    algorithm,
    lanes.Lanes(make(num_levels=30), 32),
    lanes.Lanes(make(start_level=10_000), 256),
  )
  return Setting(program, 400, 10)


def _draws(results: study.Results) -> dict[str, np.ndarray]:
  """Shares of draws of the bandit, [seeds, records]."""
  return {f.__name__: results(UCB, f'pulled_{i}') for i, f in enumerate(_ARMS)}


def _colors_figure(results: study.Results) -> list[figures.Panel]:
  x = _iterations(results)
  return [
    figures.by_arm(
      results,
      'test',
      x,
      spread='mean',
      xlabel='iteration',
      ylabel='solved test levels',
    ),
    figures.lines(
      _draws(results),
      x,
      spread='pooled',
      xlabel='iteration',
      ylabel='share of draws',
    ),
  ]


_DRAC = rows.Row(
  id='augmentations',
  claim='A bandit finds the augmentation that keeps what matters, and the agent '
  'generalises better than PPO (share of new levels that are solved).',
  study=study.Study(
    run, {PLAIN: _colors(False), UCB: _colors(True)}, seeds=5, together=True
  ),
  ours=lambda results: (
    _last_tests(results)
    | {
      f'late draws of {name}': shares[:, -5:].mean(1)
      for name, shares in _draws(results).items()
    }
  ),
  trend='UCB-DrAC above PPO; colour jitter in more than half of the late draws',
  claims=(
    claims.above(UCB, PLAIN),
    claims.above('late draws of color_jitter', 0.5),
  ),
  figure=_colors_figure,
  explain='Mazes of 8x8 cells, a pixel each, whose four colours shift at random with '
  'the level; 30 training levels, 256 test levels, mean of the last three records. '
  'Late draws are those of the second half. The bandit is the published one, with a '
  'window for each arm. Returns grow while the agent learns, so the arm that was pulled '
  'last has the best window, the windows of the others are out of date, and each seed '
  'may stay with another arm. `bandits.SlidingWindow` forgets old scores of all arms.',
  headline=UCB,
)

ROWS = (_MGRL, _PLR, _DRAC)
