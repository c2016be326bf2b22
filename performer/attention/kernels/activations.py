"""Generalised kernels: a function of the projected inputs, f(W x) + epsilon.

They are kernels of their own and imitate no softmax, so inputs are unscaled and
features have no constant. Without a projection, f is applied to x itself.

Letters: b batch, h heads, l positions, d width of a head.

Reference: arXiv:2009.14794, sections 2.2, 4.2 and D.3.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention.kernels import base, projections, structures
from performer.attention.sums import features as features_lib
from performer.attention.sums import state as state_lib

__all__ = ['Activation', 'Exponential', 'elu1', 'gelu', 'identity', 'requ']


def requ(u: Array) -> Array:
  """The square of relu."""
  return jnp.square(jax.nn.relu(u))


def elu1(u: Array) -> Array:
  """Elu + 1, which is positive."""
  return jax.nn.elu(u) + 1.0


def gelu(u: Array) -> Array:
  """gelu, not approximated."""
  return jax.nn.gelu(u, approximate=False)


def identity(u: Array) -> Array:
  """U itself."""
  return u


@dataclasses.dataclass(frozen=True)
class _Generalised(base.Kernel):
  """A function of the projected inputs.

  Attributes:
    kernel_epsilon: added to each feature, in units of the feature; keeps the
      denominators from zero.
  """

  kernel_epsilon: int | float = 1e-3

  softmax: ClassVar[bool] = False

  def check(self) -> None:
    """See the base."""
    if not self.kernel_epsilon >= 0:
      raise ValueError(
        f'kernel_epsilon must be >= 0, got {self.kernel_epsilon}'
      )

  def scale(self, features: int) -> float:
    """Features have no constant."""
    del features
    return 1.0

  def maps(
    self, projection: structures.Matrix | None, size: int
  ) -> features_lib.FeatureMaps:
    """One map; see the base."""
    return projections.one_map(self.featurize, projection, size)


def _projected(
  x: Float[Array, 'b h l d'], projection: structures.Matrix | None
) -> Float[Array, 'b h l m']:
  x = state_lib.widen(x)
  return x if projection is None else projections.project(projection, x)


@dataclasses.dataclass(frozen=True)
class Activation(_Generalised):
  """Features f(W x) + epsilon.

  Attributes:
    activation: f.
    signed: whether f has both signs.
  """

  activation: Callable[[Array], Array] = identity
  signed: bool = False

  def featurize(
    self, x: Float[Array, 'b h l d'], projection: structures.Matrix | None
  ) -> features_lib.Features:
    """Features of queries or keys; None: of x itself."""
    u = self.activation(_projected(x, projection))
    return features_lib.Features(u + self.kernel_epsilon, None)


@dataclasses.dataclass(frozen=True)
class Exponential(_Generalised):
  """Features exp(W x) + epsilon, as logarithms, so that they are stabilised."""

  log: ClassVar[bool] = True

  def featurize(
    self, x: Float[Array, 'b h l d'], projection: structures.Matrix | None
  ) -> features_lib.Features:
    """Log-features of queries or keys; None: of x itself."""
    u = _projected(x, projection)
    if self.kernel_epsilon > 0:
      u = jnp.logaddexp(u, math.log(self.kernel_epsilon))
    return features_lib.Features(u, None)
