"""What architectures cost, and what searching for them costs."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nas.es_enas import (
  controllers,
  edges,
  operations,
  partitions,
  policies,
  scores,
  sharing,
)
from papers import claims, evolution, figures, rows, study
from papers.es_enas import runs
from rl.envs import pendulum, spaces
from rl.es import estimators, jax_evaluator
from runtime.record import ledger

# States and actions of the paper's environments.
_TASKS = {
  'Swimmer': (8, 2),
  'Reacher': (11, 2),
  'Hopper': (11, 3),
  'HalfCheetah, Walker2d': (17, 6),
  'Pusher, Striker, Thrower': (23, 7),
}
_LARGE, _COLORS = 'HalfCheetah, Walker2d', 17
_RULES: Mapping[str, sharing.Sharing] = {
  'unstructured': sharing.Dense(),
  'Toeplitz': sharing.Toeplitz(),
  'circulant': sharing.Circulant(),
  'chromatic': partitions.Partition(_COLORS),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """One policy."""

  rule: sharing.Sharing  # How its edges share weights.
  hidden: tuple[int, ...]  # Widths of its hidden layers.


def count(setting: Sizes, *, at: str) -> study.Record:
  """Exact counts of a policy of a task."""
  states, actions = _TASKS[at]
  policy = policies.feed_forward(
    spaces.Box((states,), -1.0, 1.0),
    spaces.Box((actions,), -1.0, 1.0),
    sharing=setting.rule,
    hidden=setting.hidden,
  )
  architecture = jnp.zeros(policy.space.length, jnp.int32)
  costs = jax.device_get(policy.costs(architecture))
  return {name: float(value) for name, value in costs.items()}


def _accounts(results: study.Results) -> dict[str, Any]:
  found = {
    f'{arm}, {task}: {metric}': results(arm, metric, at=task)
    for metric in ('weights', 'compression', 'bits')
    for arm in results.arms
    for task in (_TASKS if arm != _LINEAR else (_LARGE,))
  }
  toeplitz, ours = (
    results(arm, 'weights', at=_LARGE) for arm in ('Toeplitz', _LINEAR)
  )
  return found | {
    'weights of Toeplitz over the smallest policy': toeplitz / ours
  }


_LINEAR = 'chromatic, linear'
_ACCOUNTS = rows.Row(
  id='compression-accounts',
  claim='Chromatic policies save over 90 % of the parameters of unstructured ones, '
  'and the smallest has a sixth of the weights of a Toeplitz policy.',
  study=study.Study(
    count,
    {name: Sizes(rule, (41,)) for name, rule in _RULES.items()}
    | {_LINEAR: Sizes(_RULES['chromatic'], ())},
    seeds=None,
    at=list(_TASKS),
  ),
  ours=_accounts,
  trend=f'chromatic above 0.9 for {_LARGE}; 103 weights over 17 above 6',
  claims=(
    claims.above(f'chromatic, {_LARGE}: compression', 0.9),
    claims.above('weights of Toeplitz over the smallest policy', 6.0),
  ),
  figure=lambda results: figures.Bars(
    names=list(_TASKS),
    groups={
      arm: [results(arm, 'compression', at=task).item() for task in _TASKS]
      for arm in _RULES
    },
    xlabel='compression, hidden layer of 41 nodes',
  ),
  published=ledger.Published(6.0, 'arXiv:2101.07415, abstract'),
  explain=f'Counts, no training: one hidden layer of 41 nodes, {_COLORS} colours, '
  'biases counted. The smallest policy is linear. Compression counts weights and '
  'biases; bits add the colour of every edge.',
  headline=f'chromatic, {_LARGE}: compression',
)


_pendulum = functools.partial(
  runs.Setting,
  env=pendulum.Pendulum,
  sharing=sharing.Dense(),
  generations=400,
  pairs=128,
  sigma=1.0,
  rate=0.2,
  optimizer=optax.adam,
  estimator=estimators.Antithetic(),
  hidden=(32,),
  init_scale=1.0,
)
_TARGETS = (16, 32, 64, 128)


_MULTIPLICATIONS = rows.Row(
  id='pendulum-multiplications',
  claim='A score that falls with the multiplications beyond a target yields '
  'networks that keep it (multiplications and return on a pendulum).',
  study=study.Study(
    runs.run,
    {
      f'T={target}': _pendulum(
        sharing=edges.Mask(),
        controller=controllers.HillClimb,
        score=scores.Product(target=target, shift=3300.0),
        # As in es_enas_mask_tiny.gin: one first state is easier than another.
        evaluator=functools.partial(jax_evaluator.JaxEvaluator, episodes=4),
        same_environments=True,
      )
      for target in _TARGETS
    },
  ),
  ours=rows.numbers('multiplications', 'final', names={'final': 'return'}),
  trend='multiplications at most the target, for every target',
  claims=[
    claims.below(f'T={target}: multiplications', target, margin=-0.5)
    for target in _TARGETS
  ],
  figure=lambda results: figures.Lines(
    lines=[
      figures.Line(
        arm, results(arm, 'multiplications'), results(arm, 'final'), style='o'
      )
      for arm in results.arms
    ],
    xlabel='multiplications of an action',
    ylabel='return of the final policy',
    xscale='log2',
  ),
  explain='128 edges, a bit for each; hill climbing; the score is (return + 3300) '
  'times min(1, T / multiplications), so 17 multiplications of 16 cost 6 % of it. '
  'All members of a generation meet the same four environments.',
  headline='T=32: multiplications',
)

_NONE, _SOME = 'ES', 'ES-ENAS'
_FREE = rows.Row(
  id='no-extra-rollouts',
  claim='The controller costs no environment steps (steps of 20 generations).',
  study=study.Study(
    runs.run,
    {
      _NONE: _pendulum(sharing=partitions.RandomPartition(16), generations=20),
      _SOME: _pendulum(
        sharing=partitions.Partition(16),
        controller=controllers.Evolution,
        generations=20,
      ),
    },
  ),
  ours=rows.numbers('steps', form='{arm}, {metric}'),
  trend='the same number',
  claims=(
    claims.Check(
      'steps are equal for every seed',
      lambda table: (
        list(table[f'{_NONE}, steps']) == list(table[f'{_SOME}, steps'])
      ),
    ),
  ),
  figure=figures.bars({'': 'steps'}, xlabel='environment steps'),
  explain='The time of the controller is a subject of the benchmarks: '
  '`python -m benchmarks es_enas`.',
  headline=f'{_SOME}, steps',
)

_OPERATIONS = rows.Row(
  id='pendulum-operations',
  claim='The controller chooses the function of every hidden node among eleven '
  '(return on a pendulum).',
  study=study.Study(
    runs.run,
    {
      'tanh': _pendulum(),
      'chosen': _pendulum(
        operations=operations.ALL, controller=controllers.HillClimb
      ),
    },
  ),
  ours=runs.levels,
  trend='every return of every generation is finite; the final policy is above '
  'the first populations',
  claims=(
    claims.Check(
      'all returns are finite',
      lambda table: bool(
        np.isfinite(
          [*table['chosen, population'], *table['chosen, final']]
        ).all()
      ),
    ),
    claims.above('chosen, final', -1000.0),
  ),
  figure=evolution.curves(),
  explain='A dense network of 32 hidden nodes; random actions have -1200.',
  headline='chosen, final',
)

ROWS = (_ACCOUNTS, _MULTIPLICATIONS, _FREE, _OPERATIONS)
