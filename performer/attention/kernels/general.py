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

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from performer.attention.kernels import base, projections, structures
from performer.attention.kernels import pairs as pairs_lib
from performer.attention.sums import features as features_lib
from performer.attention.sums import state as state_lib

__all__ = ['General', 'balance', 'featurize', 'invert']


@dataclasses.dataclass(frozen=True)
class General(base.Kernel):
  """Positive features of A x and A^-T y."""

  log: ClassVar[bool] = True
  known: ClassVar[tuple[str, ...]] = ('chi',)
  structure: ClassVar[type] = structures.General
  parts: ClassVar[Mapping[str, tuple]] = {'transform': ((None,), (None, None))}

  def draw(
    self, draw: base.Draw, key: Key[Array, ''], rows: int, size: int
  ) -> structures.General:
    """See the base; A = I."""
    return structures.General(draw(key, rows), jnp.ones(size, jnp.float32))

  def maps(
    self, projection: structures.General, size: int
  ) -> features_lib.FeatureMaps:
    """Maps of queries and of keys; see the base."""
    omega = projections.prepare(projection.omega, size)
    queries = projection._replace(omega=omega)
    # Inverted here, once, and not for each run of positions.
    keys = invert(queries)
    return features_lib.FeatureMaps(
      *(functools.partial(featurize, projection=w) for w in (queries, keys))
    )

  def relative_mse(
    self, where: pairs_lib.Pairs, *, rows: int | float | Array, size: int
  ) -> Float[Array, '...']:
    """See the base, for the pairs of A x and A^-T y."""
    del size
    return jnp.expm1(where.plus) / rows


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
  q, k = state_lib.widen(q), state_lib.widen(k)
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
  a = state_lib.widen(projection.transform)
  if _is_diagonal(projection):
    return projection._replace(transform=1 / a)
  return projection._replace(transform=jnp.swapaxes(jnp.linalg.inv(a), -1, -2))


def _is_diagonal(projection: structures.General) -> bool:
  return projection.transform.ndim == structures.rank(projection) - 1


def featurize(
  x: Float[Array, 'b h l d'], projection: structures.General
) -> features_lib.Features:
  """Log-features of queries: those of softmax_pos at A x.

  Args:
    x: queries, unscaled; or keys, with the inverted projection.
    projection: rows and A.

  Returns:
    Float32 log-features.
  """
  x, a = state_lib.widen(x), state_lib.widen(projection.transform)
  if _is_diagonal(projection):
    x = x * (a if a.ndim == 1 else a[:, None, :])
  else:
    form = 'bhld,ed->bhle' if a.ndim == 2 else 'bhld,hed->bhle'
    x = jnp.einsum(form, x, a, precision='highest')
  u, half_norm = projections.exponents(projection.omega, x)
  return features_lib.Features(u, -half_norm)
