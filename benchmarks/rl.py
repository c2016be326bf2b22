"""Time per step of PPO in one compiled program, beside purejaxrl.

Cart-pole with the recipe that purejaxrl publishes: 4 lanes of 128 steps, 4 epochs
of 4 minibatches, MLPs 64-64 with tanh, Adam with a rate annealed from 2.5e-4.
Then 64 agents by `vmap` beside one, per step of any agent, on one device and
shared out over as many host devices as there are cores; and a 2048 x 2048
product, whose rate no number of agents can beat: its time per as many operations
as the products of a step have.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import harness, programs
from rl import networks, rollout
from rl.envs import cartpole, lanes
from rl.ppo import ppo as ppo_lib
from runtime.devices import counting

_LANES, _LENGTH, _MINIBATCHES, _EPOCHS, _RATE = 4, 128, 4, 4, 2.5e-4
_STEPS = _LANES * _LENGTH
# Environment steps of the published run, over which the rate is annealed.
_PUBLISHED_STEPS = 500_000
# Rows and columns of the product that tells the machine's rate.
_PRODUCT = 2048


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and settings of the measurement."""

  iterations: int = 100  # Of acting and learning of one agent.
  agents: int = 64  # That are trained at once.
  devices: int = 0  # That share them out; 0 for as many as there are.


def ours(
  iterations: int, agents: int = 1, devices: int = 1
) -> programs.Program:
  """Our program; agents are trained at once, each from its own key.

  On each of several devices all agents act at once and learn one after the
  other, which keeps what an agent learns from in the cache.
  """
  keys, train = jax.random.key(0), _training(iterations)
  if agents > 1:
    # Not for one: mapped conditions are selections, which compute both sides.
    keys, train = jax.random.split(keys, agents), jax.vmap(train)
  if devices > 1:
    train = _training(iterations, in_turn=True)
    kind, part = (
      jax.sharding.AxisType.Auto,
      jax.sharding.PartitionSpec('agents'),
    )
    chosen = jax.devices()[:devices]
    mesh = jax.make_mesh((devices,), ('agents',), (kind,), devices=chosen)
    train = jax.shard_map(
      train, mesh=mesh, in_specs=part, out_specs=part, check_vma=False
    )
  steps = agents * iterations * _STEPS
  return programs.compiled(train, lambda seed: (keys,), units=steps)


def bound() -> programs.Program:
  """A large product, as the environment steps whose products cost as much."""
  flops = lambda n: counting.matmul_flops(_training(n), jax.random.key(0))
  # A second iteration's: the first has the initialisation beside it.
  operations = (flops(2) - flops(1)) / _STEPS
  x = jax.random.normal(jax.random.key(1), (_PRODUCT, _PRODUCT))
  steps = round(2 * _PRODUCT**3 / operations)
  return programs.compiled(jnp.matmul, lambda seed: (x, x), units=steps)


def task() -> tuple[lanes.Lanes, ppo_lib.PPOLearner]:
  """Lanes and learner of the recipe."""
  vector = lanes.Lanes(cartpole.CartPoleBalance(), _LANES)
  updates = _PUBLISHED_STEPS // _STEPS * _MINIBATCHES * _EPOCHS
  settings = ppo_lib.PPO(
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


def _training(
  iterations: int, *, in_turn: bool = False
) -> Callable[[jax.Array], Any]:
  """Trains one agent from a key, or agents that learn in turn from theirs."""
  vector, learner = task()
  each = jax.vmap if in_turn else (lambda function, **_: function)
  split = lambda n: each(functools.partial(jax.random.split, num=n), out_axes=1)
  learn = learner.learn
  if in_turn:
    learn = lambda *x: jax.lax.map(lambda one: learner.learn(*one), x)

  def collect(state: Any, stage: Any, key: jax.Array) -> Any:
    acting = learner.acting(state)
    return rollout.collect(vector, learner, acting, stage, key)

  def iterate(carry: tuple, key: jax.Array) -> tuple[tuple, Any]:
    state, stage = carry
    act_key, learn_key = split(2)(key)
    stage, trajectory = each(collect)(state, stage, act_key)
    state, metrics = learn(state, trajectory, learn_key)
    return (state, stage), (metrics, trajectory.episode_return)

  def train(key: jax.Array) -> Any:
    init_key, lanes_key, key = split(3)(key)
    start = lambda key: rollout.start(vector, learner, key)
    carry = each(learner.init)(init_key), each(start)(lanes_key)
    carry, found = jax.lax.scan(iterate, carry, split(iterations)(key))
    if in_turn:  # Agents lead, as when one agent is mapped.
      found = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), found)
    return carry, found

  return train


def purejaxrl(iterations: int, agents: int = 1) -> programs.Program:
  """The published program; the same number of steps of as many agents."""
  ppo = programs.peer('purejaxrl.ppo')
  config = {
    **{'LR': _RATE, 'ANNEAL_LR': True, 'MAX_GRAD_NORM': 0.5},
    **{'NUM_ENVS': _LANES, 'NUM_STEPS': _LENGTH},
    **{'UPDATE_EPOCHS': _EPOCHS, 'NUM_MINIBATCHES': _MINIBATCHES},
    **{'GAMMA': 0.99, 'GAE_LAMBDA': 0.95, 'CLIP_EPS': 0.2},
    **{'ENT_COEF': 0.01, 'VF_COEF': 0.5, 'ACTIVATION': 'tanh'},
    'ENV_NAME': 'CartPole-v1',
    'TOTAL_TIMESTEPS': iterations * _STEPS,
  }
  train, keys = ppo.make_train(config), jax.random.PRNGKey(0)
  if agents > 1:
    keys, train = jax.random.split(keys, agents), jax.vmap(train)
  return programs.compiled(
    train, lambda seed: (keys,), units=agents * iterations * _STEPS
  )


ONE, PEER = 'one agent', 'purejaxrl'
PRODUCTS = 'products alone at full rate'


def _forms(sizes: Sizes, case: str) -> list[harness.Form]:
  del case
  count = sizes.devices or jax.device_count()
  # As many iterations as keep a call short.
  fewer = max(sizes.iterations // sizes.agents, 4)
  many = lambda devices: harness.Form(
    f'{sizes.agents} agents on {devices} devices',
    lambda case: ours(fewer, sizes.agents, devices),
    ours=True,
  )
  return [
    harness.Form(ONE, lambda case: ours(sizes.iterations), ours=True),
    harness.Form(PEER, lambda case: purejaxrl(sizes.iterations), peer=True),
    *(many(devices) for devices in sorted({1, count})),
    harness.Form(PRODUCTS, lambda case: bound()),
  ]


def _prepare() -> None:
  """As many devices as cores: agents on different ones share no thread."""
  jax.config.update('jax_num_cpu_devices', len(os.sched_getaffinity(0)))


SUBJECT = harness.Subject(
  'rl',
  Sizes(),
  quick=Sizes(iterations=2, agents=2, devices=1),
  cases=lambda sizes: ['PPO on cart-pole'],
  forms=_forms,
  beside=lambda one, two: (
    two.form == (PEER if one.form == ONE else ONE) and one.form != PEER
  ),
  settings=programs.Settings(rounds=9, seconds=120.0),
  clock='cpu',
  unit='CPU us per environment step',
  scale=1e6,
  prepare=_prepare,
  packages=('jax', 'jaxlib', 'numpy', 'optax', 'flax', 'gymnax', 'distrax'),
)
