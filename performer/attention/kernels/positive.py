"""Positive features of exp(x . y): softmax_pos, softmax_hyp, and their *_reg.

phi(x) = exp(-|x|^2 / 2 + W x), and for hyperbolic features also with -W. They
are positive, so all denominators are. With rows of norm sqrt(d) (*_reg) they
estimate a little less than exp(x . y), with less variance.

Letters: b batch, h heads, l positions, d width of a head, m rows of the
projection.

Reference: arXiv:2009.14794, Lemmas 1 and 2, Theorem 1, Eq. 29.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention.kernels import base, projections, structures
from performer.attention.kernels import pairs as pairs_lib
from performer.attention.sums import features as features_lib

__all__ = [
  'Positive',
  'Regularized',
  'log_0f1',
  'log_regularized_ratio',
]


@dataclasses.dataclass(frozen=True)
class Positive(base.Kernel):
  """Positive features.

  Attributes:
    copies: 1; 2 for hyperbolic features, of W and of -W.
  """

  copies: int = 1

  log: ClassVar[bool] = True
  known: ClassVar[tuple[str, ...]] = ('chi', 'sqrt_d')
  published: ClassVar[bool] = True

  def maps(
    self, projection: structures.Matrix, size: int
  ) -> features_lib.FeatureMaps:
    """One map; see the base."""
    return projections.one_map(self.featurize, projection, size)

  def featurize(
    self, x: Float[Array, 'b h l d'], projection: structures.Matrix
  ) -> features_lib.Features:
    """Log-features of queries or keys, unscaled; arXiv:2009.14794, Lemma 1."""
    u, half_norm = projections.exponents(projection, x)
    if self.copies == 2:
      u = jnp.concatenate([u, -u], axis=-1)
    return features_lib.Features(u, -half_norm)

  def relative_mse(
    self, where: pairs_lib.Pairs, *, rows: int | float | Array, size: int
  ) -> Float[Array, '...']:
    """See the base; arXiv:2009.14794, Lemma 2 and Theorem 1."""
    plus = where.plus
    if self.norm == 'sqrt_d':
      return self._regularized(plus, rows, size)
    if self.copies == 1:
      return jnp.expm1(plus) / rows
    return pairs_lib.even(plus) / rows

  def _regularized(
    self, plus: Float[Array, '...'], rows: int | float | Array, size: int
  ) -> Float[Array, '...']:
    first = log_regularized_ratio(size, plus)
    # E exp(2 w.z) relative to exp(|z|^2); the cosh form halves it, adds 1/2.
    second = jnp.exp(log_0f1(size / 2, size * plus) - plus)
    if self.copies == 2:
      second = 0.5 * (second + jnp.exp(-plus))
    variance = jnp.maximum(second - jnp.exp(2 * first), 0.0)
    return variance / rows + jnp.square(jnp.expm1(first))


@dataclasses.dataclass(frozen=True)
class Regularized(Positive):
  """Positive features whose rows must have norm sqrt(d)."""

  norm: str = 'sqrt_d'

  norms: ClassVar[tuple[str, ...]] = ('sqrt_d',)
  known: ClassVar[tuple[str, ...]] = ('sqrt_d',)


def log_0f1(b: int | float, z: Float[Array, '...']) -> Float[Array, '...']:
  """Logarithm of 0F1(; b; z) = sum_k z^k / (k! (b)_k), for z >= 0.

  The terms are summed until they are below float32's precision; their number
  grows as sqrt(z).

  Args:
    b: parameter, positive.
    z: argument, >= 0.

  Returns:
    Float32.
  """
  z = jnp.asarray(z, jnp.float32)
  log_z = jnp.log(z)

  def unfinished(carry: tuple) -> Array:
    k, term, total = carry
    # Terms rise as long as k (b + k) < z, and then fall faster and faster.
    rising = k * (b + k) < z
    return jnp.any((rising | (term > total - 20.0)) & jnp.isfinite(z) & (z > 0))

  def step(carry: tuple) -> tuple:
    k, term, total = carry
    term = term + log_z - jnp.log((k + 1.0) * (b + k))
    return k + 1.0, term, jnp.logaddexp(total, term)

  start = (jnp.float32(0), jnp.zeros_like(z), jnp.zeros_like(z))
  total = jax.lax.while_loop(unfinished, step, start)[2]
  return jnp.where(z == jnp.inf, jnp.inf, total)


def log_regularized_ratio(
  size: int, plus: Float[Array, '...']
) -> Float[Array, '...']:
  """Logarithm of SMREG(x, y) / exp(x . y), never positive for d >= 2.

  SMREG is what rows of norm sqrt(d) estimate (`norm='sqrt_d'`).

  Args:
    size: d.
    plus: |x + y|^2.

  Returns:
    log(exp(-plus / 2) 0F1(; d / 2; d plus / 4)).

  Reference: arXiv:2009.14794, Theorem 1 and Eq. 29.
  """
  return log_0f1(size / 2, size * plus / 4) - plus / 2
