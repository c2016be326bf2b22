"""Encoders of observations, and a recurrent core; any agent can use them.

An encoder is a Linen module [n, ...] -> [n, features]. Pictures come as uint8
and are divided by 255 inside; everything else is cast to float32.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key, Shaped

from rl import convolutions, orthonormal, ranges

__all__ = [
  'GRU',
  'MLP',
  'SMALL',
  'ImpalaCNN',
  'NatureCNN',
  'orthogonal',
  'symmetric_uniform',
  'to_float',
]

Activation = Callable[[Array], Array]


@functools.lru_cache
def orthogonal(gain: float) -> nn.initializers.Initializer:
  """Draws `gain` times orthonormal columns, or rows if these are fewer.

  Uniform over all such ones.

  Args:
    gain: length of each column or row.

  Returns:
    The initializer, the same object for the same gain.
  """

  def init(
    key: Key[Array, ''], shape: tuple[int, ...], dtype: object = jnp.float32
  ) -> Array:
    rows, columns = math.prod(shape[:-1]), shape[-1]
    tall = max(rows, columns), min(rows, columns)
    found = orthonormal.orthonormal_columns(jax.random.normal(key, tall))
    found = found if rows >= columns else found.T
    return (gain * found).reshape(shape).astype(dtype)

  return init


@functools.lru_cache
def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
  """Draws from U(-bound, bound); the same object for the same bound.

  Raises:
    ValueError: if the bound is not positive.
  """
  if not bound > 0:
    raise ValueError(f'bound must be positive, got {bound=}')

  def init(
    key: Key[Array, ''], shape: tuple[int, ...], dtype: object = jnp.float32
  ) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


# The same objects everywhere: modules with equal settings then hash alike.
SMALL = orthogonal(0.01)
_ORTHOGONAL = orthogonal(math.sqrt(2))
_LECUN = nn.initializers.lecun_normal()


def to_float(observation: Shaped[Array, '...']) -> Float[Array, '...']:
  """float32; uint8 becomes numbers in [0, 1]."""
  x = observation.astype(jnp.float32)
  return x / 255 if observation.dtype == jnp.uint8 else x


def _flat(x: Shaped[Array, 'n ...']) -> Float[Array, 'n d']:
  return to_float(x).reshape(x.shape[0], -1)


class MLP(nn.Module):
  """Dense layers on the flat observation.

  Attributes:
    widths: of the layers.
    activation: after each of them.
    kernel_init: orthogonal with gain sqrt(2), as published PPO has it.

  Raises:
    ValueError: if a size is not positive.
  """

  widths: tuple[int, ...] = (64, 64)
  activation: Activation = nn.tanh
  kernel_init: nn.initializers.Initializer = _ORTHOGONAL

  def __post_init__(self) -> None:
    ranges.check_counts(widths=self.widths)
    super().__post_init__()

  @nn.compact
  def __call__(self, observation: Shaped[Array, 'n ...']) -> Array:
    """Features [n, widths[-1]]."""
    x = _flat(observation)
    for width in self.widths:
      x = self.activation(nn.Dense(width, kernel_init=self.kernel_init)(x))
    return x


class NatureCNN(nn.Module):
  """Three convolutions and a dense layer, with ReLU after each.

  32 of 8x8 with stride 4, 64 of 4x4 with stride 2, 64 of 3x3; not padded.

  Attributes:
    dense: width of the output.
    kernel_init: orthogonal with gain sqrt(2), as published PPO has it.

  Raises:
    ValueError: if a size is not positive.

  Reference: Mnih et al. (2015), "Human-level control through deep reinforcement
    learning", Nature 518.
  """

  dense: int = 512
  kernel_init: nn.initializers.Initializer = _ORTHOGONAL

  def __post_init__(self) -> None:
    ranges.check_counts(dense=self.dense)
    super().__post_init__()

  @nn.compact
  def __call__(self, observation: Shaped[Array, 'n h w c']) -> Array:
    """Features [n, dense]; pictures of at least 36x36."""
    x = to_float(observation)
    for channels, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
      conv = nn.Conv(
        channels,
        (size, size),
        stride,
        padding='VALID',
        kernel_init=self.kernel_init,
        conv_general_dilated=convolutions.conv_general_dilated,
      )
      x = nn.relu(conv(x))
    return nn.relu(nn.Dense(self.dense, kernel_init=self.kernel_init)(_flat(x)))


class ImpalaCNN(nn.Module):
  """Stages of a convolution, a max-pooling and two residual blocks.

  All convolutions are 3x3 and padded; the pooling is 3x3 with stride 2. A block
  is ReLU, convolution, ReLU, convolution, plus its input. Then flat, ReLU,
  dense, ReLU.

  Attributes:
    depths: channels of the stages.
    dense: width of the output.
    kernel_init: truncated normal with variance 1 / fan in.

  Raises:
    ValueError: if a size is not positive.

  Reference: Espeholt et al. (2018), arXiv:1802.01561, figure 3.
  """

  depths: tuple[int, ...] = (16, 32, 32)
  dense: int = 256
  kernel_init: nn.initializers.Initializer = _LECUN

  def __post_init__(self) -> None:
    ranges.check_counts(depths=self.depths, dense=self.dense)
    super().__post_init__()

  @nn.compact
  def __call__(self, observation: Shaped[Array, 'n h w c']) -> Array:
    """Features [n, dense]."""
    conv = lambda x, depth: nn.Conv(
      depth,
      (3, 3),
      kernel_init=self.kernel_init,
      conv_general_dilated=convolutions.conv_general_dilated,
    )(x)
    x = to_float(observation)
    for depth in self.depths:
      x = nn.max_pool(conv(x, depth), (3, 3), (2, 2), 'SAME')
      for _ in range(2):
        x += conv(nn.relu(conv(nn.relu(x), depth)), depth)
    x = nn.Dense(self.dense, kernel_init=self.kernel_init)(nn.relu(_flat(x)))
    return nn.relu(x)


class GRU(nn.Module):
  """A gated recurrent unit over time; its memory is zero where episodes begin.

  Attributes:
    size: of the memory and the output.

  Raises:
    ValueError: if a size is not positive.

  Reference: Cho et al. (2014), arXiv:1406.1078.
  """

  size: int = 256

  def __post_init__(self) -> None:
    ranges.check_counts(size=self.size)
    super().__post_init__()

  def initial_memory(self, num_lanes: int) -> Float[Array, 'n m']:
    """Zeros, one row per lane."""
    return jnp.zeros((num_lanes, self.size))

  @nn.compact
  def __call__(
    self,
    memory: Float[Array, 'n m'],
    x: Float[Array, 'T n d'],
    first: Bool[Array, 'T n'],
  ) -> tuple[Float[Array, 'n m'], Float[Array, 'T n m']]:
    """Memory after the last row, and the outputs of all rows.

    Args:
      memory: before the first row.
      x: inputs.
      first: where the memory is forgotten, before the row's input.
    """

    def step(cell: nn.GRUCell, memory: Array, row: tuple) -> tuple:
      x, first = row
      return cell(jnp.where(first[:, None], 0, memory), x)

    scan = nn.scan(
      step, variable_broadcast='params', split_rngs={'params': False}
    )
    return scan(nn.GRUCell(self.size), memory, (x, first))
