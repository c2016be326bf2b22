"""Control: policies by evolution strategies, ODEtoODE and its baselines.

All policies have the same heads, population and generations; what differs is the
flow between the heads, and the step size where it is chosen for each from the
same few, by short runs with a seed that is not reported.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from papers import claims, evolution, rows, study, training
from rl.envs import envpool_env, pendulum
from rl.es import (
  backends,
  estimators,
  jax_evaluator,
  policies,
  population,
  strategy,
)
from rl.es import training as es_training
from rl.odetoode import accounting, baselines, bodies, heads

# Ours beside a baseline with at least five times its parameters.
LEVELS = (('ODEtoODE-ISO', 'NANODE-5'), ('ODEtoODE-ISO, half width', 'BaseODE'))
_FEWER = 5.0
_WITHIN = 0.1  # Of the span from random actions to the best policy.
_RANDOM, _CONSTANT = 'random actions', 'best constant action'
_LAST = 3  # Generations that judge a short run.


@dataclasses.dataclass(frozen=True)
class Setting:
  """An experiment."""

  env: Callable[[], Any]  # Makes the task.
  # Makes what runs rollouts; see `rl.es.training.ESTrainer`.
  evaluator: Callable[..., Any]
  generations: int  # Of a run.
  pairs: int  # Directions per generation.
  constrain_io: bool = False  # See `heads.Policy`, as the next two.
  readout_scale: float = 1.0  # Factor on the first readout.
  squash: str = 'clip'  # Of outputs into the box of actions.
  rate: float = 0.01  # Step size; returns are divided by their deviation.
  width: int = 16  # d.
  sigma: float = 0.1  # Of perturbations.
  episodes: int = 32  # Number of episodes that evaluate a policy.
  body: bodies.Body | None = None  # The flow.


def models(width: int) -> dict[str, bodies.Body]:
  """All bodies by name; baselines as arXiv:2006.11421 has them."""
  return {
    'ODEtoODE-ISO': bodies.ODEtoODE(width),
    'ODEtoODE-ISO, half width': bodies.ODEtoODE(width // 2),
    'BaseODE': baselines.NODE(width, hidden=(width, width)),
    'NANODE-5': baselines.NANODE(width),
    'HyperODE': baselines.HyperODE(width),
    'DeepNet': baselines.Dense(width),
    'DeepResNet': baselines.Dense(width, residual=True),
  }


def _trainer(setting: Setting) -> es_training.ESTrainer:
  return es_training.ESTrainer(
    env=setting.env(),
    policy=functools.partial(
      heads.Policy,
      body=setting.body,
      constrain_io=setting.constrain_io,
      readout_scale=setting.readout_scale,
      squash=setting.squash,
    ),
    config=strategy.ESConfig(
      setting.pairs, setting.sigma, estimators.Antithetic()
    ),
    optimizer=optax.sgd(setting.rate),
    evaluator=setting.evaluator,
    eval_episodes=setting.episodes,
  )


def run(setting: Setting, *, seed: int) -> study.Record:
  """Mean returns of the populations, and that of the last policy."""
  driven, scores = training.judged(
    _trainer(setting),
    seed=seed,
    steps=setting.generations,
    records=setting.generations,
    judges=['center'],
  )
  return {
    'returns': driven.column('train/episode_return'),
    'final': scores['eval/center/episode_return'],
  }


def random_return(setting: Setting) -> study.Record:
  """Mean return of random actions."""
  return evolution.random_return(_trainer(setting))


def constant_return(setting: Setting) -> study.Record:
  """The best mean return of an action that never changes.

  Three episodes judge each corner, centre of an edge and so on of the box.
  """
  env = setting.env()
  policy = policies.MLP(env.observation_space, env.action_space, hidden=())
  count = policies.num_outputs(env.action_space)
  # Outputs go through tanh: 10 is the bound.
  corners = np.array([*itertools.product((-10.0, 0.0, 10.0), repeat=count)])
  thetas = np.zeros((len(corners), policy.size), np.float32)
  thetas[:, -count:] = corners
  evaluator = setting.evaluator(env=env, policy=policy, mesh=None, clip=None)
  keys = jax.random.split(jax.random.key(0), 3 * len(thetas))
  listed = population.Listed(jax.numpy.tile(thetas, (3, 1)))
  found = evaluator.evaluate(listed, keys, None)
  returns = np.asarray(found.returns).reshape(3, -1)
  if isinstance(env, envpool_env.EnvPoolVector):
    env.close()
  return {'final': returns.mean(0).max()}


def studies(
  setting: Setting,
  names: tuple[str, ...] = (),
  *,
  seeds: int = 3,
  rates: tuple[float, ...] = (),
  trial: int = 0,
) -> study.Study:
  """All models, or some, on one task.

  Args:
    setting: of the task.
    names: of models, all if empty.
    seeds: number of seeds.
    rates: step sizes to choose from.
    trial: generations of the runs that choose.
  """
  known = models(setting.width)
  arms = study.vary(setting, 'body', {n: known[n] for n in names or known})
  return study.Study(
    run,
    arms,
    seeds=seeds,
    fixed={
      _RANDOM: functools.partial(random_return, next(iter(arms.values()))),
      _CONSTANT: functools.partial(constant_return, setting),
    },
    trials=study.Trials(
      'rate',
      rates,
      functools.partial(dataclasses.replace, generations=trial),
      lambda record: np.mean(record['returns'][-_LAST:]),
    )
    if rates
    else None,
  )


_label = '{}, final return'.format


def _ours(results: study.Results) -> dict[str, np.ndarray]:
  finals = functools.partial(rows.table, results, 'final')
  return (
    finals(form=_label('{arm}'))
    | finals(form='{arm}', arms=tuple(results.study.fixed))
    | {
      f'{arm}, parameters': accounting.count_params(results.settings[arm].body)
      for arm in results.arms
    }
  )


def _claims(table: claims.Table) -> list[claims.Claim]:
  """Few parameters reach the level of many."""
  best = max(
    np.mean(values) for label, values in table.items() if 'final' in label
  )
  within = _WITHIN * max(best - np.mean(table[_RANDOM]), 0.0)
  found: list[claims.Claim] = []
  for ours, other in LEVELS:
    found.append(claims.above(_label(ours), than=_label(other), margin=-within))
    found.append(
      claims.Check(
        f'{ours} has at least {_FEWER:g} times fewer parameters than {other}',
        lambda table, pair=(ours, other): _fewer(table, *pair) >= _FEWER,
      )
    )
  return found


def _fewer(table: claims.Table, ours: str, other: str) -> float:
  many, few = (table[f'{name}, parameters'][0] for name in (other, ours))
  return many / few


def _row(name: str, task: str, studies: Mapping[str, study.Study]) -> rows.Row:
  return rows.Row(
    id=name,
    claim=f'Policies for {task} by ODEtoODE reach the level of baselines with '
    'several times their parameters.',
    study=studies,
    ours=_ours,
    trend=f'ODEtoODE-ISO no more than {_WITHIN:.0%} of the span from random to best '
    f'below BaseODE and NANODE with at least {_FEWER:g} times fewer parameters of '
    'the flow (95 % interval)',
    claims=_claims,
    figure=evolution.curves(
      levels=lambda results: {_CONSTANT: results(_CONSTANT, 'final')[0]}
    ),
    explain='All policies have the same heads and normalised observations. Half '
    'width is 8. Parameters are those of the flow alone.',
    headline=_label('ODEtoODE-ISO'),
    curves=True,
  )


_PENDULUM = Setting(
  pendulum.Pendulum,
  jax_evaluator.JaxEvaluator,
  generations=80,
  pairs=32,
  rate=0.05,
)
# A readout of zero: no policy begins at a bound of the actions, where the
# swimmer's returns are flat. By orthonormal heads up to a quarter of them are.
_SWIMMER = Setting(
  functools.partial(
    envpool_env.EnvPoolVector, 'Swimmer-v4', num_lanes=32, num_threads=1
  ),
  backends.Lanes(max_steps=500),
  generations=30,
  pairs=16,
  readout_scale=0.0,
  squash='tanh',
)
_LARGE = Setting(
  functools.partial(envpool_env.EnvPoolVector, 'Swimmer-v4', num_lanes=200),
  backends.Lanes(max_steps=1000),
  generations=500,
  pairs=100,
  constrain_io=True,
)
_CHOICE = {'rates': (0.02, 0.05, 0.1), 'trial': 12}
_NAMES = tuple(itertools.chain(*LEVELS))
ROWS = (
  _row(
    'pendulum-returns',
    'pendulum',
    {
      'tiny': studies(_PENDULUM),
      'paper': studies(
        dataclasses.replace(_PENDULUM, generations=300, pairs=100, rate=0.01)
      ),
    },
  ),
  _row(
    'swimmer-returns',
    'swimmer',
    {'tiny': studies(_SWIMMER, **_CHOICE), 'paper': studies(_LARGE)},
  ),
  # Longer, and only those that are compared.
  _row(
    'swimmer-levels',
    'swimmer',
    {
      'tiny': studies(
        dataclasses.replace(_SWIMMER, generations=80),
        _NAMES,
        seeds=5,
        **_CHOICE,
      ),
      'paper': studies(_LARGE, _NAMES, seeds=5),
    },
  ),
)
