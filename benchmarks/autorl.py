"""A population of PPO agents as one program, beside as many runs of one agent.

The recipe is that of `benchmarks.rl`: cart-pole, 4 lanes of 128 steps. In the
population the learning rates, entropy costs and clip ratios of members differ, and
PBT copies members after each round. Cases are numbers of members.

`one after the other` calls a compiled program of one agent for each member.
`processes` does so in worker processes, as many at a time as there are cores; each
has compiled its program before. Neither copies members.
"""

import dataclasses
import functools
import multiprocessing
import os
from typing import Any

import jax

from benchmarks import harness, programs
from benchmarks import rl as rl_benchmark
from hpo import spaces
from hpo.autorl import agents, traced
from hpo.autorl.population import pbt, running

SPACE = spaces.Space(
  (
    spaces.Float('learning_rate', 1e-5, 1e-2, 'LOG'),
    spaces.Float('entropy_cost', 1e-4, 0.1, 'LOG'),
    spaces.Float('clip_ratio', 0.05, 0.4, 'LOG'),
  )
)
POPULATION, ALONE = 'population', 'one after the other'
PROCESSES, PEER = 'processes', 'purejaxrl'


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and settings of the measurement."""

  members: tuple[int, ...] = (8, 16, 64)
  iterations: int = 4  # Of acting and learning, in a round.
  rounds: int = 4


def inner(sizes: Sizes) -> agents.Agent:
  """The agent; all settings that members do not vary are those of the recipe."""
  vector, learner = rl_benchmark.task()
  # In the place of a schedule, which cannot be tuned.
  settings = dataclasses.replace(learner.settings, learning_rate=2.5e-4)
  return agents.Agent(settings, vector, vector, sizes.iterations)


def population(sizes: Sizes, count: int) -> programs.Program:
  """All members in one program, with selection between rounds."""
  agent = inner(sizes)
  run = functools.partial(
    running.run, agent, pbt.PBT(SPACE), size=count, rounds=sizes.rounds
  )
  return programs.compiled(
    lambda key: run(key)[1].scores,
    lambda seed: (jax.random.key(seed),),
    units=agent.steps * sizes.rounds * count,
  )


def _one(sizes: Sizes) -> Any:
  """A compiled run of one agent, from a key."""
  agent = inner(sizes)

  def train(key: jax.Array) -> jax.Array:
    first, second, third = jax.random.split(key, 3)
    zeta = traced.zeta(SPACE, traced.sample(SPACE, first))

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
      found = agent.update(state, zeta, key)
      return found.state, found.score

    keys = jax.random.split(third, sizes.rounds)
    return jax.lax.scan(step, agent.init(second), keys)[1]

  return jax.jit(train).lower(jax.random.key(0)).compile()


def alone(sizes: Sizes, count: int) -> programs.Program:
  """As many runs of one agent, in this process."""
  train = _one(sizes)
  steps = inner(sizes).steps * sizes.rounds * count
  return programs.Program(
    lambda: [train(jax.random.key(seed)) for seed in range(count)], units=steps
  )


_worker: Any = None


def _start(sizes: Sizes) -> None:
  global _worker
  _worker = _one(sizes)


def _train(seed: int) -> list[float]:
  return [float(score) for score in _worker(jax.random.key(seed))]


def processes(sizes: Sizes, count: int) -> programs.Program:
  """As many runs of one agent, in as many processes as there are cores."""
  workers = min(count, len(os.sched_getaffinity(0)))
  context = multiprocessing.get_context('spawn')
  pool = context.Pool(workers, _start, (sizes,))
  pool.map(_train, range(workers))  # All have compiled before it is timed.
  steps = inner(sizes).steps * sizes.rounds * count
  return programs.Program(lambda: pool.map(_train, range(count)), units=steps)


def _forms(sizes: Sizes, count: int) -> list[harness.Form]:
  iterations = sizes.iterations * sizes.rounds
  peer = functools.partial(rl_benchmark.purejaxrl, iterations)
  return [
    harness.Form(POPULATION, lambda n: population(sizes, n), ours=True),
    harness.Form(ALONE, lambda n: alone(sizes, n)),
    harness.Form(PROCESSES, lambda n: processes(sizes, n)),
    harness.Form(PEER, peer, peer=True),
  ]


SUBJECT = harness.Subject(
  'autorl',
  Sizes(),
  quick=Sizes(members=(2,), iterations=1, rounds=2),
  cases=lambda sizes: list(sizes.members),
  forms=_forms,
  settings=programs.Settings(rounds=9, seconds=120.0),
  unit='us per environment step',
  scale=1e6,
  packages=('jax', 'jaxlib', 'numpy', 'optax', 'flax', 'gymnax', 'distrax'),
)
