"""Pairs (x, y) of queries and keys, by what the errors of kernels depend on.

Inputs are scaled as the kernels scale them: x = q d**-0.25, y = k d**-0.25.
Letters: d width of a head.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ['Pairs', 'all_pairs', 'even', 'pairs']


class Pairs(NamedTuple):
  """Pairs (x, y), by the three numbers that the errors depend on.

  Attributes:
    dot: x . y.
    x2: |x|^2.
    y2: |y|^2.
  """

  dot: Float[Array, '...']
  x2: Float[Array, '...']
  y2: Float[Array, '...']

  @property
  def plus(self) -> Float[Array, '...']:
    """|x + y|^2, which sets the error of the positive estimators."""
    return jnp.maximum(self.x2 + self.y2 + 2 * self.dot, 0.0)

  @property
  def minus(self) -> Float[Array, '...']:
    """|x - y|^2, which sets the error of the trigonometric estimator."""
    return jnp.maximum(self.x2 + self.y2 - 2 * self.dot, 0.0)

  @property
  def angle(self) -> Float[Array, '...']:
    """Angle between x and y, in [0, pi]; pi / 2 where one of them is 0."""
    norm = jnp.sqrt(self.x2 * self.y2)
    cosine = self.dot / jnp.where(norm > 0, norm, 1.0)
    return jnp.arccos(jnp.clip(cosine, -1.0, 1.0))


def pairs(x: Float[Array, '... d'], y: Float[Array, '... d']) -> Pairs:
  """Pairs up two arrays, element by element (or broadcast).

  Args:
    x: scaled queries.
    y: scaled keys.

  Returns:
    Float32 pairs of shape [...].
  """
  x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  return Pairs(
    jnp.sum(x * y, axis=-1),
    jnp.sum(x * x, axis=-1) + jnp.zeros_like(y[..., 0]),
    jnp.sum(y * y, axis=-1) + jnp.zeros_like(x[..., 0]),
  )


def all_pairs(x: Float[Array, '... i d'], y: Float[Array, '... j d']) -> Pairs:
  """Pairs every x with every y.

  Args:
    x: scaled queries.
    y: scaled keys.

  Returns:
    Float32 pairs of shape [..., i, j]; memory is O(i j).
  """
  x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  dot = jnp.einsum('...id,...jd->...ij', x, y, precision='highest')
  x2 = jnp.sum(x * x, axis=-1)[..., :, None]
  y2 = jnp.sum(y * y, axis=-1)[..., None, :]
  return Pairs(dot, x2 + jnp.zeros_like(dot), y2 + jnp.zeros_like(dot))


def even(z2: Float[Array, '...']) -> Float[Array, '...']:
  """exp(z2) (1 - exp(-z2))^2 / 2: the error of an even estimator of one row.

  Args:
    z2: |x + y|^2 for hyperbolic features, |x - y|^2 for trigonometric ones.
  """
  return -0.5 * jnp.expm1(z2) * jnp.expm1(-z2)
