"""Rows about control: policies by evolution strategies, ODEtoODE and baselines.

All policies have the same heads, population and generations; what differs is the
flow between the heads, and the step size where it is chosen for each from the
same few, by short runs with a seed that is not reported.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import reproduce_common as common
from jaxtyping import Float

from rl.envs import envpool_env, pendulum
from rl.es import backends, estimators, jax_evaluator, policies, strategy
from rl.es import training as es_training
from rl.odetoode import accounting, baselines, bodies, heads
from runtime.devices import mesh as mesh_lib
from runtime.record import tables, verdicts

__all__ = [
  'LEVELS',
  'Run',
  'Setting',
  'Trained',
  'constant_return',
  'finding',
  'models',
  'pendulum_rows',
  'swimmer_levels_rows',
  'swimmer_rows',
  'train',
]

# Ours beside a baseline with at least five times its parameters.
LEVELS = (('ODEtoODE-ISO', 'NANODE-5'), ('ODEtoODE-ISO, half width', 'BaseODE'))
_FEWER = 5.0
_WITHIN = 0.1  # Of the span from random actions to the best policy.
RANDOM, CONSTANT = 'random actions', 'best constant action'
_TRIAL_SEED = 1000  # Of the runs that choose a step size; never reported.
_LAST = 3  # Generations that judge such a run.


@dataclasses.dataclass(frozen=True)
class Setting:
  """An experiment.

  Attributes:
    name: of the task.
    env: makes it.
    evaluator: makes what runs rollouts; see `rl.es.training.ESTrainer`.
    generations: of a run.
    pairs: directions per generation.
    rates: step sizes to choose from; returns are divided by their deviation.
    constrain_io: see `heads.Policy`, as the next two.
    readout_scale: factor on the first readout.
    squash: of outputs into the box of actions.
    trial: generations of the runs that choose.
    width: d.
    sigma: of perturbations.
    episodes: that judge a policy.
    names: models, all if empty.
    row: what the finding is called after the task.
  """

  name: str
  env: Callable[[], Any]
  evaluator: Callable[..., Any]
  generations: int
  pairs: int
  rates: tuple[float, ...]
  constrain_io: bool
  readout_scale: float = 1.0
  squash: str = 'clip'
  trial: int = 0
  width: int = 16
  sigma: float = 0.1
  episodes: int = 32
  names: tuple[str, ...] = ()
  row: str = 'returns'


class Run(NamedTuple):
  """How a run went.

  Attributes:
    returns: mean of the population, for each generation.
    final: mean return of the last policy.
  """

  returns: Float[np.ndarray, ' g']
  final: float


class Trained(NamedTuple):
  """What training gave.

  Attributes:
    runs: one per seed.
    rate: the step size.
    tried: what the population's mean return came to, by step size; empty if
      there was no choice.
    random: mean return of random actions.
  """

  runs: list[Run]
  rate: float
  tried: dict[float, float]
  random: float


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
    generations=80, pairs=32, rates=(0.05,), constrain_io=False,
  ),
  # A readout of zero: no policy begins at a bound of the actions, where the
  # swimmer's returns are flat. By orthonormal heads up to a quarter of them are.
  'swimmer': Setting(
    'swimmer',
    lambda: envpool_env.EnvPoolVector(
      'Swimmer-v4', num_lanes=32, num_threads=1
    ),
    backends.Lanes(max_steps=500),
    generations=30, pairs=16, rates=(0.02, 0.05, 0.1), constrain_io=False,
    readout_scale=0.0, squash='tanh', trial=12,
  ),
}  # fmt: skip
# Longer, and only those that are compared.
_TINY['swimmer_levels'] = dataclasses.replace(
  _TINY['swimmer'],
  row='levels',
  generations=80,
  names=tuple(itertools.chain(*LEVELS)),
)
_PAPER = {
  'pendulum': dataclasses.replace(
    _TINY['pendulum'], generations=300, pairs=100, rates=(0.01,)
  ),
  'swimmer': Setting(
    'swimmer',
    lambda: envpool_env.EnvPoolVector('Swimmer-v4', num_lanes=200),
    backends.Lanes(max_steps=1000),
    generations=500, pairs=100, rates=(0.01,), constrain_io=True,
  ),
}  # fmt: skip
_PAPER['swimmer_levels'] = dataclasses.replace(
  _PAPER['swimmer'],
  row='levels',
  names=_TINY['swimmer_levels'].names,
)


def train(body: bodies.Body, setting: Setting, seeds: Sequence[int]) -> Trained:
  """Trains policies, after the choice of a step size if there are several."""
  env = setting.env()
  # One evaluator, so that its programs are compiled once.
  evaluator = functools.cache(setting.evaluator)
  make = functools.partial(_trainer, body, setting, env, evaluator)
  try:
    tried = {}
    if len(setting.rates) > 1:
      for rate in setting.rates:
        returns, _ = _run(make(rate), _TRIAL_SEED, setting.trial)
        tried[rate] = float(returns[-_LAST:].mean())
    rate = max(tried, key=tried.__getitem__) if tried else setting.rates[0]
    trainer = make(rate)
    runs = []
    for seed in seeds:
      returns, evaluate = _run(trainer, seed, setting.generations)
      runs.append(Run(returns, evaluate()))
    random = float(trainer.random_returns(0)['center'].mean())
    return Trained(runs, rate, tried, random)
  finally:
    make(setting.rates[0]).close()


def _trainer(
  body: bodies.Body,
  setting: Setting,
  env: Any,
  evaluator: Callable[..., Any],
  rate: float,
) -> es_training.ESTrainer:
  policy = functools.partial(
    heads.Policy,
    body=body,
    constrain_io=setting.constrain_io,
    readout_scale=setting.readout_scale,
    squash=setting.squash,
  )
  return es_training.ESTrainer(
    env=env,
    policy=policy,
    config=strategy.ESConfig(
      setting.pairs, setting.sigma, estimators.Antithetic()
    ),
    optimizer=optax.sgd(rate),
    evaluator=evaluator,
    eval_episodes=setting.episodes,
  )


def _run(
  trainer: es_training.ESTrainer, seed: int, generations: int
) -> tuple[Float[np.ndarray, ' g'], Callable[[], float]]:
  """Mean returns of the populations, and what evaluates the last policy."""
  experiment = trainer.experiment(seed=seed, mesh=mesh_lib.MeshConfig().make())
  step, state = jax.jit(experiment.step), experiment.init()
  returns = []
  for _ in range(generations):
    if experiment.observe is not None:
      experiment.observe(state)
    state, metrics = step(state, next(experiment.batches))
    returns.append(float(metrics.compute()['episode_return']))
  (evaluate,) = experiment.evaluators.values()
  return np.asarray(returns), lambda: float(evaluate(state)['episode_return'])


def constant_return(setting: Setting, *, repeats: int = 3) -> float:
  """The best mean return of an action that never changes.

  Args:
    setting: the experiment.
    repeats: episodes of each.

  Returns:
    The greatest, over all combinations of the bounds and the middle.
  """
  env = setting.env()
  policy = policies.MLP(env.observation_space, env.action_space, hidden=())
  count = policies.num_outputs(env.action_space)
  # Outputs go through tanh: 10 is the bound.
  corners = np.array([*itertools.product((-10.0, 0.0, 10.0), repeat=count)])
  thetas = np.zeros((len(corners), policy.size), np.float32)
  thetas[:, -count:] = corners
  evaluator = setting.evaluator(env=env, policy=policy, mesh=None, clip=None)
  keys = jax.random.split(jax.random.key(0), repeats * len(thetas))
  found = evaluator.evaluate(
    jax.numpy.asarray(np.tile(thetas, (repeats, 1))), keys, None
  )
  returns = np.asarray(found.returns).reshape(repeats, -1)
  if isinstance(env, envpool_env.EnvPoolVector):
    env.close()
  return float(returns.mean(0).max())


def _rows(
  name: str, scale: str, seeds: Sequence[int], setting: Setting | None
) -> list[common.Finding]:
  setting = setting or (_PAPER if scale == 'paper' else _TINY)[name]
  trained, params = {}, {}
  for label, body in models(setting.width).items():
    if setting.names and label not in setting.names:
      continue
    found = trained[label] = train(body, setting, seeds)
    params[label] = accounting.count_params(body)
    finals = [round(run.final, 1) for run in found.runs]
    print(f'{label}: {finals}, rate {found.rate:g}, {found.tried}', flush=True)
  return [finding(trained, params, constant_return(setting), setting)]


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


def swimmer_levels_rows(
  scale: str, seeds: Sequence[int], *, setting: Setting | None = None
) -> list[common.Finding]:
  """The same, of the models in `LEVELS`; arguments as `pendulum_rows`."""
  return _rows('swimmer_levels', scale, seeds, setting)


def finding(
  trained: Mapping[str, Trained],
  params: Mapping[str, int],
  constant: float,
  setting: Setting,
) -> common.Finding:
  """Judges whether few parameters reach the level of many.

  Args:
    trained: by model.
    params: of the flows.
    constant: the best return of an action that never changes.
    setting: the experiment.
  """
  finals = {
    name: tuple(run.final for run in found.runs)
    for name, found in trained.items()
  }
  random = next(iter(trained.values())).random
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
  ours = {f'{name}, final return': values for name, values in finals.items()}
  return common.Finding(
    {
      'id': f'{setting.name}-{setting.row}',
      'claim': f'Policies for {setting.name} by ODEtoODE reach the level of '
      'baselines with several times their parameters.',
      'ours': ours | {RANDOM: (random,), CONSTANT: (constant,)},
      'published': 'not found',
      'trend': f'ODEtoODE-ISO no more than {_WITHIN:.0%} of the span from random '
      f'to best below BaseODE and NANODE with at least {_FEWER:g} times fewer '
      'parameters of the flow (95 % interval)',
      'verdict': common.combine(parts),
      'explanation': f'{"; ".join(notes)}. The band is {_WITHIN * span:.4g} wide. '
      f'{_protocol(trained, params, setting)}',
    },
    functools.partial(_picture, trained, constant),
  )


def _protocol(
  trained: Mapping[str, Trained], params: Mapping[str, int], setting: Setting
) -> str:
  """How the policies were trained."""
  counts = ', '.join(f'{name} {n:,}' for name, n in params.items())
  text = (
    f'{setting.generations} generations of {setting.pairs} pairs, sigma '
    f'{setting.sigma:g}, the same heads for all (constrain_io '
    f'{setting.constrain_io}, readout_scale {setting.readout_scale:g}, '
    f'{setting.squash}), observations normalised; width {setting.width} where '
    f'not said. '
  )
  if len(setting.rates) > 1:
    chosen = ', '.join(
      f'{name} {found.rate:g} ('
      + ' / '.join(f'{value:.0f}' for value in found.tried.values())
      + ')'
      for name, found in trained.items()
    )
    text += (
      f'Step sizes chosen from {setting.rates} by {setting.trial} generations '
      f'of seed {_TRIAL_SEED} (in brackets: mean of the last {_LAST}): {chosen}. '
    )
  else:
    text += f'Step size {setting.rates[0]:g}. '
  return f'{text}Parameters of the flows: {counts}.'


def _picture(
  trained: Mapping[str, Trained], constant: float, path: pathlib.Path
) -> None:
  """Curves, thin for each seed and thick for their mean; and their table."""
  curves = {
    name: np.stack([run.returns for run in found.runs])
    for name, found in trained.items()
  }
  rows = [
    {'model': name, 'run': run, 'generation': g, 'mean_return': float(value)}
    for name, returns in curves.items()
    for run, curve in enumerate(returns)
    for g, value in enumerate(curve, 1)
  ]
  tables.write_csv(rows, path.with_name(f'{path.stem}-curves.csv'))
  fig, (axis,) = common.new_axes(1)
  fig.set_size_inches(7.5, 4.2)
  for color, (name, returns) in zip(
    common.COLORS, curves.items(), strict=False
  ):
    generations = np.arange(1, returns.shape[1] + 1)
    axis.plot(generations, returns.T, color=color, lw=0.6, alpha=0.5)
    axis.plot(generations, returns.mean(0), color=color, label=name)
  axis.axhline(constant, color='0.5', ls='--', lw=1, label=CONSTANT)
  axis.set_xlabel('generation')
  axis.set_ylabel('mean return of the population')
  axis.legend(
    frameon=False,
    fontsize='x-small',
    loc='center left',
    bbox_to_anchor=(1, 0.5),
  )
  common.save(fig, path)
