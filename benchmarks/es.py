"""Generations of evolution strategies, beside evosax and evojax.

Cases: a 200-step pendulum with an MLP 3-32-32-1 and 256 members, whole
generations in one compiled program, beside evosax in one `lax.scan` and in a
Python loop; the memory of a generation with 100,481 parameters, beside evosax;
cart-pole swing-up, evojax's own task, with an MLP 5-64-64-1, 64 members and 16
episodes each, beside evojax (PGPE, SimManager). A peer must give our returns for
the same parameters and keys.
"""

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness, programs
from rl.envs import pendulum, protocol, spaces
from rl.es import (
  estimators,
  jax_evaluator,
  policies,
  search,
  shaping,
  strategy,
)
from rl.es import population as population_lib

SIGMA = 0.1
RATE = 0.02


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and settings of the measurement."""

  population: int = 256  # On the pendulum.
  steps: int = 200  # Of a pendulum episode.
  generations: int = 10  # In one call.
  wide: int = 314  # Width of the layers of the memory case.
  repeats: int = 16  # Episodes of a member on the cart-pole.
  cartpole_population: int = 64
  cartpole_steps: int = 1000


def _ours(
  evaluator: jax_evaluator.JaxEvaluator, population: int, generations: int
) -> programs.Program:
  """The program of all generations."""
  estimator = estimators.Antithetic(shaping.centered_ranks)
  config = strategy.ESConfig(population // 2, SIGMA, estimator, normalize=False)
  es = strategy.Strategy(config, optax.adam(RATE))
  state = es.init(evaluator.policy.init(jax.random.key(0)), jax.random.key(1))

  def run(state: search.State) -> Any:
    step = functools.partial(es.step, evaluator=evaluator)
    return jax.lax.scan(lambda s, _: step(s), state, length=generations)

  return programs.compiled(run, lambda seed: (state,), units=generations)


class Pendulum:
  """The pendulum for both sides; the peer's rollout is a user's."""

  def __init__(self, sizes: Sizes, hidden: tuple[int, ...] = (32, 32)) -> None:
    self.sizes = sizes
    env = pendulum.Pendulum(max_steps=sizes.steps)
    self.policy = policies.MLP(env.observation_space, env.action_space, hidden)
    self.evaluator = jax_evaluator.JaxEvaluator(env, self.policy)

  def returns(self, params: Any, key: jax.Array) -> jax.Array:
    """One episode from one tree of parameters."""
    env = self.evaluator.env
    # The first episode of a member, and its first state.
    reset = jax.random.fold_in(jax.random.fold_in(key, 0), 0)
    state, observation = env.reset(reset)

    def advance(carry: tuple, _: None) -> tuple:
      state, observation, total = carry
      _, action = self.policy.act(params, (), observation)
      state, step = env.step(state, action, reset)
      return (state, step.observation, total + step.reward), None

    first = (state, observation, jnp.zeros(()))
    return jax.lax.scan(advance, first, length=self.sizes.steps)[0][2]

  def check(self) -> str | None:
    """Says by how much the two rollouts differ; None: not at all."""
    keys = jax.random.split(jax.random.key(5), 8)
    thetas = jax.vmap(self.policy.init)(keys)
    listed = population_lib.Listed(thetas)
    ours = self.evaluator.evaluate(listed, keys, None).returns
    trees = jax.vmap(self.policy.unravel)(thetas)
    return _differ(ours, jax.jit(jax.vmap(self.returns))(trees, keys))

  def ours(self, generations: int) -> programs.Program:
    """Our generations, in one program."""
    return _ours(self.evaluator, self.sizes.population, generations)

  def evosax(self, generations: int, *, scan: bool) -> programs.Program:
    """Its generations: in one program, or called from Python."""
    first, generation = self._evosax()
    keys = jax.random.split(jax.random.key(2), generations)
    if generations == 1:  # Its memory is measured.
      return programs.compiled(generation, lambda seed: (first, keys[0]))
    if scan:
      run = lambda state: jax.lax.scan(generation, state, keys)
      return programs.compiled(run, lambda seed: (first,), units=generations)
    step = jax.jit(generation)

    def loop() -> Any:
      state = first
      for key in keys:
        state, _ = step(state, key)
      return state

    return programs.Program(loop, units=generations)

  def _evosax(self) -> tuple[Any, Callable[[Any, jax.Array], tuple]]:
    """Its first state and one generation."""
    algorithms = programs.peer('evosax.algorithms')
    solution = self.policy.unravel(self.policy.init(jax.random.key(0)))
    population = self.sizes.population
    es = algorithms.Open_ES(
      population_size=population,
      solution=solution,
      optimizer=optax.adam(RATE),
      std_schedule=optax.constant_schedule(SIGMA),
    )
    params = es.default_params
    state = es.init(jax.random.key(1), solution, params)

    def generation(state: Any, key: jax.Array) -> tuple:
      key_ask, key_tell, key_env = jax.random.split(key, 3)
      members, state = es.ask(key_ask, state, params)
      keys = jnp.tile(jax.random.split(key_env, population // 2), 2)
      scores = jax.vmap(self.returns)(members, keys)
      state, _ = es.tell(key_tell, members, -scores, state, params)
      return state, scores.mean()

    return state, generation


def _differ(ours: Any, peer: Any) -> str | None:
  ours, peer = np.asarray(ours), np.asarray(peer)
  gap = np.max(np.abs(ours - peer) / (1 + np.abs(ours)))
  return programs.judged({'result': gap}, 1e-3)


@dataclasses.dataclass(frozen=True, eq=False)
class EvojaxTask:
  """evojax's cart-pole swing-up as a `protocol.Environment`."""

  task: Any  # Its vectorised task.
  max_steps: int
  observation_space = spaces.Box((5,), -1e6, 1e6)
  action_space = spaces.Box((1,), -1.0, 1.0)

  def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
    """Of one lane; evojax takes raw keys."""
    state = self.task.reset(jax.random.key_data(key)[None])
    return state, state.obs[0]

  def step(
    self, state: Any, action: jax.Array, key: jax.Array
  ) -> tuple[Any, protocol.Step]:
    """Of one lane; it draws from the state's own key."""
    del key
    state, reward, done = self.task.step(state, action[None])
    step = protocol.Step(state.obs[0], reward[0], done[0].astype(bool), {})
    return state, step


class Cartpole:
  """evojax's published setting for its task, for both sides.

  Raises:
    MissingError: without evojax, whose task it is.
  """

  def __init__(self, sizes: Sizes) -> None:
    cartpole = programs.peer('evojax.task.cartpole')
    self._sizes = sizes
    if not hasattr(jax, 'tree_map'):
      # evojax is older than its removal.
      jax.tree_map = jax.tree.map
    self._task = cartpole.CartPoleSwingUp(
      max_steps=sizes.cartpole_steps, harder=True
    )
    env = EvojaxTask(self._task, sizes.cartpole_steps)
    self._policy = policies.MLP(
      env.observation_space, env.action_space, (64, 64)
    )
    self._evaluator = jax_evaluator.JaxEvaluator(
      env, self._policy, episodes=sizes.repeats
    )
    self._net = programs.peer('evojax.policy').MLPPolicy(5, [64, 64], 1)

  def ours(self) -> programs.Program:
    """Our generation."""
    return _ours(self._evaluator, self._sizes.cartpole_population, 1)

  def evojax(self) -> programs.Program:
    """Its generation."""
    sizes = self._sizes
    solver = programs.peer('evojax.algo').PGPE(
      pop_size=sizes.cartpole_population,
      param_size=self._net.num_params,
      optimizer='adam',
      center_learning_rate=0.05,
      init_stdev=0.1,
    )
    manager = programs.peer('evojax.sim_mgr').SimManager(
      n_repeats=sizes.repeats,
      test_n_repeats=1,
      pop_size=sizes.cartpole_population,
      n_evaluations=1,
      policy_net=self._net,
      train_vec_task=self._task,
      valid_vec_task=self._task,
    )

    def run() -> Any:
      scores, _ = manager.eval_params(solver.ask(), test=False)
      solver.tell(scores)
      return solver.best_params

    return programs.Program(run)

  def check(self) -> str | None:
    """Says by how much the policies differ; the task is the same code."""
    keys = jax.random.split(jax.random.key(3), 4)
    thetas = jax.vmap(self._policy.init)(keys)
    observations = jax.random.normal(jax.random.key(4), (4, 5))
    trees = jax.vmap(self._policy.unravel)(thetas)
    act = lambda tree, x: self._policy.act(tree, (), x)[1]
    # evojax ravels per layer, biases before weights.
    parts = [part.reshape(4, -1) for w, b in trees for part in (b, w)]
    theirs, _ = self._net.get_actions(
      types.SimpleNamespace(obs=observations), jnp.concatenate(parts, 1), None
    )
    return _differ(jax.vmap(act)(trees, observations), theirs)


PENDULUM, MEMORY = 'pendulum', 'memory of a generation'
CARTPOLE = 'cart-pole of evojax, PGPE and SimManager'


def _forms(sizes: Sizes, case: str) -> list[harness.Form]:
  if case == CARTPOLE:
    task = functools.cache(lambda: Cartpole(sizes))
    check = lambda case, built: task().check()
    return [
      harness.Form('ours', lambda case: task().ours(), ours=True, peer=True),
      harness.Form('evojax', lambda case: task().evojax(), check, peer=True),
    ]
  generations = 1 if case == MEMORY else sizes.generations
  hidden = (sizes.wide, sizes.wide) if case == MEMORY else (32, 32)
  task = Pendulum(sizes, hidden)
  names = {'evosax in one scan': True, 'evosax in a Python loop': False}
  return [
    harness.Form('ours', lambda case: task.ours(generations), ours=True)
  ] + [
    harness.Form(
      name,
      lambda case, scan=scan: task.evosax(generations, scan=scan),
      lambda case, built: task.check(),
      peer=True,
    )
    for name, scan in names.items()
    if scan or case != MEMORY
  ]


SUBJECT = harness.Subject(
  'es',
  Sizes(),
  quick=Sizes(
    population=4,
    steps=3,
    generations=2,
    wide=8,
    repeats=2,
    cartpole_population=4,
    cartpole_steps=3,
  ),
  cases=lambda sizes: [PENDULUM, MEMORY, CARTPOLE],
  forms=_forms,
  timed=lambda sizes, case: case != MEMORY,
  settings=programs.Settings(rounds=11, seconds=60.0),
  clock='cpu',
  unit='CPU ms per generation',
  packages=('jax', 'jaxlib', 'numpy', 'optax', 'evosax', 'evojax'),
)
