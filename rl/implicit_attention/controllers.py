"""From features of a picture to the outputs of a policy.

Reference: arXiv:2003.08165, Section 3 (an LSTM of 16 units).
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from rl import ranges

__all__ = ['LSTM', 'MLP']

# As PyTorch's Linear: U(-1 / sqrt(fan in), 1 / sqrt(fan in)).
_INIT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class LSTM(nn.Module):
  """A recurrent layer.

  Attributes:
    hidden: units.
    biases: number of bias vectors: 2 as in PyTorch, or 1. The second one adds
      parameters, but no function that one bias could not compute.

  Raises:
    ValueError: if there is no unit, or another number of biases.
  """

  hidden: int = 16
  biases: int = 2

  def __post_init__(self) -> None:
    ranges.check_counts(hidden=self.hidden)
    if self.biases not in (1, 2):
      raise ValueError(f'biases must be 1 or 2, got {self.biases=}')
    super().__post_init__()

  def initial_memory(self) -> tuple[Float[Array, ' h'], Float[Array, ' h']]:
    """Cell and output at the start of an episode: zeros."""
    return jnp.zeros(self.hidden), jnp.zeros(self.hidden)

  @nn.compact
  def __call__(
    self, memory: PyTree, x: Float[Array, ' n']
  ) -> tuple[PyTree, Float[Array, ' h']]:
    """The memory after the features, and the output."""
    cell, out = memory
    # In the order of PyTorch: input, forget, cell and output gates.
    total = 0.0
    for name, seen in (('input', x), ('recurrent', out)):
      shape = (seen.shape[0], 4 * self.hidden)
      total += seen @ self.param(name, _INIT, shape)
    for number in range(self.biases):
      zeros = nn.initializers.zeros
      total += self.param(f'bias{number}', zeros, (4 * self.hidden,))
    take, keep, new, give = jnp.split(total, 4)
    cell = nn.sigmoid(keep) * cell + nn.sigmoid(take) * jnp.tanh(new)
    out = nn.sigmoid(give) * jnp.tanh(cell)
    return (cell, out), out


class MLP(nn.Module):
  """Layers with tanh, without memory; none of them gives a linear policy.

  Attributes:
    hidden: units of each.

  Raises:
    ValueError: if a layer has no unit.
  """

  hidden: tuple[int, ...] = (16,)

  def __post_init__(self) -> None:
    ranges.check_counts(hidden=self.hidden)
    super().__post_init__()

  def initial_memory(self) -> tuple[()]:
    """None."""
    return ()

  @nn.compact
  def __call__(
    self, memory: tuple[()], x: Float[Array, ' n']
  ) -> tuple[tuple[()], Float[Array, ' h']]:
    """The last layer."""
    for width in self.hidden:
      x = jnp.tanh(nn.Dense(width, kernel_init=_INIT)(x))
    return memory, x
