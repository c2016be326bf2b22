"""A recurrent core whose state goes through a cell."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from nas.rl_darts import networks as cell_networks
from nas.rl_darts import spaces
from rl import networks

__all__ = ['CellGRU']


class _Step(cell_networks.CellNetwork):
  """One step of `CellGRU`: a gated mixture, then a cell."""

  @nn.compact
  def __call__(
    self, memory: Float[Array, 'n m'], row: tuple[Array, Array]
  ) -> tuple[Float[Array, 'n m'], Float[Array, 'n m']]:
    x, first = row
    memory = jnp.where(first[:, None], 0, memory)
    width = memory.shape[-1]
    layer = lambda name, value: nn.Dense(
      width, use_bias=name.startswith('x'), name=name
    )(value)
    gate = nn.sigmoid(layer('x_gate', x) + layer('h_gate', memory))
    new = nn.tanh(layer('x_new', x) + layer('h_new', memory))
    mixed = gate * new + (1 - gate) * memory
    memory = self.cell('normal', 'cell', width, mixed, self.mixing(None))
    return memory, memory


class CellGRU(cell_networks.Derivable, networks.GRU):
  """A recurrent core whose state goes through a cell of vector operations.

  c = sigmoid(W x + U h), h' = c tanh(W' x + U' h) + (1 - c) h, then the cell.

  Attributes beside those of `rl.networks.GRU`:
    architecture: see `networks`.
    space: of the cell.
  """

  architecture: cell_networks.Architecture = cell_networks.Relaxed()
  space: spaces.CellSpace = spaces.RNN

  @nn.compact
  def __call__(
    self,
    memory: Float[Array, 'n m'],
    x: Float[Array, 'T n d'],
    first: Bool[Array, 'T n'],
  ) -> tuple[Float[Array, 'n m'], Float[Array, 'T n m']]:
    """See `rl.networks.GRU`."""
    scan = nn.scan(
      _Step, variable_broadcast='params', split_rngs={'params': False}
    )
    return scan(self.architecture, self.space, name='step')(memory, (x, first))
