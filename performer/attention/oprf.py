"""Optimal positive features: softmax_oprf.

phi(x)_i = D exp(A |w_i|^2 + B w_i.x - |x|^2 / 2) estimates exp(x . y) without
bias for any A < 1/8, with B = sqrt(1 - 4 A) and D = (1 - 4 A)^(d/4). One A per
batch element and head, chosen for the mean of |x + y|^2 over its queries and
keys, minimises the variance there; A <= 0 damps the long rows that carry the
variance of softmax_pos.

Letters: b batch, h heads, l positions, d width of a head, m rows.

Reference: arXiv:2205.15317.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention import (
  kernels,
  precision,
  projections,
  structures,
  theory,
)

__all__ = ['feature_map', 'mean_square']


def _moments(
  x: Float[Array, 'b l h d'], mask: Bool[Array, 'b l'] | None
) -> tuple[Float[Array, 'b h'], Float[Array, 'b h d']]:
  """Means of |x|^2 and of x over the kept positions; 0 over none."""
  x = precision.widen(x) * x.shape[-1] ** -0.25
  if mask is None:
    mask = jnp.ones(x.shape[:2], bool)
  keep = mask[:, :, None, None]
  x = jnp.where(keep, x, 0.0)
  count = jnp.maximum(jnp.sum(mask, axis=1), 1).astype(x.dtype)
  square = jnp.sum(jnp.square(x), axis=(1, 3)) / count[:, None]
  return square, jnp.sum(x, axis=1) / count[:, None, None]


def mean_square(
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  key_mask: Bool[Array, 'b lk'] | None,
) -> Float[Array, 'b h']:
  """Mean of |x + y|^2 over the kept pairs of each batch element and head.

  It reads every key, hence is for bidirectional attention alone. Time is
  linear: the mean is |x|^2 + |y|^2 + 2 mean(x).mean(y) in means.

  Args:
    q: queries, unscaled.
    k: keys, unscaled.
    key_mask: True = keep. Where there are as many queries as keys it is taken
      to hold for the queries too (self-attention), so that padding does not
      enter; the features are unbiased whatever is counted.

  Returns:
    Float32 [b, h], without gradient; 0 where nothing is kept.
  """
  query_mask = key_mask if q.shape[1] == k.shape[1] else None
  x2, x = _moments(q, query_mask)
  y2, y = _moments(k, key_mask)
  total = x2 + y2 + 2 * jnp.sum(x * y, axis=-1)
  return jax.lax.stop_gradient(jnp.maximum(total, 0.0))


def feature_map(
  x: Float[Array, 'b h l d'],
  projection: structures.Matrix,
  square: Float[Array, 'b h'] | Float[Array, ''] | float,
) -> kernels.Features:
  """Maps queries or keys (the map is the same) to log-features.

  Args:
    x: queries or keys, unscaled.
    projection: W, or its factors, with chi norms.
    square: mean of |x + y|^2, per batch element and head or for all.

  Returns:
    Log-features, float32 or wider; their constants have the same dtype.

  Reference: arXiv:2205.15317, section 3.
  """
  x = precision.widen(x) * x.shape[-1] ** -0.25
  # Padded rows live in more dimensions, and the constants with them.
  size = x.shape[-1]
  if isinstance(projection, structures.Hadamard):
    size = projection.signs.shape[-1]
  square = jnp.asarray(square, x.dtype)
  _, a, b, log_d = theory.oprf_constants(square, size)
  norms = projections.squared_norms(projection)[..., None, :]
  a, b = (z[..., None, None] for z in (a, b))
  values = a * norms + b * projections.project(projection, x)
  half_norm = 0.5 * jnp.sum(jnp.square(x), axis=-1)
  return kernels.Features(values, log_d[..., None] - half_norm)
