"""Tuners on the task whose best settings flip in the middle of a run."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from hpo.autorl import bandits, drift_mdp, hoof, knobs, meta, traced, tuned
from hpo.autorl.population import pb2, pbt, running
from papers import claims, figures, rows, study

# Constant learning rates and entropy costs.
_GRID = [
  *itertools.product((0.1, 0.3, 1.0, 3.0, 10.0), (0.001, 0.03, 0.3, 1.0))
]
_RECORDS = 40
_UPDATES = 40  # Between changes of a bandit or population, and of a life.
Exact = Float[Array, ' t']  # Exact returns of the policy before each update.


@dataclasses.dataclass(frozen=True)
class Setting:
  """A tuner and its task."""

  # Function of the task and a key; exact returns along a run, [t], or of
  # several runs, [c, t].
  tuner: Callable[..., Any]
  # The task.
  task: drift_mdp.DriftMDP = dataclasses.field(
    default_factory=drift_mdp.DriftMDP
  )


def constants(task: drift_mdp.DriftMDP, key: Key[Array, '']) -> Array:
  """A run for each setting of the grid, [c, t]."""
  keys = jax.random.split(key, task.length)

  def one(setting: Array) -> Exact:
    zeta = dict(zip(('learning_rate', 'entropy_cost'), setting, strict=True))
    return _returns(task, task.init(key), zeta, keys)

  return jax.vmap(one)(jnp.array(_GRID, jnp.float32))


def _returns(
  task: drift_mdp.DriftMDP, start: Any, zeta: Any, keys: Key[Array, ' t']
) -> Exact:
  """Updates with constant settings."""

  def update(state: Any, key: Array) -> tuple[Any, Array]:
    found = task.update(state, zeta, key)
    return found.state, found.metrics['exact']

  return jax.lax.scan(update, start, keys)[1]


def bandit(task: drift_mdp.DriftMDP, key: Key[Array, '']) -> Exact:
  """Sliding-window UCB over four corners of the space."""
  arms = tuple(
    (('learning_rate', rate), ('entropy_cost', cost))
    for rate in (0.3, 10.0)
    for cost in (0.001, 1.0)
  )
  chosen = bandits.SlidingWindow(len(arms), window=30, bonus=0.5)
  program = tuned.BanditTuned(task, arms, chosen, _UPDATES)
  keys = jax.random.split(key, task.length // _UPDATES)
  _, found = jax.lax.scan(program.step, program.init(key), keys)
  return jnp.repeat(found['exact'], _UPDATES)


def meta_gradient(task: drift_mdp.DriftMDP, key: Key[Array, '']) -> Exact:
  """Learning rate and entropy cost by meta-gradients through an update.

  The batch of the outer loss is the first one that is learnt from afterwards.
  """
  chosen = (
    knobs.Knob('learning_rate', 1.0, 0.01, 20.0, 'LOG'),
    knobs.Knob('entropy_cost', 0.03, 0.0005, 2.0, 'LOG'),
  )
  optimizer = optax.adam(0.1)

  def update(logits: Array, free: Any, batch: Any) -> Array:
    zeta = knobs.values(chosen, free)
    grads = jax.grad(task.loss)(logits, batch, zeta['entropy_cost'])
    return task.moved(logits, grads, zeta['learning_rate'])

  def window(carry: tuple, inputs: tuple) -> tuple[tuple, Array]:
    start, batch, free, state = carry

    def step(carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
      logits, batch = carry
      time, key = inputs
      exact = task.exact(logits, task.side(time))
      after = update(logits, free, batch)
      fresh = task.play(after, time + 1, key)
      return (after, fresh), (batch, exact)

    (logits, fresh), (kept, exact) = jax.lax.scan(step, (start, batch), inputs)
    outer = lambda end: task.loss(end, fresh, 0.0)
    _, grads = meta.meta_gradient(update, outer, start, free, kept)
    change, state = optimizer.update(grads, state)
    return (logits, fresh, optax.apply_updates(free, change), state), exact

  logits, free = task.init(key).logits, knobs.initial(chosen)
  first = task.play(logits, jnp.int32(0), jax.random.fold_in(key, 1))
  inputs = jnp.arange(task.length), jax.random.split(key, task.length)
  windows = jax.tree.map(lambda x: x[:, None], inputs)  # Of one update each.
  carry = logits, first, free, optimizer.init(free)
  return jax.lax.scan(window, carry, windows)[1].reshape(-1)


def importance(task: drift_mdp.DriftMDP, key: Key[Array, '']) -> Exact:
  """HOOF: 32 candidates of one batch, by importance sampling."""

  def step(logits: Array, inputs: tuple) -> tuple[Array, Array]:
    time, key = inputs
    play_key, draw_key = jax.random.split(key)
    batch = task.play(logits, time, play_key)
    codes = traced.sample(drift_mdp.SPACE, draw_key, (32,))
    zeta = traced.zeta(drift_mdp.SPACE, codes)
    slope = lambda cost: jax.grad(task.loss)(logits, batch, cost)
    move = lambda rate, cost: task.moved(logits, slope(cost), rate)
    after = jax.vmap(move)(zeta['learning_rate'], zeta['entropy_cost'])
    found = _compared(logits, after, batch, hoof.Limits(max_kl=0.3))
    exact = task.exact(logits, task.side(time))
    return jnp.where(found.found, after[found.index], logits), exact

  inputs = jnp.arange(task.length), jax.random.split(key, task.length)
  return jax.lax.scan(step, task.init(key).logits, inputs)[1]


def _compared(
  logits: Array, after: Array, batch: tuple, limits: hoof.Limits
) -> hoof.Choice:
  place, action, reward = batch
  old, new = jax.nn.log_softmax(logits), jax.nn.log_softmax(after)
  ratio = new[:, place, action] - old[place, action]
  kl = jnp.sum(jnp.exp(old) * (old - new), -1)[:, place]
  returns = jnp.sum(reward, 0)
  return hoof.choose(
    jnp.sum(ratio, 1),
    returns,
    jnp.ones(returns.shape, bool),
    jnp.mean(kl, (1, 2)),
    limits,
  )


def population(
  task: drift_mdp.DriftMDP,
  key: Key[Array, ''],
  *,
  method: Callable[..., Any],
  size: int,
) -> Exact:
  """Mean over the members of a population, [t]."""
  _, rounds = running.run(
    task,
    method(drift_mdp.SPACE),
    key,
    size=size,
    rounds=task.length // _UPDATES,
    updates=_UPDATES,
  )
  return jnp.repeat(jnp.mean(rounds.metrics['exact'], 1), _UPDATES)


def restarts(task: drift_mdp.DriftMDP, key: Key[Array, '']) -> Exact:
  """A newborn agent with random settings, every few updates."""

  def life(inputs: tuple) -> Array:
    number, key = inputs
    codes = traced.sample(drift_mdp.SPACE, key)
    zeta = traced.zeta(drift_mdp.SPACE, codes)
    fresh = task.init(key).replace(updates=number * _UPDATES)
    return _returns(task, fresh, zeta, jax.random.split(key, _UPDATES))

  count = task.length // _UPDATES
  inputs = jnp.arange(count), jax.random.split(key, count)
  return jax.lax.map(life, inputs).reshape(-1)


def run(setting: Setting, *, seeds: Sequence[int]) -> list[study.Record]:
  """Exact returns of a tuner, for each seed."""
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  one = lambda key: setting.tuner(setting.task, key)
  found = np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)
  return [_record(exact) for exact in found]


def _record(exact: np.ndarray) -> study.Record:
  length = exact.shape[-1] // _RECORDS
  curve = exact.reshape(*exact.shape[:-1], _RECORDS, length).mean(-1)
  return {'mean': exact.mean(-1), 'curve': curve}


CONSTANT = 'best constant'
TUNERS = {
  'sliding UCB': bandit,
  'meta-gradient': meta_gradient,
  'HOOF': importance,
  'PBT, 8 members': functools.partial(population, method=pbt.PBT, size=8),
  'PB2, 4 members': functools.partial(population, method=pb2.PB2, size=4),
}
RANDOM = 'random restarts'


def _best(results: study.Results) -> int:
  """Number of the setting with the largest mean over seeds."""
  return int(results(CONSTANT, 'mean').mean(0).argmax())


def _ours(results: study.Results) -> dict[str, Any]:
  """The mean of the exact returns along a run, per seed."""
  found = {CONSTANT: results(CONSTANT, 'mean')[:, _best(results)]}
  others = (*TUNERS, RANDOM)
  return found | rows.table(results, 'mean', form='{arm}', arms=others)


def _curves(results: study.Results, arm: str) -> np.ndarray:
  curves = results(arm, 'curve')
  return curves[:, _best(results)] if arm == CONSTANT else curves


def _figure(results: study.Results) -> figures.Panel:
  length = results.study.arms[CONSTANT].task.length
  x = (np.arange(_RECORDS) + 0.5) * length / _RECORDS
  return figures.lines(
    {arm: _curves(results, arm) for arm in results.arms},
    x,
    spread='pooled',
    xlabel='update',
    ylabel='expected return of an episode',
  )


def _explain(results: study.Results) -> str:
  rate, cost = _GRID[_best(results)]
  halves = results(CONSTANT, 'curve').mean(0)
  middle = _RECORDS // 2
  first, second = (
    half.mean(1) for half in (halves[:, :middle], halves[:, middle:])
  )
  told = '; '.join(
    f'{arm} {x[:middle].mean():.2f} and {x[middle:].mean():.2f}'
    for arm in (*TUNERS, RANDOM)
    for x in [results(arm, 'curve').mean(0)]
  )
  return (
    'The side that pays changes every 40 updates in the first half of 2400 '
    'updates; in the second it stays, and rewards have noise of deviation 6. Of '
    f'{len(_GRID)} constant pairs of learning rate and entropy cost, chosen on the '
    f'runs that judge, {(rate, cost)} is best. Alone, the best constant of the first '
    f'half is {_GRID[first.argmax()]} ({first.max():.2f}) and of the second '
    f'{_GRID[second.argmax()]} ({second.max():.2f}). Of a population, the mean over '
    'all members counts, and its steps are those of all members. Mean returns in '
    f'the two halves: {told}.'
  )


ROWS = (
  rows.Row(
    id='drift',
    claim='Where the best settings change within a run, tuners that adapt beat every '
    'constant setting, and random restarts do not (mean of the exact return of an '
    'episode along a run).',
    study=study.Study(
      run,
      {CONSTANT: Setting(constants)}
      | {label: Setting(tuner) for label, tuner in TUNERS.items()}
      | {RANDOM: Setting(restarts)},
      seeds=10,
      together=True,
    ),
    ours=_ours,
    trend='every tuner above the best constant of the grid, restarts below it',
    claims=(
      *(claims.above(tuner, than=CONSTANT, paired=True) for tuner in TUNERS),
      claims.below(RANDOM, than=CONSTANT, paired=True),
    ),
    figure=_figure,
    explain=_explain,
    headline='HOOF',
  ),
)
