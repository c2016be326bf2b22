"""Rules, small networks, and twins of policies in float64, node by node."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from nas.es_enas import edges, operations, partitions, policies
from nas.es_enas import sharing as sharing_lib
from nas.es_enas import space as space_lib
from rl.envs import spaces
from tests import seeds

OBSERVATIONS = spaces.Box((4,), -1.0, 1.0)
ACTIONS = spaces.Box((2,), (-1.0, 0.0), (3.0, 5.0))
PICTURES = spaces.Box((6, 6, 2), -1.0, 1.0)

RULES = {
  'dense': sharing_lib.Dense(),
  'toeplitz': sharing_lib.Toeplitz(),
  'circulant': sharing_lib.Circulant(),
  'random': partitions.RandomPartition(5, seed=3),
  'partition': partitions.Partition(5),
  'partition per layer': partitions.Partition(3, per_layer=True),
  'aggregate': edges.Pruned(9),
  'independent': edges.Pruned((6, 4)),
  'mask': edges.Mask(),
  'masked': edges.Masked(temperature=0.5),
}


def make(rule, hidden=(3,), **options):
  """The policy of 4 states and 2 actions."""
  rule = RULES[rule] if isinstance(rule, str) else rule
  return policies.feed_forward(
    OBSERVATIONS, ACTIONS, sharing=rule, hidden=hidden, **options
  )


def make_flax(rule, kernels=('params/*/kernel',)):
  """The policy of pictures and 2 actions that a user's module makes."""
  return policies.flax_module(
    PICTURES,
    ACTIONS,
    module=Net(),
    sharing=RULES[rule] if isinstance(rule, str) else rule,
    kernels=kernels,
  )


def draw(policy, number, count):
  """Random thetas [count, d] and architectures [count, D], of NumPy."""
  rng = seeds.rng(number)
  thetas = np.float32(rng.normal(size=(count, policy.size)))
  return thetas, architectures(policy.space, rng, count)


def architectures(space, rng, count):
  """Random ones [count, D], without a program that samples them."""
  drawn = np.zeros((count, space.length), np.int32)
  for row in drawn:
    parts = [_decisions(group, rng) for group in space.groups]
    row[:] = np.concatenate([*parts, []])
  return drawn


def _decisions(group, rng):
  if isinstance(group, space_lib.Choices):
    return rng.integers(group.options, size=group.count)
  return rng.permutation(group.options)[: group.count]


@functools.partial(jax.jit, static_argnums=0)
def weights(policy, member):
  """One program for a policy."""
  return policy.weights(member)


def observations(number, count, shape=(4,)):
  """Standard normal, float32."""
  drawn = seeds.rng(number).normal(size=(count, *shape))
  return jnp.asarray(drawn, jnp.float32)


@jax.jit(static_argnums=0)
def act(policy, members, seen):
  """Every member's actions on every observation, [members, seen, ...]."""

  def one(member):
    params = policy.unravel(member)
    return jax.vmap(lambda x: policy.act(params, (), x)[1])(seen)

  return jax.vmap(one)(members)


TWINS = {
  jnp.tanh: np.tanh,
  jax.nn.relu: lambda x: max(x, 0.0),
  jnp.exp: np.exp,
  operations.identity: lambda x: x,
  jnp.sin: np.sin,
  jax.nn.sigmoid: lambda x: 1 / (1 + np.exp(-x)),
  jnp.abs: abs,
  jnp.cos: np.cos,
  jnp.square: lambda x: x * x,
  operations.step: lambda x: float(x > 0),
  operations.reciprocal: lambda x: 1 / np.copysign(max(abs(x), 1e-3), x),
}


def node_by_node(network, present, weights, biases, chosen, x):
  """The action, by a walk over all nodes in their order.

  Args:
    network: its layers and whether it is residual.
    present: set of the numbers of edges.
    weights: by number of edge.
    biases: of hidden nodes in their order.
    chosen: operations of hidden nodes; None: tanh.
    x: one observation.
  """
  inputs, *hidden, outputs = network.layers
  values, edge, last = list(np.asarray(x, np.float64)), 0, inputs
  incoming = {}
  for layer, width in enumerate([*hidden, outputs]):
    first = 0 if network.residual else last - network.layers[layer]
    for source in range(first, last):
      for target in range(last, last + width):
        if edge in present:
          incoming.setdefault(target, []).append((source, weights[edge]))
        edge += 1
    last += width
  for node in range(inputs, last):
    total = sum(values[s] * w for s, w in incoming.get(node, []))
    index = node - inputs
    if index < sum(hidden):
      function = np.tanh if chosen is None else TWINS[chosen[index]]
      total = function(total + biases[index])
    values.append(total)
  unit = np.tanh(values[-outputs:])
  low, high = network.action_space.bounds
  return low + (unit + 1) / 2 * (high - low)


class Net(nn.Module):
  """A user's small convolutional network."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(3, (3, 3), strides=2, name='conv')(x))
    x = nn.LayerNorm(name='norm')(x).reshape(-1)
    return nn.Dense(2, name='head')(x)
