"""SEARL's shared replay against agents that learn from their own steps alone."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from hpo import spaces
from hpo.autorl import agents, programs
from hpo.autorl.population import apart, growing, running, searl
from papers import claims, figures, rows, study
from papers.autorl import online
from rl import learner as learner_lib
from rl import networks, rainbow
from rl.envs import cartpole, lanes
from runtime.record import ledger

_SIZE, _LANES = 4, 2  # Members, and lanes of each.
_GENERATIONS, _ITERATIONS, _RECORDS = 30, 50, 10
_WIDTH, _START = 128, 64  # Of the largest networks, and of SEARL's first ones.
_SAMPLES = 4.0  # Of each member, for each step of all.
_SPACE = spaces.Space((spaces.Float('learning_rate', 1e-5, 5e-3, 'LOG'),))
# A pilot of three seeds had gains of 30 and deviations of 30 in each arm.
_SEEDS = 16


@dataclasses.dataclass(frozen=True)
class Alone:
  """Agents with random settings that share nothing; a `programs.Program`."""

  agent: agents.Agent  # Of each member.
  space: spaces.Space  # Of the settings.
  size: int  # Members.

  def init(self, key: Key[Array, '']) -> running.Population:
    """See `programs.Program`."""
    method = apart.Apart(self.space)
    return running.start(self.agent, method, key, size=self.size, rounds=0)

  def step(
    self, state: running.Population, key: Key[Array, '']
  ) -> tuple[running.Population, dict[str, Array]]:
    """See `programs.Program`: a round of all members."""
    state = state.replace(key=key)
    state, found = running.play(
      self.agent, apart.Apart(self.space), state, updates=1
    )
    return state, {
      'score': running.mean_score(found.scores),
      'best_score': jnp.nanmax(found.scores),
      programs.STEPS: jnp.float32(self.agent.steps * self.size),
    }

  def evaluate(
    self, state: running.Population, key: Key[Array, '']
  ) -> dict[str, Array]:
    """See `programs.Program`; of the member with the largest last score."""
    scores = state.members.score
    best = jnp.argmax(jnp.where(jnp.isnan(scores), -jnp.inf, scores))
    member = jax.tree.map(lambda x: x[best], state.members)
    return {'episode_return': self.agent.evaluate(member, key)}


def _agent(
  encoder: Any, num_lanes: int, samples_per_insert: float
) -> agents.Agent:
  make = functools.partial(lanes.Lanes, cartpole.CartPoleBalance())
  algorithm: learner_lib.Algorithm = rainbow.Rainbow(
    encoder=encoder,
    hidden=(32,),
    v_min=0.0,
    v_max=100.0,
    capacity=50_000,
    batch_size=32,
    samples_per_insert=samples_per_insert,
  )
  return agents.Agent(algorithm, make(num_lanes), make(20), _ITERATIONS)


def _alone(samples_per_insert: float) -> online.Setting:
  encoder = networks.MLP((_WIDTH, _WIDTH))
  agent = _agent(encoder, _LANES, samples_per_insert)
  return online.Setting(Alone(agent, _SPACE, _SIZE), _GENERATIONS, _RECORDS)


SHARED, ALONE, LONGER = 'SEARL', 'random', 'random, as many updates'
_CROWD = _agent(
  growing.Growing(layers=2, width=_WIDTH, start=_START),
  _SIZE * _LANES,
  _SAMPLES,
)
_ARMS = {
  SHARED: online.Setting(
    searl.SEARL(_CROWD, _SPACE, _SIZE, growth=(8, 16, 32)),
    _GENERATIONS,
    _RECORDS,
  ),
  ALONE: _alone(_SAMPLES),
  LONGER: _alone(_SAMPLES * _SIZE),
}


ROWS = (
  rows.Row(
    id='shared-replay',
    claim='A population that learns from one replay, whose networks and settings '
    'evolve, needs fewer environment steps than as many agents with random settings '
    '(mean return of the best member over the run, of at most 500).',
    study=study.Study(online.run, _ARMS, seeds=_SEEDS, together=True),
    ours=lambda results: {
      arm: results(arm, 'test').mean(1) for arm in results.arms
    },
    trend='SEARL above random settings, with equal and with fewer updates of each',
    claims=(claims.above(SHARED, ALONE), claims.above(SHARED, LONGER)),
    figure=figures.of_arms(
      {'test': 'return of the best'},
      lambda results: results.curves(SHARED, 'environment_steps')[0],
      spread='quartiles',
      xlabel='environment steps of all members',
    ),
    published=ledger.Published(
      'up to ten times fewer environment steps than random search or PBT, for TD3',
      'arXiv:2009.01555, abstract',
    ),
    explain='Four Rainbow agents balance a pole, in two lanes each, for 48,000 steps '
    'of all. A member of SEARL samples the steps of all four, so that it makes four '
    'times the updates of an agent that has its own alone; the last arm makes as many '
    'of these as SEARL does. Learning rates are log-uniform in 1e-5 to 5e-3 at '
    'first. SEARL begins with one layer of 64 units and may reach two of 128, which '
    'the other agents have from the start.',
    headline=SHARED,
    curves=True,
  ),
)
