"""Positive features of transformed inputs: softmax_general.

exp(x . y) = exp(A x . A^-T y) for any invertible A, so softmax_pos of A x and
A^-T y estimates it without bias, with the relative variance
(exp(|A x + A^-T y|^2) - 1) / m: less where A makes queries and keys of equal
size and opposite sign. A belongs to the projection and is the same for all
positions, so that causality is safe; `draw` starts with A = I, and `balance`
finds a better diagonal from typical queries and keys.

Letters: b batch, h heads, l positions, d width of a head, m rows.

Reference: arXiv:2110.04367, section 2 (general bipolar features).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention import kernels, precision, structures

__all__ = ['balance', 'invert', 'key_map', 'query_map']

_Transform = Float[Array, '... d'] | Float[Array, '... d d']


def balance(
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  key_mask: Bool[Array, 'b lk'] | None = None,
) -> Float[Array, 'h d']:
  """The diagonal A that minimises the mean of |A x + A^-T y|^2 over pairs.

  A_jj^2 = rms(y_j) / rms(x_j); the product term does not depend on A. For one
  pair it minimises the variance itself.

  Args:
    q: typical queries, unscaled.
    k: typical keys.
    key_mask: True = keep.

  Returns:
    The diagonals of all heads, 1 where a coordinate of either is always 0.
    (Use their geometric mean over heads where the rows are shared.)
  """
  q, k = precision.widen(q), precision.widen(k)
  if key_mask is not None:
    k = jnp.where(key_mask[:, :, None, None], k, 0.0)
  kept = k.shape[0] * k.shape[1] if key_mask is None else jnp.sum(key_mask)
  x2 = jnp.mean(jnp.square(q), axis=(0, 1))
  y2 = jnp.sum(jnp.square(k), axis=(0, 1)) / jnp.maximum(kept, 1)
  usable = (x2 > 0) & (y2 > 0)
  ratio = jnp.where(usable, y2, 1.0) / jnp.where(usable, x2, 1.0)
  return ratio**0.25


def invert(projection: structures.General) -> structures.General:
  """The projection of the keys: the same rows with A^-T in the place of A."""
  a = precision.widen(projection.transform)
  if _is_diagonal(projection):
    return projection._replace(transform=1 / a)
  return projection._replace(transform=jnp.swapaxes(jnp.linalg.inv(a), -1, -2))


def _is_diagonal(projection: structures.General) -> bool:
  return projection.transform.ndim == structures.rank(projection) - 1


def query_map(
  x: Float[Array, 'b h l d'], projection: structures.General
) -> kernels.Features:
  """Log-features of queries: those of softmax_pos at A x.

  Args:
    x: queries, unscaled.
    projection: rows and A.

  Returns:
    Float32 log-features.
  """
  x, a = precision.widen(x), precision.widen(projection.transform)
  if _is_diagonal(projection):
    x = x * (a if a.ndim == 1 else a[:, None, :])
  else:
    form = 'bhld,ed->bhle' if a.ndim == 2 else 'bhld,hed->bhle'
    x = jnp.einsum(form, x, a, precision='highest')
  return kernels.feature_map(kernels.get('softmax_pos'), x, projection.omega)


def key_map(
  y: Float[Array, 'b h l d'], projection: structures.General
) -> kernels.Features:
  """Log-features of keys: those of softmax_pos at A^-T y.

  Args:
    y: keys, unscaled.
    projection: rows and A, as for the queries.

  Returns:
    Float32 log-features.
  """
  return query_map(y, invert(projection))
