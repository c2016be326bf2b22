"""A learnt update rule, by evolution and by meta-gradients, beside REINFORCE."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from hpo.autorl import evolution, lpg, lpg_training, programs, tabular
from papers import claims, figures, rows, study
from papers.autorl import online
from rl.es import strategy

_TABLES = tabular.Tables(states=6)
_RULE = lpg.Rule(lpg.UpdateRule(width=16), _TABLES, lanes=4, steps=10)
_LENGTH, _RECORDS = 8, 10
EVOLVED, META = 'LPG by evolution', 'LPG by meta-gradients'
REINFORCE = 'REINFORCE, best rate'
_RATES = (10.0, 30.0, 100.0, 300.0)


@dataclasses.dataclass(frozen=True)
class Reinforce:
  """Tabular REINFORCE with the steps of LPG's agents."""

  rate: float  # Of steepest ascent.
  rule: lpg.Rule = _RULE  # Sizes of rollouts and tasks.
  length: int = _LENGTH  # Updates of a life.
  tasks: int = 256  # Number of agents, each in a task of its own.


def reinforce(
  setting: Reinforce, key: Key[Array, '']
) -> Float[Array, ' tasks']:
  """Scores of agents at the end of their lives."""
  rule, tables = setting.rule, setting.rule.tables

  def surrogate(logits: Array, seen: tabular.Rollout) -> Array:
    def back(after: Array, row: tuple) -> tuple[Array, Array]:
      reward, done = row
      total = reward + tables.discount * after * (1 - done)
      return total, total

    zeros = jnp.zeros_like(seen.reward[0])
    rows_ = seen.reward, seen.done.astype(jnp.float32)
    to_go = jax.lax.scan(back, zeros, rows_, reverse=True)[1]
    log_p = jax.nn.log_softmax(logits)[seen.state, seen.action]
    # The mean return of the batch is the baseline.
    return jnp.mean(log_p * (to_go - jnp.mean(to_go)))

  def one(key: Key[Array, '']) -> Array:
    task_key, lanes_key, life_key = jax.random.split(key, 3)
    task = tables.draw(task_key)
    state = tables.begin(task, lanes_key, rule.lanes)

    def step(carry: tuple, key: Array) -> tuple[tuple, None]:
      logits, state = carry
      seen = tables.play(task, logits, state, key, rule.steps)
      slope = jax.grad(surrogate)(logits, seen)
      return (logits + setting.rate * slope, seen.last), None

    keys = jax.random.split(life_key, setting.length)
    first = rule.newborn().policy, state
    (logits, _), _ = jax.lax.scan(step, first, keys)
    return tables.score(task, logits)

  return jax.vmap(one)(jax.random.split(key, setting.tasks))


def run(setting: Any, *, seeds: Sequence[int]) -> list[study.Record]:
  """Curves of meta-training, or scores of REINFORCE, for each seed."""
  if isinstance(setting, online.Setting):
    return online.run(setting, seeds=seeds)
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  one = jax.jit(jax.vmap(lambda key: reinforce(setting, key).mean()))
  return [{'score': [float(score)]} for score in one(keys)]


def _evolved(generations: int) -> online.Setting:
  es = strategy.Strategy(
    strategy.ESConfig(num_pairs=8, sigma=0.1, normalize=False), optax.adam(0.03)
  )
  objective = lpg_training.Lifetimes(
    _RULE, tasks=4, length=_LENGTH, test_tasks=256
  )
  program = evolution.Evolved(objective, es)
  return online.Setting(program, generations, _RECORDS)


def _descent(rate: float, updates: int, step: Array) -> Array:
  """Minus a step size that falls to 0 as a cosine does."""
  return -optax.cosine_decay_schedule(rate, updates)(step)


def _meta_trained(updates: int) -> online.Setting:
  objective = lpg_training.Lifetimes(
    _RULE, tasks=32, length=_LENGTH, test_tasks=256
  )
  # With a constant step a rule that is good after a third of the updates gets
  # worse again, in some seeds.
  steps = optax.scale_by_schedule(functools.partial(_descent, 3e-3, updates))
  adam = optax.chain(optax.scale_by_adam(), steps)
  program = lpg_training.MetaTrained(objective, adam, updates=4)
  return online.Setting(program, updates, _RECORDS)


def _ours(results: study.Results) -> dict[str, Any]:
  rates = [arm for arm in results.arms if arm.startswith('REINFORCE')]
  best = max(rates, key=lambda arm: results.last(arm, 'score').mean())
  return {
    EVOLVED: results.last(EVOLVED, 'score'),
    META: results.last(META, 'score'),
    REINFORCE: results.last(best, 'score'),
  }


def _explain(results: study.Results) -> str:
  spent = {arm: results.last(arm, programs.STEPS)[0] for arm in (EVOLVED, META)}
  rates = '; '.join(
    f'{arm.removeprefix("REINFORCE, ")} {results.last(arm, "score").mean():.3f}'
    for arm in results.arms
    if arm.startswith('REINFORCE')
  )
  return (
    'Random tasks with 6 states and 3 actions; a life is 8 updates on 4 lanes of 10 '
    'steps; a score is 0 for the uniform policy and 1 for the best one, exact, mean '
    'over 256 new tasks. Meta-training took '
    + ' and '.join(f'{x / 1e6:.1f} M steps ({arm})' for arm, x in spent.items())
    + f'. The rate of REINFORCE was chosen on the tasks that judge: {rates}.'
  )


ROWS = (
  rows.Row(
    id='update-rule',
    claim='A learnt update rule teaches agents in new tasks better than REINFORCE with '
    'the same steps in their lives (score at the end of life).',
    study=study.Study(
      run,
      {
        EVOLVED: _evolved(300),
        META: _meta_trained(500),
        **{f'REINFORCE, rate {rate:g}': Reinforce(rate) for rate in _RATES},
      },
      seeds=8,
      together=True,
    ),
    ours=_ours,
    trend='both ways of meta-training above REINFORCE with its best rate',
    claims=(claims.above(EVOLVED, REINFORCE), claims.above(META, REINFORCE)),
    figure=figures.of_arms(
      {'score': 'score on new tasks'},
      programs.STEPS,
      arms=(EVOLVED, META),
      spread='mean',
      levels=lambda results: {
        REINFORCE: float(np.mean(_ours(results)[REINFORCE]))
      },
      xscale='log',
      xlabel='environment steps of meta-training',
    ),
    explain=_explain,
    headline=EVOLVED,
  ),
)
