"""Hybrid features: two estimators of exp(x . y), mixed pair by pair.

The hyperbolic estimator is exact at x = -y and the trigonometric one at x = y.
With c an estimate of a coefficient in [0, 1] from rows of its own, tau,

  c(x, y) hyp(x, y) + (1 - c(x, y)) trig(x, y)

is unbiased whatever c is, and good where each part is:

* angular: c = angle(x, y) / pi, the share of the n rows on whose two sides x
  and y lie. Exact at x = y and at x = -y.
* gaussian: 1 - c = exp(-g^2 |x - y|^2 / 2), the mean of cos(g tau.(x - y)).

A product of two dot products is the dot product of the Kronecker products, so
both are features; queries and keys have different ones. The sign function of
the angular hybrid has no gradient, and needs none: the gradient of the
estimate through the two parts alone is unbiased, as they are.

All features of a position are divided by its largest exponential, and
`log_weight` carries that factor; so nothing overflows.

Letters: b batch, h heads, l positions, d width of a head, m rows of a part, n
rows of the coefficient, e its features, r features: 8 n m or 2 m (4 n + 1).

Reference: arXiv:2110.04367, section 2.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from performer.attention import checks
from performer.attention.kernels import base, projections, structures
from performer.attention.kernels import pairs as pairs_lib
from performer.attention.sums import features as features_lib

__all__ = ['Angular', 'Gaussian', 'Hybrid']

_Coefficients = tuple[Float[Array, 'b h l e'], Float[Array, 'b h l f']]
_Moments = tuple[Float[Array, '...'], Float[Array, '...']]


@dataclasses.dataclass(frozen=True)
class Hybrid(base.Kernel):
  """A mixture of hyperbolic and trigonometric features.

  Attributes:
    mix_rows: n, random rows that estimate the coefficient.
    mix_shared: whether both parts share their rows.
  """

  mix_rows: int = 4
  mix_shared: bool = True

  signed: ClassVar[bool] = True
  norms: ClassVar[tuple[str, ...]] = ('chi',)
  known: ClassVar[tuple[str, ...]] = ('chi',)
  structure: ClassVar[type] = structures.Mixture

  @property
  def parts(self) -> Mapping[str, tuple]:
    """See the base."""
    return {'tau': ((self.mix_rows, None),)}

  def check(self) -> None:
    """See the base."""
    if not checks.is_integer(self.mix_rows):
      raise ValueError(f'mix_rows must be an integer, got {self.mix_rows!r}')
    if self.mix_rows < 1:
      raise ValueError(
        f'mix_rows must be positive, got mix_rows={self.mix_rows}'
      )

  def draw(
    self, draw: base.Draw, key: Key[Array, ''], rows: int, size: int
  ) -> structures.Mixture:
    """See the base."""
    del size
    key_omega, key_second, key_tau = jax.random.split(key, 3)
    second = None if self.mix_shared else draw(key_second, rows)
    # Few rows: the structured matrices have nothing to save here.
    tau = draw(key_tau, self.mix_rows, few=True)
    return structures.Mixture(draw(key_omega, rows), tau, second)

  def maps(
    self, projection: structures.Mixture, size: int
  ) -> features_lib.FeatureMaps:
    """Maps of queries and of keys; see the base."""
    w = projection._replace(
      omega=projections.prepare(projection.omega, size),
      second=projections.prepare(projection.second, size),
    )
    return features_lib.FeatureMaps(
      functools.partial(self.featurize, projection=w, of_keys=False),
      functools.partial(self.featurize, projection=w, of_keys=True),
    )

  def featurize(
    self,
    x: Float[Array, 'b h l d'],
    projection: structures.Mixture,
    *,
    of_keys: bool,
  ) -> features_lib.Features:
    """Features of queries or of keys.

    Args:
      x: queries or keys, unscaled.
      projection: rows of both parts and of the coefficient.
      of_keys: whether x are keys.

    Returns:
      Float32 features; dot products of queries' with keys' are m times the
      estimate.
    """
    x = projections.scaled(x)
    u = projections.project(projection.tau, x)
    return _mixture(x, projection, self.coefficients(u, of_keys=of_keys))

  def coefficients(
    self, u: Float[Array, 'b h l n'], *, of_keys: bool
  ) -> _Coefficients:
    """Features of c and of 1 - c, given W x of the coefficient's rows."""
    raise NotImplementedError

  def moments(self, where: pairs_lib.Pairs) -> _Moments:
    """E c and E c^2; the other weight, of softmax_trig, is 1 - c."""
    raise NotImplementedError

  def relative_mse(
    self, where: pairs_lib.Pairs, *, rows: int | float | Array, size: int
  ) -> Float[Array, '...']:
    """See the base; arXiv:2110.04367."""
    del size
    first, second = self.moments(where)
    plus, minus = pairs_lib.even(where.plus), pairs_lib.even(where.minus)
    mse = second * plus + (1 - 2 * first + second) * minus
    if self.mix_shared:
      mse -= 2 * (first - second) * (1 - jnp.cos(where.x2 - where.y2))
    return jnp.maximum(mse, 0.0) / rows


@dataclasses.dataclass(frozen=True)
class Angular(Hybrid):
  """c = angle(x, y) / pi, by the sides of rows on which x and y lie."""

  @property
  def copies(self) -> int:
    """Features per row of a part."""
    return 8 * self.mix_rows

  def coefficients(
    self, u: Float[Array, 'b h l n'], *, of_keys: bool
  ) -> _Coefficients:
    """See the base: the other side for c, the same side for 1 - c."""
    side = _sides(u)
    if not of_keys:
      return side, side
    return jnp.roll(side, u.shape[-1], axis=-1), side

  def moments(self, where: pairs_lib.Pairs) -> _Moments:
    """See the base."""
    mean = where.angle / jnp.pi
    return mean, mean**2 + mean * (1 - mean) / self.mix_rows


@dataclasses.dataclass(frozen=True)
class Gaussian(Hybrid):
  """1 - c = exp(-g^2 |x - y|^2 / 2), by waves along the rows.

  Attributes:
    mix_bandwidth: g.
  """

  mix_bandwidth: int | float = 1.0

  @property
  def copies(self) -> int:
    """Features per row of a part."""
    return 2 * (4 * self.mix_rows + 1)

  def check(self) -> None:
    """See the base."""
    super().check()
    base.check_positive(mix_bandwidth=self.mix_bandwidth)

  def coefficients(
    self, u: Float[Array, 'b h l n'], *, of_keys: bool
  ) -> _Coefficients:
    """See the base: 1 - waves for c, waves for 1 - c."""
    waves = _waves(self.mix_bandwidth * u)
    one = jnp.ones_like(waves[..., :1])
    signed = -waves if of_keys else waves
    return jnp.concatenate([one, signed], -1), waves

  def moments(self, where: pairs_lib.Pairs) -> _Moments:
    """See the base."""
    n = self.mix_rows
    square = self.mix_bandwidth**2 * where.minus
    trig = jnp.exp(-square / 2)
    trig2 = trig**2 * (n - 1) / n + (1 + jnp.exp(-2 * square)) / (2 * n)
    return 1 - trig, 1 - 2 * trig + trig2


def _sides(u: Float[Array, 'b h l n']) -> Float[Array, 'b h l e']:
  """The side of each row that a position is on: one-hot, over sqrt(n)."""
  positive = u > 0
  both = jnp.concatenate([positive, ~positive], axis=-1)
  return both.astype(u.dtype) * u.shape[-1] ** -0.5


def _waves(u: Float[Array, 'b h l n']) -> Float[Array, 'b h l e']:
  both = jnp.concatenate([jnp.cos(u), jnp.sin(u)], axis=-1)
  return both * u.shape[-1] ** -0.5


def _mixture(
  x: Float[Array, 'b h l d'],
  projection: structures.Mixture,
  coefficients: _Coefficients,
) -> features_lib.Features:
  """Joins coefficient x hyperbolic and coefficient x trigonometric features."""
  u = projections.project(projection.omega, x)
  angle = u
  if projection.second is not None:
    angle = projections.project(projection.second, x)
  half = 0.5 * jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  exponents = jnp.concatenate([u, -u], axis=-1) - half
  top = jnp.maximum(jnp.max(exponents, axis=-1, keepdims=True), half)
  top = jax.lax.stop_gradient(top)
  hyperbolic = jnp.exp(exponents - top) * 0.5**0.5
  waves = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
  parts = (hyperbolic, waves * jnp.exp(half - top))
  values = [
    _kronecker(c, part) for c, part in zip(coefficients, parts, strict=True)
  ]
  return features_lib.Features(jnp.concatenate(values, axis=-1), top[..., 0])


def _kronecker(
  a: Float[Array, 'b h l e'], b: Float[Array, 'b h l f']
) -> Float[Array, 'b h l r']:
  product = a[..., :, None] * b[..., None, :]
  return product.reshape(*product.shape[:-2], -1)
