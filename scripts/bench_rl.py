"""Time per step of PPO in one compiled program, beside purejaxrl.

  python scripts/bench_rl.py --purejaxrl=PATH

Cart-pole with the recipe purejaxrl publishes: 4 lanes of 128 steps, 4 epochs of
4 minibatches, MLPs 64-64 with tanh, Adam with a rate annealed from 2.5e-4. PATH
is a checkout whose `purejaxrl/ppo.py` is imported; without it ours is measured
alone. Both sides run in one process, in turns; times are microseconds of the CPU
(all threads) and of the clock per environment step, medians, and ratios medians
over turns. Then 64 agents by `vmap` beside one, per step of any agent, on one
device and shared out over as many host devices as there are cores; and what no
number of agents can beat: the time of a 2048 x 2048 product with as many
operations as the products of a step. Prints a table; writes
`benchmarks/results/rl.json`.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rl import learner as learner_lib
from rl import networks, rollout
from rl.envs import cartpole, lanes
from rl.ppo import algorithm
from runtime.devices import counting
from runtime.record import provenance, tables

__all__ = ['bound', 'main', 'measure', 'ours']

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = ('jax', 'jaxlib', 'numpy', 'optax', 'flax', 'gymnax', 'distrax')
_LANES, _LENGTH, _MINIBATCHES, _EPOCHS, _RATE = 4, 128, 4, 4, 2.5e-4
_STEPS = _LANES * _LENGTH
# Environment steps of the published run, over which the rate is annealed.
_PUBLISHED_STEPS = 500_000
# Rows and columns of the product that tells the machine's rate.
_PRODUCT = 2048


@dataclasses.dataclass(frozen=True)
class Side:
  """One program.

  Attributes:
    run: trains.
    steps: environment steps it takes.
  """

  run: Callable[[], Any]
  steps: int


def ours(iterations: int, agents: int = 1, devices: int = 1) -> Side:
  """Our program.

  Args:
    iterations: of acting and learning.
    agents: trained at once, each from its own key.
    devices: that share the agents out; on each, all act at once and learn one
      after the other, which keeps what an agent learns from in the cache.
  """
  keys, train = jax.random.key(0), _training(iterations)
  if agents > 1:
    # Not for one: mapped conditions are selections, which compute both sides.
    keys, train = jax.random.split(keys, agents), jax.vmap(train)
  if devices > 1:
    train = _in_turn(iterations)
    kind = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh(
      (devices,), ('agents',), kind, devices=jax.devices()[:devices]
    )
    part = jax.sharding.PartitionSpec('agents')
    train = jax.shard_map(
      train, mesh=mesh, in_specs=part, out_specs=part, check_vma=False
    )
  train = jax.jit(train)
  return Side(lambda: train(keys), agents * iterations * _STEPS)


def bound() -> Side:
  """A large product, as the environment steps whose products cost as much."""
  # A second iteration's: the first has the initialisation beside it.
  one, two = (
    counting.matmul_flops(_training(n), jax.random.key(0)) for n in (1, 2)
  )
  operations = (two - one) / _STEPS
  x = jax.random.normal(jax.random.key(1), (_PRODUCT, _PRODUCT))
  square = jax.jit(jnp.matmul)
  return Side(lambda: square(x, x), round(2 * _PRODUCT**3 / operations))


def _task() -> tuple[lanes.Lanes, learner_lib.Learner]:
  """Lanes and learner of the recipe."""
  vector = lanes.Lanes(cartpole.CartPoleBalance(), _LANES)
  updates = _PUBLISHED_STEPS // _STEPS * _MINIBATCHES * _EPOCHS
  settings = algorithm.PPO(
    encoder=networks.MLP((64, 64)),
    separate=True,
    value_init=networks.orthogonal(1.0),
    unroll_length=_LENGTH,
    num_minibatches=_MINIBATCHES,
    num_epochs=_EPOCHS,
    learning_rate=optax.linear_schedule(_RATE, 0.0, updates),
    # The peer halves the squared error, and weighs it by 1/2.
    value_cost=0.25,
    discount=0.99,
    normalize_rewards=False,
  )
  return vector, settings.learner(
    vector.observation_space, vector.action_space, _LANES
  )


def _training(iterations: int) -> Callable[[jax.Array], Any]:
  """Trains one agent from a key."""
  vector, learner = _task()

  def iterate(carry: tuple, key: jax.Array) -> tuple[tuple, Any]:
    state, stage = carry
    act_key, learn_key = jax.random.split(key)
    stage, trajectory = rollout.collect(
      vector, learner, learner.acting(state), stage, act_key
    )
    state, metrics = learner.learn(state, trajectory, learn_key)
    return (state, stage), (metrics, trajectory.episode_return)

  def train(key: jax.Array) -> Any:
    init_key, lanes_key, key = jax.random.split(key, 3)
    carry = learner.init(init_key), rollout.start(vector, learner, lanes_key)
    return jax.lax.scan(iterate, carry, jax.random.split(key, iterations))

  return train


def _in_turn(iterations: int) -> Callable[[jax.Array], Any]:
  """Trains agents from their keys as `_training` does each."""
  vector, learner = _task()

  def collect(state: Any, stage: Any, key: jax.Array) -> Any:
    acting = learner.acting(state)
    return rollout.collect(vector, learner, acting, stage, key)

  def iterate(carry: tuple, keys: jax.Array) -> tuple[tuple, Any]:
    state, stage = carry
    act_keys, learn_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    stage, trajectory = jax.vmap(collect)(state, stage, act_keys)
    state, metrics = jax.lax.map(
      lambda one: learner.learn(*one), (state, trajectory, learn_keys)
    )
    return (state, stage), (metrics, trajectory.episode_return)

  def train(keys: jax.Array) -> Any:
    split = functools.partial(jax.random.split, num=3)
    init_keys, lanes_keys, keys = jax.vmap(split, out_axes=1)(keys)
    start = lambda key: rollout.start(vector, learner, key)
    carry = jax.vmap(learner.init)(init_keys), jax.vmap(start)(lanes_keys)
    split = functools.partial(jax.random.split, num=iterations)
    carry, found = jax.lax.scan(
      iterate, carry, jax.vmap(split, out_axes=1)(keys)
    )
    # Agents lead, as of `_training` mapped.
    return carry, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), found)

  return train


def _peer(path: pathlib.Path, iterations: int) -> Side:
  """The published program; the same number of steps."""
  sys.path.insert(0, str(path))
  try:
    ppo = __import__('purejaxrl.ppo', fromlist=['_'])
  finally:
    sys.path.remove(str(path))
  config = {
    'LR': _RATE,
    'NUM_ENVS': _LANES,
    'NUM_STEPS': _LENGTH,
    'TOTAL_TIMESTEPS': iterations * _STEPS,
    'UPDATE_EPOCHS': _EPOCHS,
    'NUM_MINIBATCHES': _MINIBATCHES,
    'GAMMA': 0.99,
    'GAE_LAMBDA': 0.95,
    'CLIP_EPS': 0.2,
    'ENT_COEF': 0.01,
    'VF_COEF': 0.5,
    'MAX_GRAD_NORM': 0.5,
    'ACTIVATION': 'tanh',
    'ENV_NAME': 'CartPole-v1',
    'ANNEAL_LR': True,
  }
  train = jax.jit(ppo.make_train(config))
  key = jax.random.PRNGKey(0)
  return Side(lambda: train(key), iterations * _STEPS)


def measure(
  side: Side, other: Side | None, rounds: int
) -> list[dict[str, float | str | None]]:
  """Steps per second of both, in turns.

  Args:
    side: measured.
    other: the peer; None: there is none.
    rounds: turns.

  Returns:
    A row per clock: medians, and the median of the ratios side / other.
  """
  sides = [s for s in (side, other) if s is not None]
  for one in sides:
    jax.block_until_ready(one.run())
  clocks = {'CPU': time.process_time, 'wall': time.perf_counter}
  times: dict[str, list[list[float]]] = {c: [[], []] for c in clocks}
  for _ in range(rounds):
    for index, one in enumerate(sides):
      begin = {name: clock() for name, clock in clocks.items()}
      jax.block_until_ready(one.run())
      for name, clock in clocks.items():
        taken = 1e6 * (clock() - begin[name])
        times[name][index].append(taken / one.steps)
  return [_row(name, *found) for name, found in times.items()]


def _row(
  clock: str, found: list[float], others: list[float]
) -> dict[str, float | str | None]:
  row = {'clock': clock, 'ours': statistics.median(found)}
  row |= {'peer': None, 'ratio': None}
  if others:
    row['peer'] = statistics.median(others)
    ratios = [a / b for a, b in zip(found, others, strict=True)]
    row['ratio'] = statistics.median(ratios)
  return row


def _versions() -> dict[str, str | None]:
  found = {}
  for name in _PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      found[name] = None
  return found | {'python': platform.python_version()}


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--purejaxrl', type=pathlib.Path)
  parser.add_argument('--peer_note', default='', help='what was changed in it')
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--iterations', type=int, default=100)
  parser.add_argument('--agents', type=int, default=64)
  parser.add_argument('--devices', type=int, default=jax.device_count())
  out = ROOT / 'benchmarks' / 'results' / 'rl.json'
  parser.add_argument('--out', type=pathlib.Path, default=out)
  return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures, prints and writes."""
  args = _arguments(arguments)
  before = os.getloadavg()[0]
  revision, dirty = provenance.commit()
  one = ours(args.iterations)
  peer, note = None, 'peer left out: no --purejaxrl'
  if args.purejaxrl is not None:
    peer, note = _peer(args.purejaxrl, args.iterations), args.peer_note
  cases = [
    (
      'one agent, beside purejaxrl, us per step',
      measure(one, peer, args.rounds),
    )
  ]
  # As many iterations as keep a call short.
  iterations = max(args.iterations // args.agents, 4)
  for devices in sorted({1, args.devices}):
    many = ours(iterations, args.agents, devices)
    name = f'{args.agents} agents on {devices} devices, beside one, us per step'
    cases.append((name, measure(many, one, args.rounds)))
  name = 'products alone at full rate, beside one, us per step'
  cases.append((name, measure(bound(), one, args.rounds)))
  rows = [{'case': case, **row} for case, found in cases for row in found]
  result = {
    'name': 'rl',
    'device': f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores',
    'versions': _versions(),
    'commit': revision and revision[:12] + ('-dirty' if dirty else ''),
    'load': {'before': before, 'after': os.getloadavg()[0]},
    'sizes': {k: getattr(args, k) for k in ('rounds', 'iterations', 'agents')},
    'notes': note,
    'rows': rows,
  }
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps(result, indent=2) + '\n')
  print(tables.table(rows))


if __name__ == '__main__':
  # As many devices as cores: agents on different ones share no thread.
  jax.config.update('jax_num_cpu_devices', len(os.sched_getaffinity(0)))
  main()
