"""Generations of ES-ENAS beside those of plain ES, and beside PyGlove's own loop.

Cases: a pendulum in one compiled program, and in lanes that the host steps; the
swimmer in EnvPool. The policy has a hidden layer of 32 nodes, whose edges share
eight weights.

Plain ES and ES-ENAS have the same rollouts, bit for bit: every row of a population
is evaluated with an architecture that never changes, and controllers are told the
returns as if they were those of their proposals. Otherwise the ratio of both would
show how the policies move, as a step of a pendulum takes longer where it swings.

PyGlove's loop is a user's, with as many directions: its algorithm proposes one
architecture after the other, a compiled function evaluates both members of a pair,
and NumPy moves theta.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness, programs, record
from nas.es_enas import controllers, partitions, policies
from nas.es_enas import population as enas_population
from nas.es_enas import search as search_lib
from rl.envs import envpool_env, lanes, pendulum
from rl.es import evaluator as evaluator_lib
from rl.es import (
  jax_evaluator,
  population,
  strategy,
  vector_evaluator,
)
from rl.es import search as rl_search

SIGMA = 0.1
RATE = 0.05
PROGRAM, LANES = 'pendulum, one program', 'pendulum, lanes'
SWIMMER = 'swimmer, EnvPool'
ES, PYGLOVE = 'ES', "PyGlove's loop"
CONTROLLERS: dict[str, Callable[..., controllers.Controller]] = {
  'ES-ENAS, evolution': controllers.Evolution,
  'ES-ENAS, policy gradient': controllers.PolicyGradient,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and settings of the measurement."""

  pairs: int = 50
  colors: int = 8
  steps: int = 200  # Of an episode.
  generations: int = 10  # In one call of the compiled program.


class _Fixed:
  """An evaluator of thetas whose rows have architectures that never change."""

  def __init__(
    self, evaluator: evaluator_lib.Evaluator, architectures: Any
  ) -> None:
    self._evaluator = evaluator
    self._architectures = architectures
    self.pure = evaluator.pure
    self.observation_shape = evaluator.observation_shape

  def evaluate(
    self, population: Any, keys: Any, normalizer: Any
  ) -> evaluator_lib.Evaluation:
    """See `evaluator.Evaluator`."""
    thetas = getattr(population, 'inner', population)
    members = enas_population.WithArchitectures(thetas, self._architectures)
    return self._evaluator.evaluate(members, keys, normalizer)

  def close(self) -> None:
    """See `evaluator.Evaluator`."""
    self._evaluator.close()


class Task:
  """One case: the environment and the policy of all searches.

  Args:
    sizes: of the measurement.
    case: its name.
  """

  def __init__(self, sizes: Sizes, case: str) -> None:
    self._sizes = sizes
    make = vector_evaluator.VectorEvaluator
    single, members = pendulum.Pendulum(max_steps=sizes.steps), 2 * sizes.pairs
    if case == SWIMMER:
      self._env = envpool_env.EnvPoolVector(
        'Swimmer-v4', num_lanes=members, max_episode_steps=sizes.steps
      )
    elif case == LANES:
      self._env = lanes.Lanes(single, members)
    else:
      self._env, make = single, jax_evaluator.JaxEvaluator
    config = strategy.ESConfig(sizes.pairs, SIGMA, normalize=False)
    self._strategy = strategy.Strategy(config, optax.adam(RATE))
    self._policy = policies.feed_forward(
      self._env.observation_space,
      self._env.action_space,
      sharing=partitions.Partition(sizes.colors),
      hidden=(32,),
    )
    self._evaluator = make(self._env, self._policy)

  def es(self) -> programs.Program:
    """Plain ES."""
    return self._generations(self._strategy)

  def es_enas(
    self, controller: Callable[..., controllers.Controller]
  ) -> programs.Program:
    """ES-ENAS with a controller."""
    controller = controller(self._policy.space)
    search = search_lib.ESENAS(self._strategy, controller)
    return self._generations(search)

  def _generations(self, search: rl_search.Search) -> programs.Program:
    keys = jax.random.split(jax.random.key(2), self._sizes.pairs)
    drawn = jax.vmap(self._policy.space.sample)(keys)
    evaluator = _Fixed(self._evaluator, drawn)
    theta = self._policy.init(jax.random.key(0))
    state = search.init(theta, jax.random.key(1))
    step = functools.partial(search.step, evaluator=evaluator)
    if not evaluator.pure:
      return programs.Program(lambda: step(state))
    count = self._sizes.generations
    run = lambda state: jax.lax.scan(lambda s, _: step(s), state, length=count)
    return programs.compiled(run, lambda seed: (state,), units=count)

  def pyglove(self) -> programs.Program:
    """A user's loop around PyGlove's regularised evolution."""
    pyglove = programs.peer('pyglove')
    policy, evaluator = self._policy, self._evaluator
    pairs = self._sizes.pairs
    space = pyglove.manyof(
      policy.space.length,
      list(range(self._sizes.colors)),
      distinct=False,
      sorted=False,
    )
    algorithm = pyglove.evolution.regularized_evolution(
      population_size=pairs, tournament_size=max(2, int(pairs**0.5)), seed=0
    )
    feedbacks = pyglove.sample(space, algorithm)
    rng = np.random.default_rng(0)
    theta = np.asarray(policy.init(jax.random.key(0)))

    @jax.jit
    def returns(thetas: Any, architecture: Any, key: Any) -> Any:
      members = enas_population.WithArchitectures(
        population.Listed(thetas), architecture[None]
      )
      keys = jnp.broadcast_to(key, (2,))
      return evaluator.evaluate(members, keys, None).returns

    def generation() -> Any:
      total = np.zeros_like(theta)
      for i in range(pairs):
        chosen, feedback = next(feedbacks)
        step = SIGMA * rng.normal(size=theta.shape).astype(np.float32)
        thetas = np.stack([theta + step, theta - step])
        found = np.asarray(
          returns(thetas, np.array(chosen, np.int32), jax.random.key(i))
        )
        feedback(float(found.mean()))
        total += (found[0] - found[1]) * step / (2 * SIGMA**2 * pairs)
      return theta + RATE * total

    return programs.Program(generation)


def _forms(sizes: Sizes, case: str) -> list[harness.Form]:
  task = functools.cache(lambda: Task(sizes, case))
  forms = [
    harness.Form(
      name,
      lambda case, controller=controller: task().es_enas(controller),
      ours=True,
    )
    for name, controller in CONTROLLERS.items()
  ]
  forms.append(harness.Form(ES, lambda case: task().es(), ours=True))
  if case == PROGRAM:
    forms.append(harness.Form(PYGLOVE, lambda case: task().pyglove()))
  return forms


def summary(sizes: Sizes, results: harness.Results) -> Iterator[record.Row]:
  """What a controller adds to a generation, and programs beside lanes."""
  del sizes
  for case, most in ((PROGRAM, 1.05), (LANES, 1.15), (SWIMMER, 1.15)):
    for name in CONTROLLERS:
      yield record.value_row(
        f'{case}: {name} over ES',
        results.ratio(case, name, ES).cpu,
        at_most=most,
      )
  (evolution, *_) = CONTROLLERS
  times = [results.median(c, evolution, 'cpu') for c in (LANES, PROGRAM)]
  value = times[0] / times[1] if all(times) else None
  yield record.value_row(
    'pendulum: steps per second of a program over lanes', value, at_least=3
  )


SUBJECT = harness.Subject(
  'es_enas',
  Sizes(),
  quick=Sizes(pairs=4, steps=3, generations=2),
  cases=lambda sizes: [PROGRAM, LANES, SWIMMER],
  forms=_forms,
  beside=lambda one, two: one.form in CONTROLLERS and two.form == PYGLOVE,
  summary=summary,
  settings=programs.Settings(rounds=15, seconds=60.0),
  clock='cpu',
  unit='CPU ms per generation',
  packages=('jax', 'jaxlib', 'numpy', 'optax', 'pyglove', 'envpool'),
)
