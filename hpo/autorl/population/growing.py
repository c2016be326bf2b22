"""Networks that grow while they learn, and the mutations of their members.

Members of a population have different numbers of layers and units and yet are one
program: all arrays have the largest size, and units that are not there are 0. Their
weights stay as they were drawn until they are needed, as their gradients are 0.

The architecture stands beside the parameters, in the collection `ARCHITECTURE`. Its
gradient is 0 too: optimisers of all variables leave it alone, and a target network
or a copy of a member has it with the weights.

Reference: Franke, Koehler, Biedenkapp, Hutter (2021), arXiv:2009.01555, Section 3 and
  Appendix; constants are those of its code.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import flatten_util
from jaxtyping import Array, Float, Key, PyTree, Shaped

from rl import networks, ranges

__all__ = [
  'ACTIVATIONS',
  'ARCHITECTURE',
  'Growing',
  'grown',
  'noisy',
  'other_activation',
]

ARCHITECTURE = 'architecture'
ACTIVATIONS = (nn.relu, nn.elu, nn.tanh)

Architecture = Mapping[str, Array]  # 'units' [layers], 'activation' [].

# One in twenty of the weights that change does so by 100 times as much.
_LARGE, _FACTOR = 0.05, 100.0


class Growing(nn.Module):
  """Dense layers of which some units are there; an encoder.

  At first there is one layer. In the collection `ARCHITECTURE` are the units of each
  layer, 0 for a layer that is not there, and the number of the activation among
  `ACTIVATIONS`, all float32.

  Attributes:
    layers: largest number.
    width: largest number of units in a layer.
    start: units of the first layer, at first.

  Raises:
    ValueError: if a size is not positive, or `start` exceeds `width`.
  """

  layers: int = 3
  width: int = 64
  start: int = 16

  def __post_init__(self) -> None:
    ranges.check_counts(layers=self.layers, width=self.width, start=self.start)
    if self.start > self.width:
      raise ValueError(
        f'start must be at most {self.width=}, got {self.start=}'
      )
    super().__post_init__()

  @nn.compact
  def __call__(
    self, observation: Shaped[Array, 'n ...']
  ) -> Float[Array, 'n width']:
    """Features; those of units that are not there are 0."""
    units = jnp.zeros(self.layers).at[0].set(self.start)
    first = {'units': units, 'activation': jnp.zeros(())}
    variable = lambda name: jax.lax.stop_gradient(
      self.variable(ARCHITECTURE, name, lambda: first[name]).value
    )
    units, activation = variable('units'), variable('activation')
    x = networks.to_float(observation).reshape(len(observation), -1)
    # As if only the units that are there at first were there.
    init = nn.initializers.normal(self.start**-0.5)
    for number in range(self.layers):
      options = {'kernel_init': init} if number else {}
      y = nn.Dense(self.width, **options)(x)
      y = jax.lax.switch(activation.astype(jnp.int32), ACTIVATIONS, y)
      y *= jnp.arange(self.width) < units[number]
      x = jnp.where(units[number] > 0, y, x) if number else y
    return x


def grown(
  key: Key[Array, ''],
  architecture: Architecture,
  *,
  width: int,
  new_layer: float,
  growth: Sequence[int],
) -> Architecture:
  """Adds a layer as wide as the last one, or units to some layer.

  Args:
    key: of the draws.
    architecture: of a member.
    width: largest number of units; a layer that would have more stays.
    new_layer: chance of a layer, if there is room for one.
    growth: numbers of units, one of which is added.
  """
  keys = jax.random.split(key, 3)
  units = architecture['units']
  depth = jnp.sum(units > 0)
  deeper = units.at[depth].set(units[depth - 1], mode='drop')
  place = jax.random.randint(keys[0], (), 0, depth)
  more = jax.random.choice(keys[1], jnp.array(growth, units.dtype))
  more = jnp.where(units[place] + more <= width, more, 0)
  is_new = jax.random.bernoulli(keys[2], new_layer) & (depth < len(units))
  units = jnp.where(is_new, deeper, units.at[place].add(more))
  return {**architecture, 'units': units}


def other_activation(
  key: Key[Array, ''], architecture: Architecture
) -> Architecture:
  """Draws one of the other activations."""
  count = len(ACTIVATIONS)
  step = jax.random.randint(key, (), 1, count)
  changed = (architecture['activation'] + step) % count
  return {**architecture, 'activation': changed}


def noisy(
  key: Key[Array, ''], params: PyTree, *, share: float, scale: float
) -> PyTree:
  """Multiplies some weights of matrices by 1 + scale e, with normal e.

  Args:
    key: of the draws.
    params: of a network; vectors stay as they are.
    share: chance of a weight to change.
    scale: deviation; one in twenty of these weights has 100 times as much.
  """
  flat, restored = flatten_util.ravel_pytree(params)
  leaves = jax.tree.leaves(params)
  is_matrix = np.repeat([w.ndim == 2 for w in leaves], [w.size for w in leaves])
  first, second = jax.random.split(key)
  drawn = jax.random.uniform(first, flat.shape)
  size = jnp.where(drawn < _LARGE * share, _FACTOR * scale, scale)
  factor = 1 + size * jax.random.normal(second, flat.shape)
  return restored(jnp.where(is_matrix & (drawn < share), flat * factor, flat))
