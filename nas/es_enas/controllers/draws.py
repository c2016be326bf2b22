"""Draws from finite distributions, by their distribution functions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ['inverted']


def inverted(
  uniform: Float[Array, '*n'], weights: Float[Array, '#*n k']
) -> Int[Array, '*n']:
  """Indices with probabilities in proportion to their weights, int32.

  A draw takes one uniform number, where Gumbel noise takes k, and no search or
  sort, which cost more than k comparisons where k is small.

  Args:
    uniform: in [0, 1), one for each draw. JAX gives them 23 bits: rarer indices
      are not drawn.
    weights: not negative, and not all 0. An index of weight 0 is never drawn.
  """
  upper = jnp.cumsum(weights, -1)
  # Sums round: they may fall, and grow at weights of 0.
  upper = jax.lax.cummax(jnp.where(weights == 0, 0, upper), axis=upper.ndim - 1)
  below = uniform[..., None] * upper[..., -1:] >= upper
  return jnp.sum(below, -1, dtype=jnp.int32)
