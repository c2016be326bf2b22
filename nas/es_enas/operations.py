"""Non-linearities of nodes, of which a controller may choose.

Their inputs and outputs are cut to [-1e6, 1e6]: an exponential of a sum, or the
reciprocal of a node that is 0, cannot make an infinity, of which later products
would make NaN. NaN stays NaN.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ['ALL', 'BOUND', 'apply', 'identity', 'reciprocal', 'step']

Operation = Callable[[Array], Array]

BOUND = 1e6
# Reciprocals are those of numbers at least as large as this, with their sign.
_SMALLEST = 1e-3


def identity(x: Float[Array, '*n']) -> Float[Array, '*n']:
  """X itself."""
  return x


def step(x: Float[Array, '*n']) -> Float[Array, '*n']:
  """1 above 0, else 0."""
  return jnp.heaviside(x, 0)


def reciprocal(x: Float[Array, '*n']) -> Float[Array, '*n']:
  """1 / x, where |x| below 1e-3 counts as 1e-3."""
  return 1 / jnp.copysign(jnp.maximum(jnp.abs(x), _SMALLEST), x)


ALL: tuple[Operation, ...] = (
  *(jnp.tanh, jax.nn.relu, jnp.exp, identity, jnp.sin, jax.nn.sigmoid),
  *(jnp.abs, jnp.cos, jnp.square, step, reciprocal),
)


def apply(
  operations: tuple[Operation, ...],
  chosen: Int[Array, ' h'],
  x: Float[Array, ' h'],
) -> Float[Array, ' h']:
  """Applies to every node its operation.

  All operations are computed for all nodes: members of a population choose
  differently, and are computed together.

  Args:
    operations: that are chosen from.
    chosen: the number of every node's operation.
    x: sums of the nodes' inputs.
  """
  x = jnp.clip(x, -BOUND, BOUND)
  values = jnp.stack([operation(x) for operation in operations])
  found = values[0]
  if len(operations) > 1:
    found = jnp.take_along_axis(values, chosen[None], axis=0)[0]
  return jnp.clip(found, -BOUND, BOUND)
