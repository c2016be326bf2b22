"""Networks whose edges can be pruned or share weights.

A network names its matrices, whose entries are the candidate edges, and counts
its other parameters. It knows nothing of how edges get their weights.

Letters: E edges, R other parameters, a outputs, h hidden nodes.
"""

import collections
import dataclasses
import fnmatch
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree, Shaped

from nas.es_enas import operations as operations_lib
from nas.es_enas import sharing as sharing_lib
from nas.es_enas import space as space_lib
from rl import ranges
from rl.envs import spaces
from rl.es import geometry as geometry_lib
from rl.es import policies

__all__ = ['FeedForward', 'Network', 'OfPolicy']


@runtime_checkable
class Network(Protocol):
  """Maps observations to actions; hashable."""

  @property
  def shapes(self) -> sharing_lib.Shapes:
    """(fan in, fan out) of the matrices."""
    ...

  @property
  def uses(self) -> tuple[int, ...]:
    """How often an action multiplies by one edge of each matrix."""
    ...

  @property
  def rest(self) -> int:
    """R, the number of parameters that are not edges."""
    ...

  @property
  def groups(self) -> tuple[space_lib.Group, ...]:
    """Decisions that the network itself leaves to a controller."""
    ...

  def init_rest(self, key: Key[Array, '']) -> Float[Array, ' R']:
    """Draws the first of the other parameters."""
    ...

  def assemble(
    self,
    edges: Float[Array, ' E'],
    rest: Float[Array, ' R'],
    parts: sharing_lib.Parts,
  ) -> PyTree:
    """The parameters that `act` takes.

    Args:
      edges: weights, in the order of `sharing.Sharing`.
      rest: other parameters.
      parts: the decisions of `groups`; those of others are not looked at.
    """
    ...

  def geometry(self, entries: int) -> geometry_lib.Geometry:
    """The way theta moves: a table of that many weights, then the rest."""
    ...

  def initial_memory(self) -> PyTree:
    """See `rl.es.policies.Policy`."""
    ...

  def act(
    self, params: PyTree, memory: PyTree, observation: Shaped[Array, '...']
  ) -> tuple[PyTree, Shaped[Array, '...']]:
    """See `rl.es.policies.Policy`."""
    ...


@dataclasses.dataclass(frozen=True)
class FeedForward:
  """Layers of nodes; hidden nodes have biases, states and actions none.

  Attributes:
    observation_space: a box of floats, flattened.
    action_space: see `rl.es.policies.to_action`.
    hidden: widths of the hidden layers; () is a linear policy.
    residual: whether there are edges from every layer to all later ones, from
      states to actions too; else between consecutive layers only. The matrix of
      a layer then has all nodes before it as inputs.
    operations: functions of hidden nodes. One is that of all nodes; of several,
      such as `operations.ALL`, an architecture chooses one for every node.

  Raises:
    ValueError: if a width is not positive, a space is not supported, there is
      no operation, or a choice of them without a hidden node.
  """

  observation_space: spaces.Space
  action_space: spaces.Space
  hidden: tuple[int, ...] = ()
  residual: bool = False
  operations: tuple[operations_lib.Operation, ...] = (jnp.tanh,)

  def __post_init__(self) -> None:
    policies.check_observations(self.observation_space)
    policies.num_outputs(self.action_space)
    ranges.check_counts(hidden=self.hidden)
    if not self.operations:
      raise ValueError('hidden nodes need an operation, got operations=()')
    if len(self.operations) > 1 and not self.hidden:
      raise ValueError(
        'a choice of operations needs hidden nodes, got hidden=()'
      )

  @property
  def layers(self) -> tuple[int, ...]:
    """Number of nodes of all layers, states and actions included."""
    inputs = math.prod(self.observation_space.shape)
    return (inputs, *self.hidden, policies.num_outputs(self.action_space))

  @property
  def shapes(self) -> sharing_lib.Shapes:
    """One matrix for every layer but the first."""
    sources = self.layers[:-1]
    if self.residual:
      sources = itertools.accumulate(sources)
    return tuple(zip(sources, self.layers[1:], strict=True))

  @property
  def uses(self) -> tuple[int, ...]:
    """Once each."""
    return (1,) * len(self.shapes)

  @property
  def rest(self) -> int:
    """A bias for every hidden node."""
    return sum(self.hidden)

  @property
  def groups(self) -> tuple[space_lib.Group, ...]:
    """The operation of every hidden node, if there are several."""
    options = len(self.operations)
    if options == 1:
      return ()
    return (space_lib.Choices('operations', sum(self.hidden), options),)

  def init_rest(self, key: Key[Array, '']) -> Float[Array, ' R']:
    """Biases 0."""
    del key
    return jnp.zeros(self.rest)

  def assemble(
    self,
    edges: Float[Array, ' E'],
    rest: Float[Array, ' R'],
    parts: sharing_lib.Parts,
  ) -> PyTree:
    """Matrices; biases and operations of the hidden layers."""
    ends = list(itertools.accumulate(self.hidden))
    nodes = lambda x: jnp.split(x, ends)[:-1]
    chosen = jnp.zeros(self.rest, jnp.int32)
    if self.groups:
      chosen = parts['operations']
    return _matrices(edges, self.shapes), nodes(rest), nodes(chosen)

  def geometry(self, entries: int) -> geometry_lib.Geometry:
    """See `Network`."""
    del entries
    return geometry_lib.EUCLIDEAN

  def initial_memory(self) -> PyTree:
    """None."""
    return ()

  def act(
    self, params: PyTree, memory: PyTree, observation: Shaped[Array, '...']
  ) -> tuple[PyTree, Shaped[Array, '...']]:
    """See `Network`."""
    outputs = self.outputs(params, observation)
    return memory, policies.to_action(self.action_space, outputs)

  def outputs(
    self, params: PyTree, observation: Shaped[Array, '...']
  ) -> Float[Array, ' a']:
    """The numbers that choose the action on one observation."""
    matrices, biases, chosen = params
    x = observation.reshape(-1).astype(jnp.float32)
    for matrix, bias, choice in zip(matrices[:-1], biases, chosen, strict=True):
      sums = policies.product(x, matrix) + bias
      nodes = operations_lib.apply(self.operations, choice, sums)
      x = jnp.concatenate([x, nodes]) if self.residual else nodes
    return policies.product(x, matrices[-1])


@dataclasses.dataclass(frozen=True)
class OfPolicy:
  """A policy of `rl`; the entries of some of its matrices are the edges.

  A kernel [..., fan out] is a matrix, of all its axes but the last one: that of
  a convolution has height x width x channels rows. All other parameters, such as
  biases, are not shared.

  Attributes:
    policy: with parameters by name, such as `rl.es.policies.FlaxPolicy`: it has
      their `shapes`, and theta are their entries in the order of
      `jax.tree.leaves`.
    kernels: patterns (`fnmatch`) of the paths of parameters whose entries are
      edges, such as 'params/Conv_*/kernel'; `*` matches slashes too.

  Raises:
    ValueError: if the policy names no parameters, there is no pattern, or one
      matches none, one of fewer than two axes, or one that may not move freely.
  """

  policy: policies.Policy
  kernels: tuple[str, ...] = ('params/*kernel',)

  def __post_init__(self) -> None:
    if not isinstance(getattr(self.policy, 'shapes', None), Mapping):
      raise ValueError(
        'the policy must have parameters by name, its attribute `shapes`, got '
        f'{self.policy}'
      )
    paths = [path for path, _ in self._leaves]
    if not self.kernels:
      raise ValueError(f'kernels need a pattern of {paths}, got kernels=()')
    for pattern in self.kernels:
      if not fnmatch.filter(paths, pattern):
        raise ValueError(
          f'every pattern of kernels must match a variable, got {pattern!r} '
          f'for {paths}'
        )
    for path, leaf in self._leaves:
      if self._is_kernel(path) and leaf.ndim < 2:
        raise ValueError(
          f'kernels must have two axes or more, got {path!r} of shape '
          f'{leaf.shape}'
        )
    self.geometry(0)

  @functools.cached_property
  def _leaves(self) -> list[tuple[str, jax.ShapeDtypeStruct]]:
    """Paths and shapes of all parameters."""
    found = jax.tree_util.tree_leaves_with_path(self.policy.shapes)
    name = functools.partial(jax.tree_util.keystr, simple=True, separator='/')
    return [(name(path), leaf) for path, leaf in found]

  def _is_kernel(self, path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, p) for p in self.kernels)

  def _split(self, leaves: list[Any]) -> tuple[list[Any], list[Any]]:
    """The kernels, and the rest, of something for every parameter."""
    halves: tuple[list[Any], list[Any]] = ([], [])
    for (path, _), leaf in zip(self._leaves, leaves, strict=True):
      halves[not self._is_kernel(path)].append(leaf)
    return halves

  @functools.cached_property
  def _halves(self) -> tuple[list[Any], list[Any]]:
    return self._split(self._leaves)

  @property
  def shapes(self) -> sharing_lib.Shapes:
    """One matrix for every kernel, in the order of their paths."""
    kernels = [leaf.shape for _, leaf in self._halves[0]]
    return tuple((math.prod(s[:-1]), s[-1]) for s in kernels)

  @functools.cached_property
  def uses(self) -> tuple[int, ...]:
    """Number of positions at which a layer applies its kernel.

    That is the size of the layer's output over its attribute `features`, of
    each call: Dense, Conv and their like. Kernels of other layers count once.
    """
    found: collections.Counter[str] = collections.Counter()

    def count(
      call: Callable[..., Any], args: Any, kwargs: Any, context: Any
    ) -> Any:
      output = call(*args, **kwargs)
      features = getattr(context.module, 'features', None)
      if features is not None and hasattr(output, 'size'):
        path = '/'.join(('params', *context.module.path))
        found[path] += output.size // int(np.prod(features))
      return output

    space = self.policy.observation_space
    with nn.intercept_methods(count):
      jax.eval_shape(
        lambda theta, seen: self.policy.act(
          self.policy.unravel(theta), self.initial_memory(), seen
        ),
        jax.ShapeDtypeStruct((self.policy.size,), jnp.float32),
        jax.ShapeDtypeStruct(space.shape, space.dtype),
      )
    layers = [path.rpartition('/')[0] for path, _ in self._halves[0]]
    return tuple(found.get(layer, 1) for layer in layers)

  @property
  def rest(self) -> int:
    """Numbers in all other parameters."""
    return sum(leaf.size for _, leaf in self._halves[1])

  @property
  def groups(self) -> tuple[space_lib.Group, ...]:
    """None."""
    return ()

  def init_rest(self, key: Key[Array, '']) -> Float[Array, ' R']:
    """The policy's own initialisation."""
    theta = self.policy.init(key)
    ends = np.cumsum([leaf.size for _, leaf in self._leaves])
    rest = self._split(jnp.split(theta, ends[:-1]))[1]
    return jnp.concatenate([*rest, jnp.zeros(0)])

  def assemble(
    self,
    edges: Float[Array, ' E'],
    rest: Float[Array, ' R'],
    parts: sharing_lib.Parts,
  ) -> PyTree:
    """The policy's parameters, as its own `act` takes them."""
    del parts
    leaves, starts = [], {True: 0, False: 0}
    for path, leaf in self._leaves:
      kernel = self._is_kernel(path)
      source, start = edges if kernel else rest, starts[kernel]
      starts[kernel] += leaf.size
      leaves.append(source[start : start + leaf.size])
    return self.policy.unravel(jnp.concatenate(leaves))

  def geometry(self, entries: int) -> geometry_lib.Geometry:
    """The policy's own geometry, of the parameters that are not shared."""
    kept = [not self._is_kernel(path) for path, _ in self._leaves]
    return geometry_lib.of(self.policy).part(kept, free=entries)

  def initial_memory(self) -> PyTree:
    """The policy's."""
    return self.policy.initial_memory()

  def act(
    self, params: PyTree, memory: PyTree, observation: Shaped[Array, '...']
  ) -> tuple[PyTree, Shaped[Array, '...']]:
    """The policy's."""
    return self.policy.act(params, memory, observation)


def _matrices(
  edges: Float[Array, ' E'], shapes: sharing_lib.Shapes
) -> list[Float[Array, 'n m']]:
  """Cuts up the weights of all edges."""
  ends = np.cumsum([rows * columns for rows, columns in shapes])
  parts = jnp.split(edges, ends[:-1])
  return [
    part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
  ]
