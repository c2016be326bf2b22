"""Orthonormal columns without LAPACK."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ['orthonormal_columns']


def orthonormal_columns(x: Float[Array, 'd k']) -> Float[Array, 'd k']:
  """Orthonormalises columns in their order, by Gram-Schmidt twice over.

  Each result points to the side of its column: of a normal matrix they are
  uniform over all such ones, without sign correction. LAPACK's batched QR waits
  for ever in jaxlib 0.10.2 where two of them run at once on two cores, as they do
  in a compiled initialisation of several agents or on several host devices.

  Args:
    x: linearly independent columns; 0 <= k <= d.
  """
  if not x.shape[1]:
    return x

  def step(index: Array, found: Array) -> Array:
    column = x[:, index]
    for _ in range(2):
      column -= found @ (column @ found)
    return found.at[:, index].set(column / jnp.linalg.norm(column))

  return jax.lax.fori_loop(0, x.shape[1], step, jnp.zeros_like(x))
