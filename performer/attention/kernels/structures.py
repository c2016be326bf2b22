"""Projections that are more than one matrix, as pytrees.

Every array may have axes in front: h where each head has a projection of its
own, and layers before that; so they stack under `jax.vmap` and slice under a
scan like a matrix does.

Letters: d width of a head, p its next power of two, m rows, n blocks of p
rows, or rows that estimate the coefficient of a hybrid.
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float

__all__ = ['General', 'Hadamard', 'Matrix', 'Mixture', 'Projection', 'rank']


class Hadamard(NamedTuple):
  """Rows of blocks H D3 H D2 H D1, times a norm each.

  H is the normalised Walsh-Hadamard matrix and D_i a diagonal of random signs.
  Inputs are padded with zeros to width p, in which the rows of a block are
  orthogonal.

  Attributes:
    signs: D1, D2, D3 of each block, -1 or 1.
    norms: norms of the rows, in p dimensions.

  Reference: arXiv:1610.09072 (structured orthogonal features).
  """

  signs: Float[Array, '... n 3 p']
  norms: Float[Array, '... m']


Matrix = Float[Array, '... m d'] | Hadamard


class Mixture(NamedTuple):
  """The projection of a hybrid kernel.

  Attributes:
    omega: rows of the hyperbolic part, and of the trigonometric one where
      `second` is None.
    tau: rows that estimate the coefficient, independent of the others.
    second: rows of the trigonometric part, if it has its own.

  Reference: arXiv:2110.04367.
  """

  omega: Matrix
  tau: Float[Array, '... n d']
  second: Matrix | None


class General(NamedTuple):
  """Rows, and an invertible A: queries become A x and keys A^-T y.

  Attributes:
    omega: rows.
    transform: the diagonal of A, or A itself.

  Reference: arXiv:2110.04367.
  """

  omega: Matrix
  transform: Float[Array, '... d'] | Float[Array, '... d d']


Projection = Matrix | Mixture | General


def rank(projection: Projection) -> int:
  """Axes of a projection, counted as those of a matrix [..., m, d]."""
  if isinstance(projection, Hadamard):
    return projection.norms.ndim + 1
  if isinstance(projection, Mixture | General):
    return rank(projection.omega)
  return jax.numpy.ndim(projection)
