"""Attention kernels and their feature maps.

A kernel is K(x, y) = E[phi(x) . phi(y)]. Its features come in one of two
forms:

* logarithmic (`log=True`): `values` are logarithms of positive features, so
  that they can be stabilised exactly; softmax_pos, softmax_hyp, exp.
* direct (`log=False`): `values` are the features themselves, of any sign.

In both, the true features are those of `values` times exp(`log_weight`), one
factor per position, and times sqrt(`Kernel.scale(r)`), one constant.

Here is the table of all kernels, and the map of those that have one map, of a
matrix alone, for queries and keys. `features` has the maps of all of them.

Letters: b batch, h heads, l positions, d width of a head, m rows of the
projection, r features (r = m, or 2m for hyperbolic and trigonometric kernels;
more for hybrids).

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

from performer.attention import checks, precision, projections, structures

__all__ = ['HYBRIDS', 'KERNELS', 'Features', 'Kernel', 'feature_map', 'get']


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
  """The properties of a kernel that the package needs.

  Attributes:
    name: the public name.
    log: whether `feature_map` returns log-features.
    softmax: whether it estimates exp(x . y); then queries and keys are scaled
      by d**-0.25 each, and the features by 1/sqrt(m).
    copies: features per row of the projection; of a hybrid, for one row of
      its coefficient (see `mixed`).
    signed: whether a denominator can be zero or negative.
    regularized: whether the rows must have norm sqrt(d).
    structure: what the projection is: 'matrix', 'mixture' or 'general', the
      pytrees of `structures`.
    activation: f of a generalised kernel, phi(x) = f(W x) + epsilon.
  """

  name: str
  log: bool = False
  softmax: bool = False
  copies: int = 1
  signed: bool = False
  regularized: bool = False
  structure: str = 'matrix'
  activation: Callable[[Array], Array] | None = None

  def scale(self, features: int) -> float:
    """Constant by which phi(x) . phi(y) of `feature_map` must be multiplied."""
    if not self.softmax:
      return 1.0
    return (1.0 if self.log else float(self.copies)) / features

  def mixed(self, rows: int) -> 'Kernel':
    """This hybrid kernel with n rows that estimate its coefficient."""
    return dataclasses.replace(self, copies=HYBRIDS[self.name](rows))


def _requ(u: Array) -> Array:
  return jnp.square(jax.nn.relu(u))


def _elu1(u: Array) -> Array:
  return jax.nn.elu(u) + 1.0


def _gelu(u: Array) -> Array:
  return jax.nn.gelu(u, approximate=False)


def _identity(u: Array) -> Array:
  return u


# Features per row of the projection, with n rows for the coefficient.
HYBRIDS = types.MappingProxyType(
  {
    'softmax_angular': lambda n: 8 * n,
    'softmax_gaussian': lambda n: 2 * (4 * n + 1),
  }
)
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
    Kernel('softmax_oprf', log=True, softmax=True),
    Kernel('softmax_general', log=True, softmax=True, structure='general'),
    Kernel('exp', log=True),
  ]
  kernels += [
    Kernel(
      name, softmax=True, copies=copies(1), signed=True, structure='mixture'
    )
    for name, copies in HYBRIDS.items()
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


def feature_map(
  kernel: Kernel,
  x: Float[Array, 'b h l d'],
  projection: structures.Matrix | None,
  *,
  epsilon: float = 0.0,
) -> Features:
  """Maps queries or keys (the map is the same) to features.

  Args:
    kernel: a kernel whose projection is a matrix; not softmax_oprf, whose map
      needs constants.
    x: queries or keys, [b, h, l, d], any floating dtype, unscaled.
    projection: W, [m, d], or its factors; one axis more if there is one per
      head; None where a generalised kernel applies its function to x itself.
    epsilon: added to each feature of a generalised kernel, in units of the
      feature; keeps the denominators from zero.

  Returns:
    Float32 features; see the module for what they mean.

  Raises:
    ValueError: if the kernel has no such map.

  Reference: arXiv:2009.14794, Eq. 5 and Lemma 1.
  """
  if kernel.structure != 'matrix' or kernel.name == 'softmax_oprf':
    raise ValueError(
      f'kernel {kernel.name!r} needs more than a matrix: see features.feature_maps'
    )
  x = precision.widen(x)
  if not kernel.softmax:
    u = x if projection is None else projections.project(projection, x)
    if not kernel.log:
      return Features(kernel.activation(u) + epsilon, None)
    if epsilon > 0:
      u = jnp.logaddexp(u, math.log(epsilon))
    return Features(u, None)
  x = x * x.shape[-1] ** -0.25
  u = projections.project(projection, x)
  half_norm = 0.5 * jnp.sum(jnp.square(x), axis=-1)
  if not kernel.log:
    values = jnp.concatenate([jnp.cos(u), jnp.sin(u)], axis=-1)
    return Features(values, half_norm)
  if kernel.copies == 2:
    u = jnp.concatenate([u, -u], axis=-1)
  return Features(u, -half_norm)
