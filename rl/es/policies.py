"""Policies as pure functions of a flat vector of parameters.

`unravel` is apart from `act` because a rollout calls it once and `act` at every
step: cutting the vector up inside the loop takes most of a small policy's time.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import flatten_util
from jaxtyping import Array, Float, Key, PyTree, Shaped

from rl import ranges
from rl.envs import spaces

__all__ = [
  'MLP',
  'FlaxParameters',
  'FlaxPolicy',
  'Policy',
  'check_observations',
  'num_outputs',
  'product',
  'to_action',
]


@runtime_checkable
class Policy(Protocol):
  """Maps observations to actions; hashable.

  Attributes:
    size: d, the number of parameters in theta.
  """

  @property
  def size(self) -> int:
    """Number of parameters."""
    ...

  def init(self, key: Key[Array, '']) -> Float[Array, ' d']:
    """Draws first parameters."""
    ...

  def unravel(self, member: PyTree) -> PyTree:
    """The parameters that `act` takes.

    Args:
      member: of a `population.Population`: theta [d], or another
        structure such as theta and an architecture.
    """
    ...

  def initial_memory(self) -> PyTree:
    """The memory at the start of an episode; () for none."""
    ...

  def act(
    self, params: PyTree, memory: PyTree, observation: Shaped[Array, '...']
  ) -> tuple[PyTree, Shaped[Array, '...']]:
    """The memory after, and the action on, one observation."""
    ...


def check_observations(space: spaces.Space) -> None:
  """Rejects all but a box of floats.

  Raises:
    ValueError: naming the space.
  """
  if not (
    isinstance(space, spaces.Box) and jnp.issubdtype(space.dtype, jnp.floating)
  ):
    raise ValueError(f'observations must be a box of floats, got {space}')


def num_outputs(space: spaces.Space) -> int:
  """Number of outputs that choose an action.

  Args:
    space: a bounded box of floats, or discrete.

  Returns:
    The size of the box, or the number of actions.

  Raises:
    ValueError: if the space is another one.
  """
  if isinstance(space, spaces.Discrete):
    return space.n
  if not jnp.issubdtype(space.dtype, jnp.floating) or not space.bounded:
    raise ValueError(f'an action box must be bounded floats, got {space}')
  return math.prod(space.shape)


def to_action(
  space: spaces.Space, outputs: Float[Array, ' a']
) -> Shaped[Array, '...']:
  """Applies tanh and the map onto the box; or takes the index of the largest.

  Args:
    space: as in `num_outputs`.
    outputs: any numbers.

  Returns:
    An action within the space; NaN where a box's output is NaN.
  """
  if isinstance(space, spaces.Discrete):
    return jnp.argmax(outputs).astype(space.dtype)
  low, high = space.bounds
  unit = jnp.tanh(outputs).reshape(space.shape)
  return (unit * (high - low) / 2 + (high + low) / 2).astype(space.dtype)


def product(
  x: Float[Array, '*b n'], w: Float[Array, 'n m']
) -> Float[Array, '*b m']:
  """X w, rounded alike for any number of members under `vmap`.

  XLA turns the product with a single column into a sum, in an order that
  depends on the number of members; returns would depend on it too, in their
  last digits. A second column of zeros keeps it a product.

  Args:
    x: a vector, or several.
    w: a matrix.
  """
  if w.shape[-1] > 1:
    return x @ w
  return (x @ jnp.pad(w, ((0, 0), (0, 1))))[..., :1]


@dataclasses.dataclass(frozen=True)
class MLP:
  """Fully connected layers; parameters are, per layer, weights then biases.

  Attributes:
    observation_space: a box of floats, flattened.
    action_space: see `to_action`.
    hidden: widths of the hidden layers; () is a linear policy.
    activation: of hidden units.
    bias: whether layers have biases.
    init_scale: factor on the first weights; 0 starts at zero, as augmented
      random search does (arXiv:1803.07055).

  Raises:
    ValueError: if a width is not positive or a space is not supported.
  """

  observation_space: spaces.Space
  action_space: spaces.Space
  hidden: tuple[int, ...] = (32, 32)
  activation: Callable[[Array], Array] = jnp.tanh
  bias: bool = True
  init_scale: float = 1.0

  def __post_init__(self) -> None:
    check_observations(self.observation_space)
    num_outputs(self.action_space)
    ranges.check_counts(hidden=self.hidden)

  @property
  def shapes(self) -> tuple[tuple[int, int], ...]:
    """(fan in, fan out) of the layers."""
    inputs = math.prod(self.observation_space.shape)
    widths = (inputs, *self.hidden, num_outputs(self.action_space))
    return tuple(itertools.pairwise(widths))

  @property
  def size(self) -> int:
    """Number of parameters."""
    return sum((rows + self.bias) * columns for rows, columns in self.shapes)

  def init(self, key: Key[Array, '']) -> Float[Array, ' d']:
    """Weights from N(0, init_scale^2 / fan in), biases 0."""
    parts = []
    for i, (rows, columns) in enumerate(self.shapes):
      layer_key = jax.random.fold_in(key, i)
      weights = jax.random.normal(layer_key, (rows * columns,))
      scale = self.init_scale * rows**-0.5
      parts += [weights * scale, jnp.zeros(columns * self.bias)]
    return jnp.concatenate(parts)

  def unravel(self, theta: Float[Array, ' d']) -> PyTree:
    """Weights [fan in, fan out] and biases of each layer."""
    layers, offset = [], 0
    for rows, columns in self.shapes:
      weights = theta[offset : offset + rows * columns]
      offset += rows * columns
      bias = theta[offset : offset + columns] if self.bias else None
      offset += columns * self.bias
      layers.append((weights.reshape(rows, columns), bias))
    return tuple(layers)

  def initial_memory(self) -> PyTree:
    """None."""
    return ()

  def act(
    self, params: PyTree, memory: PyTree, observation: Shaped[Array, '...']
  ) -> tuple[PyTree, Shaped[Array, '...']]:
    """See `Policy.act`."""
    x = observation.reshape(-1).astype(jnp.float32)
    for i, (weights, bias) in enumerate(params):
      x = self.activation(x) if i else x
      x = product(x, weights)
      x = x if bias is None else x + bias
    return memory, to_action(self.action_space, x)


class FlaxParameters:
  """Base class of policies whose parameters are those of a Flax module.

  Subclasses are frozen dataclasses; `_init` gives the variables of the module.
  """

  def _init(self, key: Key[Array, '']) -> Any:
    raise NotImplementedError

  @functools.lru_cache(maxsize=8)  # noqa: B019 (frozen and small)
  def _layout(self) -> tuple[PyTree, int, Callable[[Array], Any]]:
    shapes = jax.eval_shape(self._init, jax.random.key(0))
    with jax.ensure_compile_time_eval():
      zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
      flat, unravel = flatten_util.ravel_pytree(zeros)
    return shapes, flat.shape[0], unravel

  @property
  def shapes(self) -> PyTree:
    """Shapes of the module's variables, whose entries are theta."""
    return self._layout()[0]

  @property
  def size(self) -> int:
    """Number of parameters."""
    return self._layout()[1]

  def init(self, key: Key[Array, '']) -> Float[Array, ' d']:
    """The module's own initialisation."""
    return flatten_util.ravel_pytree(self._init(key))[0]

  def unravel(self, theta: Float[Array, ' d']) -> PyTree:
    """The module's variables."""
    return self._layout()[2](theta)


@dataclasses.dataclass(frozen=True)
class FlaxPolicy(FlaxParameters):
  """A Flax module from one observation to `num_outputs(action_space)` numbers.

  Attributes:
    module: without state or memory; its fields must be hashable.
    observation_space: the module gets observations as they are.
    action_space: see `to_action`.
  """

  module: nn.Module
  observation_space: spaces.Space
  action_space: spaces.Space

  def _init(self, key: Key[Array, '']) -> Any:
    space = self.observation_space
    return self.module.init(key, jnp.zeros(space.shape, space.dtype))

  def initial_memory(self) -> PyTree:
    """None."""
    return ()

  def act(
    self, params: PyTree, memory: PyTree, observation: Shaped[Array, '...']
  ) -> tuple[PyTree, Shaped[Array, '...']]:
    """See `Policy.act`."""
    outputs = self.module.apply(params, observation)
    return memory, to_action(self.action_space, outputs)
