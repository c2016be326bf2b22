"""From skew-symmetric matrices to orthogonal ones.

Letters: X skew-symmetric [d, d], m the order of a truncated series.

  retraction     U(X)                                products  orthogonal up to
  Exp            the matrix exponential              many      rounding
  Taylor         sum_{k <= m} X^k / k!               4 (m = 8) |X|^(m+1) / (m+1)!
  Cayley         (I - X/2)^-1 (I + X/2)              1 solve   rounding
  CayleyNeumann  sum_{k <= m} (X/2)^k (I + X/2)      5 (m = 8) (|X| / 2)^(m+1)
  Euler          I + X                               0         |X|^2: a control

Cayley's agrees with the exponential up to |X|^3. Series are evaluated in blocks
(Paterson and Stockmeyer), with about half the products of Horner's rule. They
are meant for steps of a flow, whose X are small: `Guarded` takes another form
where they are not. A series without a given order has the order at which it is
exact to the dtype of X, for a 1-norm up to its `limit`:

                 float32 and narrower    float64                    limit
  Taylor         m = 8,  4 products      m = 14, 6 products         1/2
  CayleyNeumann  m = 8,  5 products      m = 19, 8 products         1/4

All act on the last two axes, compute in the dtype of X, and multiply at the
highest precision: a product in TF32 or bfloat16 leaves the group by 1e-3. Exp and
Cayley, by LAPACK, compute half precision in float32.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import custom_batching
from jaxtyping import Array, Bool, Float

from rl import ranges

__all__ = [
  'METHODS',
  'Cayley',
  'CayleyNeumann',
  'Euler',
  'Exp',
  'Guarded',
  'Retraction',
  'Taylor',
  'check_square',
  'newton_schulz',
  'one_norm',
  'phi',
  'product',
  'retract',
  'shorten',
  'skew',
]

Matrix = Float[Array, '... d d']


@runtime_checkable
class Retraction(Protocol):
  """Maps skew-symmetric to orthogonal matrices; hashable."""

  def __call__(self, x: Matrix) -> Matrix:
    """U(X) for the last two axes."""
    ...

  def inverse_differential(self, x: Matrix, b: Matrix) -> Matrix:
    """X' for which U(X)' = U(X) B, with an error of |X|^4 |B|."""
    ...


def check_square(**matrices: Array) -> None:
  """Rejects arrays whose last two axes are no square matrices of floats.

  Args:
    **matrices: by name.

  Raises:
    ValueError: naming the array, its type and its shape.
  """
  for name, x in matrices.items():
    square = x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 0
    if not square or not jnp.issubdtype(x.dtype, jnp.floating):
      raise ValueError(
        f'{name} must be square matrices of floats, got {x.dtype} {x.shape}'
      )


def product(a: Array, b: Array) -> Array:
  """The matrix product in full precision on every device."""
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def skew(x: Matrix) -> Matrix:
  """(X - X^T) / 2, the skew-symmetric part."""
  return (x - jnp.swapaxes(x, -1, -2)) / 2


def one_norm(x: Matrix) -> Float[Array, '...']:
  """The largest absolute column sum; at least the spectral norm if skew."""
  return jnp.max(jnp.sum(jnp.abs(x), axis=-2), axis=-1)


def shorten(x: Array, limit: float, norm: Array | None = None) -> Array:
  """X times min(1, limit / norm), by its 1-norm unless another is given."""
  norm = jax.lax.stop_gradient(one_norm(x) if norm is None else norm)
  # A maximum rather than a quotient by zero.
  return x * (limit / jnp.maximum(norm, limit))[..., None, None]


def newton_schulz(w: Float[Array, '... n k']) -> Float[Array, '... n k']:
  """W (3 I - W^T W) / 2: nearer to the nearest orthogonal matrix.

  A defect e = |W^T W - I| < 1 becomes one of about 3 e^2 / 4. Columns of a tall
  matrix are made orthonormal.
  """
  gram = product(jnp.swapaxes(w, -1, -2), w)
  return product(w, 3 * jnp.eye(w.shape[-1], dtype=w.dtype) - gram) / 2


def _polynomial(x: Array, coefficients: Sequence[float]) -> Array:
  """sum_k c_k X^k, in blocks of three: products for X^2, X^3 and each block."""
  eye = jnp.eye(x.shape[-1], dtype=x.dtype)
  square = product(x, x)
  block = lambda c: sum(
    a * power for a, power in zip(c, (eye, x, square), strict=False)
  )
  parts = [coefficients[i : i + 3] for i in range(0, len(coefficients), 3)]
  total = block(parts[-1])
  if len(parts) > 1:
    cube = product(square, x)
    for part in reversed(parts[:-1]):
      total = block(part) + product(cube, total)
  return jnp.broadcast_to(total, x.shape)


class _Orders(NamedTuple):
  """Orders at which a series is exact to the dtype within its limit."""

  single: int
  double: int

  def of(self, dtype: jnp.dtype) -> int:
    return self.double if dtype == jnp.float64 else self.single


_TAYLOR = _Orders(8, 14)
_NEUMANN = _Orders(8, 19)


def _rounding(dtype: jnp.dtype) -> float:
  """Half the distance of 1 to the next number; as float32 if narrower."""
  return float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps) / 2


def _power_of_two(x: float) -> float:
  """The largest power of two up to x."""
  return 2.0 ** math.floor(math.log2(x))


def phi(m: Matrix, *, squarings: int = 6) -> Matrix:
  """(exp(M) - I) M^-1 of any square matrix, by products only.

  exp(U V^T) = I + U phi(V^T U) V^T is what it is for: the exponential of a
  matrix of low rank.

  Args:
    m: M, of a 1-norm of at most 2^squarings / 2.
    squarings: s; the series is taken at M / 2^s and doubled s times.
  """
  scaled = m / 2**squarings
  terms = range(_TAYLOR.of(m.dtype) + 1)
  total = _polynomial(scaled, [1 / math.factorial(k + 1) for k in terms])
  power = jnp.eye(m.shape[-1], dtype=m.dtype) + product(scaled, total)
  for _ in range(squarings):
    total = (total + product(power, total)) / 2
    power = product(power, power)
  return total


def _commutator(a: Array, b: Array) -> Array:
  return product(a, b) - product(b, a)


def _at_least_single(function: Callable[[Array], Array], x: Array) -> Array:
  """LAPACK knows no half precision."""
  wide = function(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
  return wide.astype(x.dtype)


class _Exponential:
  """Base class of the forms of the exponential."""

  def inverse_differential(self, x: Matrix, b: Matrix) -> Matrix:
    """B + [X, B] / 2 + [X, [X, B]] / 12; the next term is of fourth order."""
    once = _commutator(x, b)
    return b + once / 2 + _commutator(x, once) / 12


class _CayleyForm:
  """Base class of the forms of Cayley's transform."""

  def inverse_differential(self, x: Matrix, b: Matrix) -> Matrix:
    """(I + X/2) B (I - X/2), exactly."""
    half = x / 2
    return b + _commutator(half, b) - product(product(half, b), half)


@dataclasses.dataclass(frozen=True)
class Exp(_Exponential):
  """The matrix exponential: exact for any X, and the dearest."""

  def __call__(self, x: Matrix) -> Matrix:
    """See `Retraction`."""
    check_square(x=x)
    return _at_least_single(jax.scipy.linalg.expm, x)


@dataclasses.dataclass(frozen=True)
class Taylor(_Exponential):
  """The exponential's series.

  Attributes:
    order: m; None: 8 up to float32 and 14 in float64, which is exact to the
      dtype for |X| <= 1/2.
    squarings: s; the series is taken at X / 2^s and squared s times, which
      serves larger X and multiplies rounding errors by 2^s. A Newton-Schulz
      step then takes out what they harm of orthogonality. An X of a 1-norm
      beyond 2^(s + 1) is shortened to that: the result stays orthogonal.

  Raises:
    ValueError: if the order is not positive or `squarings` is negative.
  """

  order: int | None = None
  squarings: int = 0

  def __post_init__(self) -> None:
    ranges.check_counts(order=self.order)
    ranges.check_counts(least=0, squarings=self.squarings)

  def __call__(self, x: Matrix) -> Matrix:
    """See `Retraction`."""
    check_square(x=x)
    order = self.order or _TAYLOR.of(x.dtype)
    factors = [1 / math.factorial(k) for k in range(order + 1)]
    x = shorten(x, 2.0 ** (self.squarings + 1)) if self.squarings else x
    u = _polynomial(x / 2**self.squarings, factors)
    for _ in range(self.squarings):
      u = product(u, u)
    return newton_schulz(u) if self.squarings else u

  def limit(self, dtype: jnp.dtype) -> float:
    """The 1-norm up to which |X|^(m + 1) / (m + 1)! is below rounding."""
    m = self.order or _TAYLOR.of(dtype)
    bound = (_rounding(dtype) * math.factorial(m + 1)) ** (1 / (m + 1))
    return _power_of_two(bound)


@dataclasses.dataclass(frozen=True)
class Cayley(_CayleyForm):
  """Cayley's transform: orthogonal for any X, by solving linear equations."""

  def __call__(self, x: Matrix) -> Matrix:
    """See `Retraction`."""
    check_square(x=x)

    def solve(x: Array) -> Array:
      eye = jnp.eye(x.shape[-1], dtype=x.dtype)
      return jnp.linalg.solve(eye - x / 2, eye + x / 2)

    return _at_least_single(solve, x)


@dataclasses.dataclass(frozen=True)
class CayleyNeumann(_CayleyForm):
  """Cayley's transform with a Neumann series for the inverse.

  Attributes:
    order: m; None: 8 up to float32 and 19 in float64, which is exact to the
      dtype for |X| <= 1/4.

  Raises:
    ValueError: if the order is not positive.
  """

  order: int | None = None

  def __post_init__(self) -> None:
    ranges.check_counts(order=self.order)

  def __call__(self, x: Matrix) -> Matrix:
    """See `Retraction`."""
    check_square(x=x)
    # Multiplied out: I + 2 Y + ... + 2 Y^m + Y^(m + 1) with Y = X / 2.
    order = self.order or _NEUMANN.of(x.dtype)
    factors = [1.0] + [2.0] * order + [1.0]
    scaled = [factor / 2**k for k, factor in enumerate(factors)]
    return _polynomial(x, scaled)

  def limit(self, dtype: jnp.dtype) -> float:
    """The 1-norm up to which (|X| / 2)^(m + 1) is below rounding."""
    m = self.order or _NEUMANN.of(dtype)
    return _power_of_two(2 * _rounding(dtype) ** (1 / (m + 1)))


@dataclasses.dataclass(frozen=True)
class Euler(_Exponential):
  """I + X, which is not orthogonal: a negative control."""

  def __call__(self, x: Matrix) -> Matrix:
    """See `Retraction`."""
    check_square(x=x)
    return jnp.eye(x.shape[-1], dtype=x.dtype) + x


@dataclasses.dataclass(frozen=True)
class Guarded:
  """A series, or a form for larger X where a 1-norm is above a limit.

  By default that is the series with six squarings: for |X| <= 32 as exact as
  the dtype allows, and compiled in half of the time that `Exp` takes. Steps far
  beyond are no steps of a flow: they are shortened, see `Taylor`.

  One comparison decides for all matrices of a `vmap`, so that the exact form
  costs nothing while nobody needs it: which form a matrix gets can depend on
  the others, which changes it by the error of the series at the limit.

  Attributes:
    fast: taken within the limit.
    exact: taken beyond it, as exact there.
    limit: of the 1-norm of X; None: that up to which `fast` is exact to the
      dtype of X.

  Raises:
    ValueError: if the limit is not positive, or the two are of different kinds.
  """

  fast: Taylor | CayleyNeumann = Taylor()
  exact: Exp | Taylor | Cayley = Taylor(squarings=6)
  limit: float | None = None

  def __post_init__(self) -> None:
    ranges.check_positive(limit=self.limit)
    if isinstance(self.fast, Taylor) == isinstance(self.exact, Cayley):
      raise ValueError(
        'a series must be guarded by its own exact form, got '
        f'{self.fast} and {self.exact}'
      )

  def __call__(self, x: Matrix) -> Matrix:
    """See `Retraction`."""
    check_square(x=x)
    norm = jax.lax.stop_gradient(jnp.max(one_norm(x), initial=0.0))
    limit = self.limit or self.fast.limit(x.dtype)
    return jax.lax.cond(_for_any(norm > limit), self.exact, self.fast, x)

  def inverse_differential(self, x: Matrix, b: Matrix) -> Matrix:
    """See `Retraction`."""
    return self.fast.inverse_differential(x, b)


METHODS = {
  'exp': Exp(),
  'taylor': Taylor(),
  'cayley': Cayley(),
  'cayley_neumann': CayleyNeumann(),
  'guarded': Guarded(),
  'euler': Euler(),
}


def retract(x: Matrix, method: str = 'guarded') -> Matrix:
  """U(X) of a retraction by its name.

  Args:
    x: X, skew-symmetric.
    method: one of METHODS.

  Raises:
    ValueError: if there is no such method, or X is not square.
  """
  if method not in METHODS:
    raise ValueError(f'method must be one of {tuple(METHODS)}, got {method!r}')
  return METHODS[method](x)


@custom_batching.custom_vmap
def _for_any(flag: Bool[Array, '']) -> Bool[Array, '']:
  """Under `vmap`, whether it holds for any: `cond` then stays a branch."""
  return flag


@_for_any.def_vmap
def _(size: int, batched: Sequence[bool], flags: Array) -> tuple[Array, bool]:
  del size, batched
  return _for_any(jnp.any(flags)), False
