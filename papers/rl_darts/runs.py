"""Runs of PPO on small games: supernets, IMPALA's network, discrete cells."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from nas.rl_darts import (
  bilevel,
  diagnostics,
  genotype,
  joined,
  networks,
  probabilities,
  search,
)
from papers import study, training
from rl import networks as rl_networks
from rl import ppo
from rl import results as rl_results
from rl import training as rl_training
from rl.envs import protocol
from runtime import loop

__all__ = [
  'IMPALA',
  'MICRO',
  'Setting',
  'agents_for',
  'baseline',
  'describe',
  'learn',
  'run',
  'steps_of',
]

DEPTHS, DENSE = (8,), 64
MICRO = networks.Micro(depths=DEPTHS, dense=DENSE, products=True)
IMPALA = rl_networks.ImpalaCNN(depths=DEPTHS, dense=DENSE)
_UNROLL = 32  # Steps per lane and iteration.
_FRESH = 'fresh'
_LAST = 4  # Records whose mean is the level of a run: a quarter of it.
_RETRAINED = 1  # Seed of cells from scratch: not that of the searches.
_SHUT = -1e9  # A logit whose probability is zero, and whose gradient is too.

Game = Callable[[int], protocol.VectorEnvironment]


@dataclasses.dataclass(frozen=True)
class Setting:
  """An agent in a game."""

  game: Game  # Makes lanes to learn in.
  encoder: nn.Module = MICRO  # Of the agent; a supernet is searched.
  # Makes lanes that judge the end; None: the returns of training do.
  fresh: Game | None = None
  mode: search.Mode = 'joint'  # Of a search.
  # Makes the lanes from which the logits of a bi-level search learn.
  other: Game | None = None
  shut: tuple[str, ...] = ()  # Operations that a supernet cannot use.
  # Iterations of the search, a power of two or 0, whose genotypes are trained
  # from scratch as well.
  retrained: tuple[int, ...] = ()
  # Cells that a seed draws and trains, for an encoder of `Masked` cells.
  random: int = 0
  lanes: int = 16  # n.
  iterations: int = 256  # Of the agent, a power of two; 32 steps in every lane.
  records: int = 16  # Of a run, at equal distances.
  discount: float = 0.95  # Per step.
  # Of Adam for the logits; None: they are parameters like others.
  alpha_rate: float | None = None

  @property
  def steps(self) -> int:
    """Of all lanes together."""
    return self.lanes * _UNROLL * self.iterations


def describe(setting: Setting) -> str:
  """What the remarks of rows say of a setting."""
  return (
    f'PPO, one stage of 8 channels, {setting.lanes * _UNROLL} steps and 8 updates '
    f'per iteration, {setting.iterations} iterations: {setting.steps:,} steps, '
    'which is early in learning. Levels are means over the last quarter of '
    'training. The paper trains 25 M steps and more on Procgen.'
  )


def baseline(setting: Setting) -> Setting:
  """The same with IMPALA's network."""
  return dataclasses.replace(
    setting, encoder=IMPALA, retrained=(), alpha_rate=None
  )


def _agent(setting: Setting, encoder: nn.Module) -> ppo.PPO:
  return ppo.PPO(
    encoder=encoder,
    unroll_length=_UNROLL,
    num_minibatches=4,
    learning_rate=1e-3,
    discount=setting.discount,
  )


def _search(setting: Setting) -> search.Search:
  rule = {}
  if setting.alpha_rate is not None:
    rule['alpha_optimizer'] = bilevel.alpha_optimizer(setting.alpha_rate)
  if setting.mode != 'joint':
    rule |= {'mode': setting.mode, 'alpha_lanes': setting.lanes // 4}
  return search.Search(
    _agent(setting, setting.encoder),
    iterations=setting.iterations,
    # One whenever the search is twice as long as at the one before.
    snapshots=setting.iterations.bit_length() - 1,
    **rule,
  )


def _env(setting: Setting) -> protocol.VectorEnvironment:
  if setting.other is None:
    return setting.game(setting.lanes)
  apart = setting.lanes // 4
  parts = setting.game(setting.lanes - apart), setting.other(apart)
  return joined.Joined(parts)


# (the learner, its state) -> its state with other parameters.
ChangeState = Callable[[Any, Any], Any]
Change = Callable[[jax.Array], jax.Array]


class Learnt(NamedTuple):
  """Agents after training."""

  trainer: rl_training.AgentTrainer  # Their trainer.
  driven: loop.Driven  # The run of all.
  returns: np.ndarray  # While training, [agents, records].
  # Mean returns on fresh levels, [agents]; () without such.
  fresh: np.ndarray | tuple[()]

  def record(self, agent: int, *, last: int = _LAST) -> dict[str, Any]:
    """Numbers of one agent; its level is the mean of the last records."""
    returns = self.returns[agent]
    found = {'returns': returns, 'level': np.nanmean(returns[-last:])}
    return found | ({'fresh': self.fresh[agent]} if len(self.fresh) else {})


def learn(
  setting: Any,
  algorithm: Any,
  env: protocol.VectorEnvironment,
  *,
  seed: int,
  agents: int,
  fresh: Game | None = None,
  change: ChangeState | None = None,
) -> Learnt:
  """Trains agents in one program.

  Args:
    setting: has `iterations` and `records`.
    algorithm: the agent, or a search around it.
    env: lanes to learn in.
    seed: of all agents.
    agents: their number.
    fresh: makes lanes that judge the end.
    change: of the first state.
  """
  judges = {} if fresh is None else {_FRESH: fresh(64)}
  trainer = rl_training.AgentTrainer(
    algorithm,
    env,
    judges,
    eval_episodes=2,
    num_agents=agents,
    iterations_per_step=setting.iterations // setting.records,
  )

  def first(state: Any) -> Any:
    if change is None:
      return state
    return state.replace(learner=change(trainer.learner, state.learner))

  driven, judged = training.judged(
    trainer,
    seed=seed,
    steps=setting.records,
    records=setting.records,
    judges=[*judges],
    change=first,
  )
  metric = 'episode_return'
  _, returns = rl_results.returns(driven.rows, f'train/{metric}')
  found = ()
  if judges:
    rows = [{'step': 0} | judged]
    found = rl_results.returns(rows, f'eval/{_FRESH}/{metric}')[1][:, 0]
  return Learnt(trainer, driven, returns, found)


def _learn(
  setting: Setting,
  algorithm: Any,
  *,
  seed: int,
  agents: int,
  change: Change | None = None,
) -> Learnt:
  """Trains agents of a setting; their first logits may be changed."""
  return learn(
    setting,
    algorithm,
    _env(setting),
    seed=seed,
    agents=agents,
    fresh=setting.fresh,
    change=lambda learner, state: _changed(state, change),
  )


def _changed(learner: Any, change: Change | None) -> Any:
  """State of a learner, or of one inside a search, with changed logits."""
  if change is None:
    return learner
  if isinstance(learner, search.SearchState):
    return learner.replace(agent=_changed(learner.agent, change))
  params = probabilities.mapped(learner.params, change)
  return learner.replace(params=params)


def _close(setting: Setting) -> Change:
  """Takes operations away from a supernet."""
  columns = [setting.encoder.space.ops.index(name) for name in setting.shut]
  return lambda logits: logits.at[..., jnp.array(columns, int)].set(_SHUT)


def steps_of(results: study.Results, arm: str) -> np.ndarray:
  """Environment steps at the records of an arm."""
  records = len(results.curves(arm, 'returns')[0])
  return np.linspace(0, results(arm, 'steps')[0], records + 1)[1:]


def agents_for(seeds: Sequence[int]) -> int:
  """Agents of one program, of which number s has seed s.

  Two at least: a trainer of one agent has no axis of agents.
  """
  return max(2, max(seeds) + 1)


def run(setting: Setting, *, seeds: Sequence[int]) -> list[study.Record]:
  """Trains agents; derives cells of searches, and trains them from scratch.

  A seed is of the search and of the training of its cells; or of random cells.
  """
  if not isinstance(setting.encoder, networks.Micro):
    # Not by vmap: a CPU computes grouped convolutions slowly.
    agent = _agent(setting, setting.encoder)
    alone = [_learn(setting, agent, seed=seed, agents=1) for seed in seeds]
    return [found.record(0) | {'steps': setting.steps} for found in alone]
  if setting.random:
    return _together(setting, setting.random, seeds)
  algorithm, change = _search(setting), _close(setting)
  count = agents_for(seeds)
  found = _learn(setting, algorithm, seed=0, agents=count, change=change)
  states = found.driven.state.learner
  searches = [
    _searched(algorithm, jax.tree.map(lambda x, i=seed: x[i], states), change)
    for seed in seeds
  ]
  records = [
    found.record(seed) | {'steps': setting.steps} | searched
    for seed, searched in zip(seeds, searches, strict=True)
  ]
  if setting.retrained:
    more = _retrained(setting, searches, seeds)
    records = [one | two for one, two in zip(records, more, strict=True)]
  return records


def _searched(
  algorithm: search.Search, state: search.SearchState, change: Change
) -> dict[str, Any]:
  """Derived cells as JSON by iteration; entropies (nats) and masses there.

  Those of iteration 0 are of logits that are equal, but for a change.
  """
  first = jax.tree.map(
    lambda x: change(jnp.zeros_like(x)),
    probabilities.alphas(state.agent.params),
  )
  (logits,) = first.values()
  by_time = {0: logits}
  for row, at in enumerate(algorithm.times):
    (by_time[at],) = jax.tree.map(
      lambda x, i=row: x[i], state.snapshots
    ).values()
  encoder = algorithm.agent.encoder
  space = encoder.space
  p = [
    probabilities.probabilities(x['normal'])['edges'] for x in by_time.values()
  ]
  return {
    'genotypes': {
      str(at): encoder.derive(logits).to_json()
      for at, logits in by_time.items()
    },
    'times': list(by_time),
    'entropy': [diagnostics.entropies(one, space).by_node for one in p],
    'mass': {
      op: [float(diagnostics.op_mass(one, space)[op]) for one in p]
      for op in space.ops
    },
  }


def _together(
  setting: Setting,
  each: int,
  seeds: Sequence[int],
  change: Change | None = None,
) -> list[dict[str, Any]]:
  """Trains some agents with discrete cells for each seed; lists by metric."""
  encoder = setting.encoder.clone(architecture=networks.Masked())
  found = _learn(
    setting,
    _agent(setting, encoder),
    seed=_RETRAINED,
    agents=agents_for(seeds) * each,
    change=change,
  )
  own = lambda seed: map(found.record, range(seed * each, (seed + 1) * each))
  return [
    {
      f'cell_{metric}': values
      for metric, values in _listed([*own(seed)]).items()
    }
    for seed in seeds
  ]


def _listed(records: Sequence[study.Record]) -> dict[str, list[Any]]:
  return {name: [one[name] for one in records] for name in records[0]}


def _retrained(
  setting: Setting, searches: Sequence[study.Record], seeds: Sequence[int]
) -> list[dict[str, Any]]:
  """Cells of searches, from scratch as one program."""
  each = len(setting.retrained)
  places, masks = [], []
  for seed, searched in zip(seeds, searches, strict=True):
    for index, at in enumerate(setting.retrained):
      cell = genotype.Genotype.from_json(searched['genotypes'][str(at)])
      places.append(seed * each + index)
      masks.append(cell['normal'].mixing()['edges'])
  change = lambda drawn: drawn.at[jnp.array(places)].set(jnp.stack(masks))
  return _together(setting, each, seeds, change)
