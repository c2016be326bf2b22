"""Time and memory of a generation of evolution strategies, beside peers.

  python scripts/bench_es.py

Cases: a 200-step pendulum with an MLP 3-32-32-1 and 256 members, whole
generations in one compiled program, beside evosax in one `lax.scan` and in a
Python loop; cart-pole swing-up, evojax's own task, with an MLP 5-64-64-1, 64
members and 16 episodes each, beside evojax (PGPE, SimManager); temporary memory
of a generation with 100,481 parameters, beside evosax.

Sides of a case run in one process, in turns; times are CPU seconds of all
threads per generation, medians, and ratios medians over turns. A peer whose
returns differ from ours for the same parameters and keys is not measured; one
that is not installed is said and left out. Prints a table; writes
`benchmarks/results/es.json`.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import platform
import statistics
import time
import types
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rl.envs import pendulum, protocol, spaces
from rl.es import estimators, jax_evaluator, policies, shaping, strategy
from runtime.record import provenance, tables

__all__ = ['Pendulum', 'main', 'measure']

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = ('jax', 'jaxlib', 'numpy', 'optax', 'evosax', 'evojax')
SIGMA = 0.1
RATE = 0.02


class Refused(Exception):  # noqa: N818 (an outcome, not an error)
  """Why a peer is not measured."""


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of the cases.

  Attributes:
    population: members on the pendulum.
    steps: of a pendulum episode.
    generations: in one call.
    wide: width of the layers of the memory case.
    repeats: episodes of a member on the cart-pole.
    cartpole_population: members there.
    cartpole_steps: of an episode there.
  """

  population: int = 256
  steps: int = 200
  generations: int = 10
  wide: int = 314
  repeats: int = 16
  cartpole_population: int = 64
  cartpole_steps: int = 1000


def _strategy(population: int) -> strategy.Strategy:
  estimator = estimators.Antithetic(shaping.centered_ranks)
  config = strategy.ESConfig(population // 2, SIGMA, estimator, normalize=False)
  return strategy.Strategy(config, optax.adam(RATE))


def _ours(
  evaluator: jax_evaluator.JaxEvaluator, population: int, generations: int
) -> tuple[Callable[[Any], Any], strategy.State]:
  """The program of all generations, and its argument."""
  es = _strategy(population)
  state = es.init(evaluator.policy.init(jax.random.key(0)), jax.random.key(1))

  @jax.jit
  def run(state: strategy.State) -> Any:
    step = functools.partial(es.step, evaluator=evaluator)
    return jax.lax.scan(lambda s, _: step(s), state, length=generations)

  return run, state


class Pendulum:
  """The pendulum for both sides; the peer's rollout is a user's.

  Attributes:
    evaluator: ours.
    policy: of both.
    sizes: see `Sizes`.
  """

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

  def check(self) -> None:
    """Refuses if the two rollouts differ."""
    keys = jax.random.split(jax.random.key(5), 8)
    thetas = jax.vmap(self.policy.init)(keys)
    ours = self.evaluator.evaluate(thetas, keys, None).returns
    trees = jax.vmap(self.policy.unravel)(thetas)
    _compare(ours, jax.jit(jax.vmap(self.returns))(trees, keys))

  def evosax(self) -> tuple[Any, Any, Callable]:
    """Its algorithm, first state and one generation."""
    algorithms = _import('evosax.algorithms')
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

    return es, state, generation


def _import(name: str) -> Any:
  try:
    return __import__(name, fromlist=['_'])
  except ImportError as error:
    raise Refused(f'not installed: {error}') from error


def _compare(ours: Any, peer: Any) -> None:
  difference = np.max(
    np.abs(np.asarray(ours) - np.asarray(peer)) / (1 + np.abs(np.asarray(ours)))
  )
  # NaN fails too.
  if not difference < 1e-3:
    raise Refused(f'returns differ by {difference:.2g} of their size')


def measure(
  ours: Callable[[], Any],
  peer: Callable[[], Any] | None,
  *,
  rounds: int,
  generations: int,
) -> dict[str, float | None]:
  """CPU milliseconds per generation of both, in turns.

  Args:
    ours: runs `generations` generations.
    peer: alike; None: there is none.
    rounds: turns.
    generations: per call.

  Returns:
    Medians and the median of the ratios ours / peer.
  """
  sides = [side for side in (ours, peer) if side is not None]
  for side in sides:
    jax.block_until_ready(side())
  taken: list[list[float]] = [[] for _ in sides]
  for _ in range(rounds):
    for times, side in zip(taken, sides, strict=True):
      start = time.process_time()
      jax.block_until_ready(side())
      times.append(1e3 * (time.process_time() - start) / generations)
  row = {'ours': statistics.median(taken[0]), 'peer': None, 'ratio': None}
  if peer is not None:
    ratios = [a / b for a, b in zip(*taken, strict=True)]
    row['peer'] = statistics.median(taken[1])
    row['ratio'] = statistics.median(ratios)
  return row


def _pendulum_rows(sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
  task = Pendulum(sizes)
  task.check()
  generations = sizes.generations
  run, state = _ours(task.evaluator, sizes.population, generations)
  ours = lambda: run(state)
  keys = jax.random.split(jax.random.key(2), generations)

  def scan() -> Callable[[], Any]:
    _, first, generation = task.evosax()
    program = jax.jit(lambda s: jax.lax.scan(generation, s, keys))
    return lambda: program(first)

  def loop() -> Callable[[], Any]:
    _, first, generation = task.evosax()
    step = jax.jit(generation)

    def peer() -> Any:
      current = first
      for key in keys:
        current, _ = step(current, key)
      return current

    return peer

  rows = []
  for name, make in (('one scan', scan), ('Python loop', loop)):
    row = {'case': f'pendulum, evosax in {name}, CPU ms'}
    rows.append(row | _row(ours, make, rounds, generations))
  return rows


def _row(
  ours: Callable[[], Any],
  make_peer: Callable[[], Callable[[], Any]],
  rounds: int,
  generations: int,
) -> dict[str, Any]:
  note, peer = '', None
  try:
    peer = make_peer()
  except Refused as reason:
    note = f'peer left out: {reason}'
  times = measure(ours, peer, rounds=rounds, generations=generations)
  return times | {'note': note}


def _memory_row(sizes: Sizes) -> dict[str, Any]:
  """Temporary MiB of one generation, as the compiler plans it."""
  task = Pendulum(sizes, (sizes.wide, sizes.wide))
  mib = lambda program, *arguments: (
    program.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    / 2**20
  )
  row = {
    'case': f'memory at d={task.policy.size}, temporary MiB',
    'ours': mib(*_ours(task.evaluator, sizes.population, 1)),
    'peer': None,
    'ratio': None,
    'note': '',
  }
  try:
    _, state, generation = task.evosax()
    row['peer'] = mib(jax.jit(generation), state, jax.random.key(2))
    row['ratio'] = row['ours'] / row['peer']
  except Refused as reason:
    row['note'] = f'peer left out: {reason}'
  return row


@dataclasses.dataclass(frozen=True, eq=False)
class EvojaxTask:
  """evojax's cart-pole swing-up as a `protocol.Environment`.

  Attributes:
    task: its vectorised task.
    max_steps: of an episode.
  """

  task: Any
  max_steps: int

  @property
  def observation_space(self) -> spaces.Space:
    """Of its five numbers."""
    return spaces.Box((5,), -1e6, 1e6)

  @property
  def action_space(self) -> spaces.Space:
    """Of the force."""
    return spaces.Box((1,), -1.0, 1.0)

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


def _evojax_parameters(policy: policies.MLP, theta: jax.Array) -> jax.Array:
  """Ours as evojax ravels them: per layer, biases before weights."""
  layers = policy.unravel(theta)
  parts = [part.reshape(-1) for w, b in layers for part in (b, w)]
  return jnp.concatenate(parts)


def _cartpole_row(sizes: Sizes, rounds: int) -> dict[str, Any]:
  """Evojax's published setting for its task, CPU ms per generation."""
  case = {'case': 'cart-pole of evojax, PGPE and SimManager, CPU ms'}
  try:
    cartpole = _import('evojax.task.cartpole')
    peers = {
      name: _import(f'evojax.{name}') for name in ('policy', 'algo', 'sim_mgr')
    }
  except Refused as reason:
    empty = {'ours': None, 'peer': None, 'ratio': None}
    return case | empty | {'note': f'left out: {reason}'}
  if not hasattr(jax, 'tree_map'):
    # evojax is older than its removal.
    jax.tree_map = jax.tree.map
  task = cartpole.CartPoleSwingUp(max_steps=sizes.cartpole_steps, harder=True)
  env = EvojaxTask(task, sizes.cartpole_steps)
  policy = policies.MLP(env.observation_space, env.action_space, (64, 64))
  evaluator = jax_evaluator.JaxEvaluator(env, policy, episodes=sizes.repeats)
  net = peers['policy'].MLPPolicy(5, [64, 64], 1)
  solver = peers['algo'].PGPE(
    pop_size=sizes.cartpole_population,
    param_size=net.num_params,
    optimizer='adam',
    center_learning_rate=0.05,
    init_stdev=0.1,
  )
  manager = peers['sim_mgr'].SimManager(
    n_repeats=sizes.repeats,
    test_n_repeats=1,
    pop_size=sizes.cartpole_population,
    n_evaluations=1,
    policy_net=net,
    train_vec_task=task,
    valid_vec_task=task,
  )
  run, state = _ours(evaluator, sizes.cartpole_population, 1)

  def peer() -> Any:
    scores, _ = manager.eval_params(solver.ask(), test=False)
    solver.tell(scores)
    return solver.best_params

  def make() -> Callable[[], Any]:
    _check_actions(policy, net)
    return peer

  return case | _row(lambda: run(state), make, rounds, 1)


def _check_actions(policy: policies.MLP, net: Any) -> None:
  """Refuses if the policies differ; the task is the same code."""
  keys = jax.random.split(jax.random.key(3), 4)
  thetas = jax.vmap(policy.init)(keys)
  observations = jax.random.normal(jax.random.key(4), (4, 5))
  act = lambda theta, x: policy.act(policy.unravel(theta), (), x)[1]
  theirs, _ = net.get_actions(
    types.SimpleNamespace(obs=observations),
    jax.vmap(functools.partial(_evojax_parameters, policy))(thetas),
    None,
  )
  _compare(jax.vmap(act)(thetas, observations), theirs)


def _versions() -> dict[str, str | None]:
  found = {}
  for name in _PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      found[name] = None
  return found | {'python': platform.python_version()}


def main(arguments: Sequence[str] | None = None) -> None:
  """Checks, measures, prints and writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=11)
  for field in dataclasses.fields(Sizes):
    parser.add_argument(f'--{field.name}', type=int, default=field.default)
  out = ROOT / 'benchmarks' / 'results' / 'es.json'
  parser.add_argument('--out', type=pathlib.Path, default=out)
  args = parser.parse_args(arguments)
  names = [field.name for field in dataclasses.fields(Sizes)]
  sizes = Sizes(**{name: getattr(args, name) for name in names})
  before = os.getloadavg()[0]
  revision, dirty = provenance.commit()
  rows = _pendulum_rows(sizes, args.rounds)
  rows += [_memory_row(sizes), _cartpole_row(sizes, args.rounds)]
  device = f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores'
  result = {
    'name': 'es',
    'device': device,
    'versions': _versions(),
    'commit': revision and revision[:12] + ('-dirty' if dirty else ''),
    'load': {'before': before, 'after': os.getloadavg()[0]},
    'sizes': dataclasses.asdict(sizes) | {'rounds': args.rounds},
    'rows': rows,
  }
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps(result, indent=2) + '\n')
  print(tables.table(rows))


if __name__ == '__main__':
  main()
