"""Trigonometric features of exp(x . y): softmax_trig, those of FAVOR.

phi(x) = exp(|x|^2 / 2) (cos W x, sin W x). They are exact at x = y, and signed.

Letters: b batch, h heads, l positions, d width of a head, m rows of the
projection.

Reference: arXiv:2009.14794, Eq. 5 and Lemma 2; arXiv:2006.03555.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention.kernels import base, projections, structures
from performer.attention.kernels import pairs as pairs_lib
from performer.attention.sums import features as features_lib

__all__ = ['Trigonometric']


@dataclasses.dataclass(frozen=True)
class Trigonometric(base.Kernel):
  """Cosines and sines of the rows."""

  signed: ClassVar[bool] = True
  known: ClassVar[tuple[str, ...]] = ('chi',)
  published: ClassVar[bool] = True
  copies: ClassVar[int] = 2

  def maps(
    self, projection: structures.Matrix, size: int
  ) -> features_lib.FeatureMaps:
    """One map; see the base."""
    return projections.one_map(self.featurize, projection, size)

  def featurize(
    self, x: Float[Array, 'b h l d'], projection: structures.Matrix
  ) -> features_lib.Features:
    """Features of queries or keys, unscaled."""
    u, half_norm = projections.exponents(projection, x)
    values = jnp.concatenate([jnp.cos(u), jnp.sin(u)], axis=-1)
    return features_lib.Features(values, half_norm)

  def relative_mse(
    self, where: pairs_lib.Pairs, *, rows: int | float | Array, size: int
  ) -> Float[Array, '...']:
    """See the base; arXiv:2009.14794, Lemma 2."""
    del size
    return pairs_lib.even(where.minus) / rows
