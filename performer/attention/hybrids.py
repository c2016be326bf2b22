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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention import kernels, precision, projections, structures

__all__ = ['key_map', 'query_map']

_Coefficients = tuple[Float[Array, 'b h l e'], Float[Array, 'b h l f']]


def query_map(
  kernel: kernels.Kernel,
  x: Float[Array, 'b h l d'],
  projection: structures.Mixture,
  *,
  bandwidth: float = 1.0,
) -> kernels.Features:
  """Features of queries.

  Args:
    kernel: softmax_angular or softmax_gaussian.
    x: queries, unscaled.
    projection: rows of both parts and of the coefficient.
    bandwidth: g of softmax_gaussian.

  Returns:
    Float32 features; dot products with those of keys are m times the estimate.
  """
  x = _scaled(x)
  u = projections.project(projection.tau, x)
  if kernel.name == 'softmax_angular':
    side = _sides(u)
    return _mixture(x, projection, (side, side))
  waves = _waves(bandwidth * u)
  one = jnp.ones_like(waves[..., :1])
  return _mixture(x, projection, (jnp.concatenate([one, waves], -1), waves))


def key_map(
  kernel: kernels.Kernel,
  y: Float[Array, 'b h l d'],
  projection: structures.Mixture,
  *,
  bandwidth: float = 1.0,
) -> kernels.Features:
  """Features of keys; see `query_map`."""
  y = _scaled(y)
  u = projections.project(projection.tau, y)
  if kernel.name == 'softmax_angular':
    # The other side for c, the same side for 1 - c.
    side = _sides(u)
    other = jnp.roll(side, u.shape[-1], axis=-1)
    return _mixture(y, projection, (other, side))
  waves = _waves(bandwidth * u)
  one = jnp.ones_like(waves[..., :1])
  return _mixture(y, projection, (jnp.concatenate([one, -waves], -1), waves))


def _scaled(x: Float[Array, 'b h l d']) -> Float[Array, 'b h l d']:
  return precision.widen(x) * x.shape[-1] ** -0.25


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
) -> kernels.Features:
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
  return kernels.Features(jnp.concatenate(values, axis=-1), top[..., 0])


def _kronecker(
  a: Float[Array, 'b h l e'], b: Float[Array, 'b h l f']
) -> Float[Array, 'b h l r']:
  product = a[..., :, None] * b[..., None, :]
  return product.reshape(*product.shape[:-2], -1)
