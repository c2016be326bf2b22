"""Optimal positive features: softmax_oprf.

phi(x)_i = D exp(A |w_i|^2 + B w_i.x - |x|^2 / 2) estimates exp(x . y) without
bias for any A < 1/8, with B = sqrt(1 - 4 A) and D = (1 - 4 A)^(d/4). One A per
batch element and head, chosen for the mean of |x + y|^2 over its queries and
keys, minimises the variance there; A <= 0 damps the long rows that carry the
variance of softmax_pos.

Letters: b batch, h heads, l positions, d width of a head, m rows.

Reference: arXiv:2205.15317.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention.kernels import base, projections, structures
from performer.attention.kernels import pairs as pairs_lib
from performer.attention.sums import features as features_lib
from performer.attention.sums import state as state_lib

__all__ = ['Oprf', 'OprfConstants', 'mean_square', 'oprf_constants']


@dataclasses.dataclass(frozen=True)
class Oprf(base.Kernel):
  """Optimal positive features.

  Attributes:
    oprf_mean_square: mean of |x + y|^2 that they are made for, for all or
      [b, h]; None: that of the queries and keys of a call.
  """

  oprf_mean_square: int | float | Float[Array, '...'] | None = None

  log: ClassVar[bool] = True
  norms: ClassVar[tuple[str, ...]] = ('chi',)
  known: ClassVar[tuple[str, ...]] = ('chi',)

  @property
  def needs_all(self) -> bool:
    """See the base."""
    return self.oprf_mean_square is None

  def check(self) -> None:
    """See the base."""
    base.check_positive(oprf_mean_square=self.oprf_mean_square)

  def measure(
    self,
    q: Float[Array, 'b lq h d'],
    k: Float[Array, 'b lk h d'],
    key_mask: Bool[Array, 'b lk'] | None,
  ) -> Float[Array, 'b h']:
    """See the base."""
    return mean_square(q, k, key_mask)

  def made_for(
    self, square: int | float | Float[Array, '...'] | None
  ) -> 'Oprf':
    """See the base."""
    if self.oprf_mean_square is not None:
      return self
    return dataclasses.replace(self, oprf_mean_square=square)

  def maps(
    self, projection: structures.Matrix, size: int
  ) -> features_lib.FeatureMaps:
    """One map; see the base.

    Raises:
      ValueError: without a mean square.
    """
    if self.oprf_mean_square is None:
      raise ValueError(
        'softmax_oprf takes the mean of |x + y|^2 from all queries and keys '
        'of a bidirectional call; anywhere else (causal, state, segments) set '
        f'oprf_mean_square, got {self.oprf_mean_square=}'
      )
    return projections.one_map(self.featurize, projection, size)

  def featurize(
    self, x: Float[Array, 'b h l d'], projection: structures.Matrix
  ) -> features_lib.Features:
    """Maps queries or keys (the map is the same) to log-features.

    Args:
      x: queries or keys, unscaled.
      projection: W, or its factors, with chi norms.

    Returns:
      Log-features, float32 or wider; their constants have the same dtype.

    Reference: arXiv:2205.15317, section 3.
    """
    u, half_norm = projections.exponents(projection, x)
    # Padded rows live in more dimensions, and the constants with them.
    size = x.shape[-1]
    if isinstance(projection, structures.Hadamard):
      size = projection.signs.shape[-1]
    square = jnp.asarray(self.oprf_mean_square, u.dtype)
    _, a, b, log_d = oprf_constants(square, size)
    norms = projections.squared_norms(projection)[..., None, :]
    a, b = (z[..., None, None] for z in (a, b))
    return features_lib.Features(
      a * norms + b * u, log_d[..., None] - half_norm
    )

  def relative_mse(
    self, where: pairs_lib.Pairs, *, rows: int | float | Array, size: int
  ) -> Float[Array, '...']:
    """See the base; without a mean square, each pair has its own, the best."""
    plus, square = where.plus, self.oprf_mean_square
    square = plus if square is None else jnp.asarray(square, plus.dtype)
    rho = oprf_constants(square, size).rho
    log_second = size * (jnp.log1p(1 / rho) - jnp.log(2.0) + jnp.log(rho) / 2)
    return jnp.expm1(log_second + rho * plus) / rows


class OprfConstants(NamedTuple):
  """Constants of the optimal positive features exp(A |w|^2 + B w.x) D."""

  rho: Float[Array, '...']
  a: Float[Array, '...']
  b: Float[Array, '...']
  log_d: Float[Array, '...']


def oprf_constants(
  mean_square: Float[Array, '...'] | int | float, size: int
) -> OprfConstants:
  """Constants that minimise the variance at |x + y|^2 = mean_square.

  Any A < 1/8 gives an unbiased estimate of finite variance, with
  B = sqrt(1 - 4 A) and D = (1 - 4 A)^(d/4). A = 0 (at mean_square 0) is
  softmax_pos.

  Args:
    mean_square: mean of |x + y|^2, >= 0.
    size: d.

  Returns:
    rho in (0, 1], A = (1 - 1/rho) / 8, B and log D, in the dtype of
    `mean_square`, at least float32.

  Reference: arXiv:2205.15317, section 3; derived again for a mean.
  """
  s = state_lib.widen(jnp.asarray(mean_square))
  total = 2 * s + size
  root = jnp.sqrt(1 + 8 * (size / total) * (s / total))
  # The conjugate of (root - 1) total / (4 s): right at s = 0 too.
  rho = 2 * (size / total) / (root + 1)
  a = (1 - 1 / rho) / 8
  return OprfConstants(
    rho, a, jnp.sqrt(1 - 4 * a), size / 4 * jnp.log1p(-4 * a)
  )


def _moments(
  x: Float[Array, 'b l h d'], mask: Bool[Array, 'b l'] | None
) -> tuple[Float[Array, 'b h'], Float[Array, 'b h d']]:
  """Means of |x|^2 and of x over the kept positions; 0 over none."""
  x = projections.scaled(x)
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
