"""Attention kernels and their feature maps.

A kernel is K(x, y) = E[phi(x) . phi(y)]. Its features come in one of two
forms:

* logarithmic (`log=True`): `values` are logarithms of positive features, so
  that they can be stabilised exactly; softmax_pos, softmax_hyp, exp.
* direct (`log=False`): `values` are the features themselves, of any sign.

In both, the true features are those of `values` times exp(`log_weight`), one
factor per position, and times sqrt(`Kernel.scale(r)`), one constant.

Letters: b batch, h heads, l positions, d width of a head, m rows of the
projection, r features (r = m, or 2m for hyperbolic and trigonometric kernels).

Reference: arXiv:2009.14794, Lemma 1, Theorem 1, sections 2.2, A.4, D.3.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention import checks

__all__ = ['KERNELS', 'Features', 'Kernel', 'feature_map', 'get']


class Features(NamedTuple):
  """Features of a run of positions.

  Attributes:
    values: [b, h, l, r], float32: log-features or features (`Kernel.log`).
    log_weight: [b, h, l], float32: logarithm of a factor per position; None
      where the kernel has none.
  """

  values: Float[Array, 'b h l r']
  log_weight: Float[Array, 'b h l'] | None


@dataclasses.dataclass(frozen=True)
class Kernel:
  """What the rest of the package must know of a kernel.

  Attributes:
    name: the public name.
    log: whether `feature_map` returns log-features.
    softmax: whether it estimates exp(x . y); then queries and keys are scaled
      by d**-0.25 each, and the features by 1/sqrt(m).
    copies: features per row of the projection.
    signed: whether a denominator can be zero or negative.
    regularized: whether the rows must have norm sqrt(d).
    activation: f of a generalised kernel, phi(x) = f(W x) + epsilon.
  """

  name: str
  log: bool = False
  softmax: bool = False
  copies: int = 1
  signed: bool = False
  regularized: bool = False
  activation: Callable[[Array], Array] | None = None

  def scale(self, features: int) -> float:
    """Constant by which phi(x) . phi(y) of `feature_map` must be multiplied."""
    if not self.softmax:
      return 1.0
    return (1.0 if self.log else float(self.copies)) / features


def _requ(u: Array) -> Array:
  return jnp.square(jax.nn.relu(u))


def _elu1(u: Array) -> Array:
  return jax.nn.elu(u) + 1.0


def _gelu(u: Array) -> Array:
  return jax.nn.gelu(u, approximate=False)


def _identity(u: Array) -> Array:
  return u


_POSITIVE = {
  'relu': jax.nn.relu,
  'sigmoid': jax.nn.sigmoid,
  'abs': jnp.abs,
  'requ': _requ,
  'elu1': _elu1,
  'square': jnp.square,
}
_SIGNED = {
  'tanh': jnp.tanh,
  'gelu': _gelu,
  'cos': jnp.cos,
  'sin': jnp.sin,
  'identity': _identity,
}


def _table() -> Mapping[str, Kernel]:
  kernels = [
    Kernel('softmax_pos', log=True, softmax=True),
    Kernel('softmax_hyp', log=True, softmax=True, copies=2),
    Kernel('softmax_pos_reg', log=True, softmax=True, regularized=True),
    Kernel(
      'softmax_hyp_reg', log=True, softmax=True, copies=2, regularized=True
    ),
    Kernel('softmax_trig', softmax=True, copies=2, signed=True),
    Kernel('exp', log=True),
  ]
  kernels += [Kernel(name, activation=f) for name, f in _POSITIVE.items()]
  kernels += [
    Kernel(name, activation=f, signed=True) for name, f in _SIGNED.items()
  ]
  return types.MappingProxyType({kernel.name: kernel for kernel in kernels})


KERNELS = _table()


def get(name: str) -> Kernel:
  """Looks a kernel up.

  Args:
    name: a key of `KERNELS`.

  Returns:
    The kernel.

  Raises:
    ValueError: if there is none, with the nearest names.
  """
  checks.check_choice('kernel', name, KERNELS)
  return KERNELS[name]


def _project(
  x: Float[Array, 'b h l d'], projection: Float[Array, '... m d'] | None
) -> Float[Array, 'b h l m']:
  if projection is None:
    return x
  weights = projection.astype(jnp.float32)
  form = 'bhld,md->bhlm' if weights.ndim == 2 else 'bhld,hmd->bhlm'
  # An exponent: a rounding error of the default bfloat16 or TF32 product is a
  # relative error of the feature, hence the highest precision.
  return jnp.einsum(form, x, weights, precision=jax.lax.Precision.HIGHEST)


def feature_map(
  kernel: Kernel,
  x: Float[Array, 'b h l d'],
  projection: Float[Array, '... m d'] | None,
  *,
  epsilon: float = 0.0,
) -> Features:
  """Maps queries or keys (the map is the same) to features.

  Args:
    kernel: the kernel.
    x: queries or keys, [b, h, l, d], any floating dtype, unscaled.
    projection: W, [m, d] or one per head, [h, m, d]; None where a generalised
      kernel applies its function to x itself.
    epsilon: added to each feature of a generalised kernel, in units of the
      feature; keeps the denominators from zero.

  Returns:
    Float32 features; see the module for what they mean.

  Reference: arXiv:2009.14794, Eq. 5 and Lemma 1.
  """
  x = x.astype(jnp.float32)
  if not kernel.softmax:
    u = _project(x, projection)
    if not kernel.log:
      return Features(kernel.activation(u) + epsilon, None)
    if epsilon > 0:
      u = jnp.logaddexp(u, math.log(epsilon))
    return Features(u, None)
  x = x * x.shape[-1] ** -0.25
  u = _project(x, projection)
  half_norm = 0.5 * jnp.sum(jnp.square(x), axis=-1)
  if not kernel.log:
    values = jnp.concatenate([jnp.cos(u), jnp.sin(u)], axis=-1)
    return Features(values, half_norm)
  if kernel.copies == 2:
    u = jnp.concatenate([u, -u], axis=-1)
  return Features(u, -half_norm)
