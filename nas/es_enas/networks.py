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
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import flatten_util
from jaxtyping import Array, Float, Key, PyTree, Shaped

from nas.es_enas import operations as operations_lib
from nas.es_enas import sharing as sharing_lib
from nas.es_enas import space as space_lib
from rl import ranges
from rl.envs import spaces
from rl.es import policies

__all__ = ['FeedForward', 'Module', 'Network']


@runtime_checkable
class Network(Protocol):
  """Maps an observation to numbers that choose an action; hashable.

  Attributes:
    action_space: see `rl.es.policies.to_action`.
  """

  action_space: spaces.Space

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
    """The parameters that `outputs` takes.

    Args:
      edges: weights, in the order of `sharing.Sharing`.
      rest: other parameters.
      parts: the decisions of `groups`; those of others are not looked at.
    """
    ...

  def outputs(
    self, params: PyTree, observation: Shaped[Array, '...']
  ) -> Float[Array, ' a']:
    """The numbers that choose the action on one observation."""
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

  def outputs(
    self, params: PyTree, observation: Shaped[Array, '...']
  ) -> Float[Array, ' a']:
    """See `Network`."""
    matrices, biases, chosen = params
    x = observation.reshape(-1).astype(jnp.float32)
    for matrix, bias, choice in zip(matrices[:-1], biases, chosen, strict=True):
      sums = policies.product(x, matrix) + bias
      nodes = operations_lib.apply(self.operations, choice, sums)
      x = jnp.concatenate([x, nodes]) if self.residual else nodes
    return policies.product(x, matrices[-1])


@dataclasses.dataclass(frozen=True)
class Module:
  """A Flax module; the entries of its kernels are the edges.

  A kernel [..., fan out] is a matrix, of all its axes but the last one: that of
  a convolution has height x width x channels rows. All other variables, such as
  biases, are not shared.

  Attributes:
    module: see `rl.es.policies.FlaxPolicy`.
    observation_space: the module gets observations as they are.
    action_space: see `rl.es.policies.to_action`.
    kernels: patterns (`fnmatch`) of the paths of kernels whose entries are
      edges, such as 'params/Conv_*/kernel'; `*` matches slashes too.

  Raises:
    ValueError: if a pattern matches no variable, or one that has fewer than two
      axes.
  """

  module: nn.Module
  observation_space: spaces.Space
  action_space: spaces.Space
  kernels: tuple[str, ...] = ('params/*kernel',)

  def __post_init__(self) -> None:
    paths = [path for path, _ in self._leaves]
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

  @functools.cached_property
  def _policy(self) -> policies.FlaxPolicy:
    spaces_of = self.observation_space, self.action_space
    return policies.FlaxPolicy(self.module, *spaces_of)

  def _variables(self, key: Key[Array, '']) -> PyTree:
    return self._policy.unravel(self._policy.init(key))

  @functools.cached_property
  def _tree(self) -> PyTree:
    """The shapes of all variables."""
    return jax.eval_shape(self._variables, jax.random.key(0))

  @functools.cached_property
  def _leaves(self) -> list[tuple[str, jax.ShapeDtypeStruct]]:
    """Paths and shapes of all variables."""
    return [
      (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(self._tree)
    ]

  def _is_kernel(self, path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, p) for p in self.kernels)

  def _split(self, leaves: list[Any]) -> tuple[list[Any], list[Any]]:
    """The kernels, and the rest, of something for every variable."""
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

    space = self.observation_space
    seen = jax.ShapeDtypeStruct(space.shape, space.dtype)
    with nn.intercept_methods(count):
      jax.eval_shape(self.module.apply, self._tree, seen)
    layers = [path.rpartition('/')[0] for path, _ in self._halves[0]]
    return tuple(found.get(layer, 1) for layer in layers)

  @property
  def rest(self) -> int:
    """Numbers in all other variables."""
    return sum(leaf.size for _, leaf in self._halves[1])

  @property
  def groups(self) -> tuple[space_lib.Group, ...]:
    """None."""
    return ()

  def init_rest(self, key: Key[Array, '']) -> Float[Array, ' R']:
    """The module's own initialisation."""
    leaves = jax.tree.leaves(self._variables(key))
    return flatten_util.ravel_pytree(self._split(leaves)[1])[0]

  def assemble(
    self,
    edges: Float[Array, ' E'],
    rest: Float[Array, ' R'],
    parts: sharing_lib.Parts,
  ) -> PyTree:
    """The module's variables."""
    del parts
    leaves, starts = [], {True: 0, False: 0}
    for path, leaf in self._leaves:
      kernel = self._is_kernel(path)
      source, start = edges if kernel else rest, starts[kernel]
      starts[kernel] += leaf.size
      values = source[start : start + leaf.size]
      leaves.append(values.reshape(leaf.shape).astype(leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(self._tree), leaves)

  def outputs(
    self, params: PyTree, observation: Shaped[Array, '...']
  ) -> Float[Array, ' a']:
    """See `Network`."""
    return self.module.apply(params, observation)


def _matrices(
  edges: Float[Array, ' E'], shapes: sharing_lib.Shapes
) -> list[Float[Array, 'n m']]:
  """Cuts up the weights of all edges."""
  ends = np.cumsum([rows * columns for rows, columns in shapes])
  parts = jnp.split(edges, ends[:-1])
  return [
    part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
  ]
