"""What a kernel is: one object that knows its draw, maps, errors and options.

A kernel is K(x, y) = E[phi(x) . phi(y)]; `sums.features` says what its features
may be. A class in a file of its own, and its name in `table`, make another
kernel. Whatever a kernel can be told is a field of its class.

Letters: b batch, h heads, l positions, d width of a head, m rows of the
projection, r features.

Reference: arXiv:2009.14794, Lemma 1, Theorem 1, sections 2.2, A.4, D.3.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jaxtyping import Array, Bool, Float, Key

from performer.attention.kernels import pairs as pairs_lib
from performer.attention.kernels import structures
from performer.attention.sums import features as features_lib

__all__ = ['Draw', 'Kernel', 'check_positive']

# Draws a matrix of some rows of the kernel's norms: (key, rows) -> [m, d].
Draw = Callable[..., structures.Matrix]


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A kernel.

  Attributes:
    name: the public name.
    norm: norms of the rows of its projection, 'chi' or 'sqrt_d'.
    log: whether its maps return logarithms of features.
    softmax: whether it estimates exp(x . y); then queries and keys are scaled
      by d**-0.25 each, and the features by 1/sqrt(m).
    signed: whether a denominator can be zero or negative.
    copies: features per row of the projection.
    needs_all: whether it must be made for all queries and keys of a call.
    norms: the norms that it may have.
    known: the norms for which `relative_mse` knows its error.
    published: whether the reference stabiliser is defined for it.
    structure: the pytree that its projection is; None: a matrix.
    parts: shapes of the arrays in it beside the matrix, None standing for d.
  """

  name: str
  norm: str = 'chi'

  log: ClassVar[bool] = False
  softmax: ClassVar[bool] = True
  signed: ClassVar[bool] = False
  copies: ClassVar[int] = 1
  needs_all: ClassVar[bool] = False
  norms: ClassVar[tuple[str, ...]] = ('chi', 'sqrt_d')
  known: ClassVar[tuple[str, ...]] = ()
  published: ClassVar[bool] = False
  structure: ClassVar[type | None] = None
  parts: ClassVar[Mapping[str, tuple]] = {}

  def check(self) -> None:
    """Checks its options.

    Raises:
      ValueError: if one is out of range.
    """

  def with_options(self, *, norm: str | None, **options: Any) -> 'Kernel':
    """The kernel with other options.

    Args:
      norm: of the rows; None: as it is.
      **options: fields by name; None: as it is.

    Returns:
      The kernel.

    Raises:
      ValueError: if the kernel has no such option, or one is out of range.
    """
    if norm not in (None, *self.norms):
      raise ValueError(
        f'kernel {self.name!r} implies norm {self.norm}, got {norm=}'
      )
    given = {k: x for k, x in options.items() if x is not None}
    for name, value in given.items():
      if name not in self.__dataclass_fields__:
        short = name.removeprefix('kernel_')
        raise ValueError(
          f'kernel {self.name!r} has no {short}, got {name}={value!r}'
        )
    changed = dataclasses.replace(self, norm=norm or self.norm, **given)
    changed.check()
    return changed

  def scale(self, features: int) -> float:
    """Constant by which phi(x) . phi(y) of the maps must be multiplied."""
    return (1.0 if self.log else float(self.copies)) / features

  def draw(
    self, draw: Draw, key: Key[Array, ''], rows: int, size: int
  ) -> structures.Projection:
    """Draws the projection.

    Args:
      draw: draws one matrix.
      key: a random key.
      rows: m.
      size: d.
    """
    del size
    return draw(key, rows)

  def maps(
    self, projection: structures.Projection | None, size: int
  ) -> features_lib.FeatureMaps:
    """The maps of queries and of keys.

    The estimate of K(x, y) is phi_Q(x) . phi_K(y) times `scale(r)`, with
    log-features exponentiated and every factor exp(`log_weight`) put back.

    Args:
      projection: what it was drawn as; None where there is none.
      size: d.
    """
    raise NotImplementedError

  def measure(
    self,
    q: Float[Array, 'b lq h d'],
    k: Float[Array, 'b lk h d'],
    key_mask: Bool[Array, 'b lk'] | None,
  ) -> Float[Array, 'b h']:
    """The mean of |x + y|^2 that a kernel which `needs_all` is made for."""
    raise NotImplementedError

  def made_for(
    self, square: int | float | Float[Array, '...'] | None
  ) -> 'Kernel':
    """The kernel made for a mean of |x + y|^2, unless it is for another."""
    del square
    return self

  def relative_mse(
    self, where: pairs_lib.Pairs, *, rows: int | float | Array, size: int
  ) -> Float[Array, '...']:
    """Mean of (estimate / exp(x . y) - 1)^2, for independent rows.

    Args:
      where: the pairs.
      rows: m.
      size: d.

    Returns:
      Float32 of the pairs' shape; inf where float32 cannot hold it.
    """
    raise NotImplementedError


def check_positive(**options: float | None) -> None:
  """Refuses numbers that are not positive and finite; None is none.

  Raises:
    ValueError: naming the option and its value.
  """
  for name, value in options.items():
    if value is not None and not 0 < value < math.inf:
      raise ValueError(f'{name} must be positive and finite, got {value!r}')
