"""Rows about control: policies by evolution strategies, ODEtoODE and baselines.

All policies have the same heads, population, step and generations; what differs
is the flow between the heads.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import reproduce_performer_common as common
from jaxtyping import Float

from rl.envs import envpool_env, pendulum
from rl.es import backends, estimators, jax_evaluator, strategy
from rl.es import training as es_training
from rl.odetoode import accounting, baselines, bodies, heads
from runtime import mesh as mesh_lib
from runtime import report, verdicts

__all__ = [
  'LEVELS',
  'Run',
  'Setting',
  'finding',
  'models',
  'pendulum_rows',
  'swimmer_rows',
  'train',
]

# Ours beside a baseline with at least five times its parameters.
LEVELS = (('ODEtoODE-ISO', 'NANODE-5'), ('ODEtoODE-ISO, half width', 'BaseODE'))
_FEWER = 5.0
_WITHIN = 0.1  # Of the span from random actions to the best policy.


@dataclasses.dataclass(frozen=True)
class Setting:
  """An experiment.

  Attributes:
    name: of the task.
    env: makes it.
    evaluator: makes what runs rollouts; see `rl.es.training.ESTrainer`.
    generations: of a run.
    pairs: directions per generation.
    rate: step size; returns are divided by their deviation.
    constrain_io: see `heads.Policy`.
    width: d.
    sigma: of perturbations.
    episodes: that judge a policy.
  """

  name: str
  env: Callable[[], Any]
  evaluator: Callable[..., Any]
  generations: int
  pairs: int
  rate: float
  constrain_io: bool
  width: int = 16
  sigma: float = 0.1
  episodes: int = 32


class Run(NamedTuple):
  """How a run went.

  Attributes:
    returns: mean of the population, for each generation.
    final: mean return of the last policy.
  """

  returns: Float[np.ndarray, ' g']
  final: float


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


_TINY = {
  'pendulum': Setting(
    'pendulum', pendulum.Pendulum, jax_evaluator.JaxEvaluator,
    generations=80, pairs=32, rate=0.05, constrain_io=False,
  ),
  'swimmer': Setting(
    'swimmer',
    lambda: envpool_env.EnvPoolVector('Swimmer-v4', num_lanes=32),
    backends.Lanes(max_steps=400),
    generations=25, pairs=16, rate=0.05, constrain_io=True, episodes=32,
  ),
}  # fmt: skip
_PAPER = {
  'pendulum': dataclasses.replace(
    _TINY['pendulum'], generations=300, pairs=100, rate=0.01
  ),
  'swimmer': dataclasses.replace(
    _TINY['swimmer'],
    env=lambda: envpool_env.EnvPoolVector('Swimmer-v4', num_lanes=200),
    evaluator=backends.Lanes(max_steps=1000),
    generations=500,
    pairs=100,
    rate=0.01,
  ),
}


def train(
  body: bodies.Body, setting: Setting, seeds: Sequence[int]
) -> tuple[list[Run], float]:
  """Trains policies.

  Returns:
    A run per seed, and the mean return of random actions.
  """
  trainer = es_training.ESTrainer(
    env=setting.env(),
    policy=functools.partial(
      heads.Policy, body=body, constrain_io=setting.constrain_io
    ),
    config=strategy.ESConfig(
      setting.pairs, setting.sigma, estimators.Antithetic()
    ),
    optimizer=optax.sgd(setting.rate),
    evaluator=setting.evaluator,
    eval_episodes=setting.episodes,
  )
  try:
    step, runs = None, []
    for seed in seeds:
      experiment = trainer.experiment(
        seed=seed, mesh=mesh_lib.MeshConfig().make()
      )
      # One program for all seeds: only the state differs.
      step = step or jax.jit(experiment.step)
      state, returns = experiment.init(), []
      for _ in range(setting.generations):
        if experiment.observe is not None:
          experiment.observe(state)
        state, metrics = step(state, next(experiment.batches))
        returns.append(metrics)
      values = [float(m.compute()['episode_return']) for m in returns]
      (evaluate,) = experiment.evaluators.values()
      final = float(evaluate(state)['episode_return'])
      runs.append(Run(np.asarray(values), final))
    return runs, float(trainer.random_returns(0)['center'].mean())
  finally:
    trainer.close()


def _rows(
  name: str, scale: str, seeds: Sequence[int], setting: Setting | None
) -> list[common.Finding]:
  setting = setting or (_PAPER if scale == 'paper' else _TINY)[name]
  runs, params, random = {}, {}, 0.0
  for label, body in models(setting.width).items():
    runs[label], random = train(body, setting, seeds)
    params[label] = accounting.count_params(body)
    finals = [round(run.final, 1) for run in runs[label]]
    print(f'{label}: {finals}, random {random:.1f}', flush=True)
  return [finding(runs, params, random, setting)]


def pendulum_rows(
  scale: str, seeds: Sequence[int], *, setting: Setting | None = None
) -> list[common.Finding]:
  """Swing-up of a pendulum in JAX.

  Args:
    scale: 'tiny' or 'paper'.
    seeds: of the runs.
    setting: another experiment.

  Returns:
    The finding.
  """
  return _rows('pendulum', scale, seeds, setting)


def swimmer_rows(
  scale: str, seeds: Sequence[int], *, setting: Setting | None = None
) -> list[common.Finding]:
  """MuJoCo's Swimmer by EnvPool; arguments as `pendulum_rows`."""
  return _rows('swimmer', scale, seeds, setting)


def finding(
  runs: Mapping[str, Sequence[Run]],
  params: Mapping[str, int],
  random: float,
  setting: Setting,
) -> common.Finding:
  """Judges whether few parameters reach the level of many.

  Args:
    runs: by model, one per seed.
    params: of the flows.
    random: mean return of random actions.
    setting: the experiment.
  """
  finals = {name: tuple(r.final for r in found) for name, found in runs.items()}
  best = max(float(np.mean(values)) for values in finals.values())
  span = best - random
  parts, notes = [], []
  for ours, other in LEVELS:
    fewer = params[other] / params[ours]
    parts.append('holds' if fewer >= _FEWER else 'fails')
    parts.append(
      verdicts.verdict(
        finals[ours],
        finals[other],
        higher_is_better=True,
        margin=-_WITHIN * max(span, 0.0),
      )
    )
    low, high = verdicts.interval(finals[ours], finals[other])
    notes.append(
      f'{ours} minus {other}: {np.mean(finals[ours]) - np.mean(finals[other]):+.4g} '
      f'[{low:+.4g}, {high:+.4g}] with {fewer:.1f} times fewer parameters'
    )
  counts = ', '.join(f'{name} {n:,}' for name, n in params.items())
  ours = {f'{name}, final return': values for name, values in finals.items()}
  return common.Finding(
    {
      'id': f'{setting.name}-returns',
      'claim': f'Policies for {setting.name} by ODEtoODE reach the level of '
      'baselines with several times their parameters.',
      'ours': ours | {'random actions': (random,)},
      'published': 'not found',
      'trend': f'ODEtoODE-ISO no more than {_WITHIN:.0%} of the span from random '
      f'to best below BaseODE and NANODE with at least {_FEWER:g} times fewer '
      'parameters of the flow (95 % interval)',
      'verdict': common.combine(parts),
      'explanation': f'{"; ".join(notes)}. The band is {_WITHIN * span:.4g} wide. '
      f'{setting.generations} generations of {setting.pairs} pairs, sigma '
      f'{setting.sigma:g}, rate {setting.rate:g}, the same heads for all; width '
      f'{setting.width} where not said. Parameters of the flows: {counts}.',
    },
    functools.partial(_picture, runs),
  )


def _picture(runs: Mapping[str, Sequence[Run]], path: pathlib.Path) -> None:
  lines = {
    name: (
      np.arange(1, len(found[0].returns) + 1),
      np.stack([run.returns for run in found]),
    )
    for name, found in runs.items()
  }
  labels = ('generation', 'mean return of the population')
  report.quartiles(lines, path, axes_labels=labels)
