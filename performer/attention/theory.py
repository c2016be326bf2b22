"""Errors of the estimators of exp(x . y), in closed form.

Errors are relative to the kernel: E[(estimate / exp(x . y) - 1)^2]. They are
those of single entries of the unnormalised attention matrix, for independent
rows (`ortho='iid'`); orthogonal rows do a little better (`orthogonal_gain`).
The normalised output, a ratio of sums, has no closed form.

Inputs are scaled as the kernels scale them: x = q d**-0.25, y = k d**-0.25.

Letters: d width of a head, m rows of the projection, r features (m times the
features per row), n rows that estimate the coefficient of a hybrid.

Reference: arXiv:2009.14794, Lemma 2, Theorems 1 and 2, Eq. 29;
arXiv:2110.04367 (hybrids); arXiv:2205.15317 (optimal positive features).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention import checks, precision

__all__ = [
  'COPIES',
  'OprfConstants',
  'Pairs',
  'all_pairs',
  'coefficient_moments',
  'copies',
  'log_0f1',
  'log_regularized_ratio',
  'oprf_constants',
  'orthogonal_gain',
  'pairs',
  'relative_mse',
]

# Features per row of the projection; hybrids depend on n, see `copies`.
COPIES = {
  'softmax_pos': 1,
  'softmax_hyp': 2,
  'softmax_trig': 2,
  'softmax_pos_reg': 1,
  'softmax_hyp_reg': 2,
  'softmax_oprf': 1,
  'softmax_general': 1,
  'softmax_angular': None,
  'softmax_gaussian': None,
}


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


class OprfConstants(NamedTuple):
  """Constants of the optimal positive features exp(A |w|^2 + B w.x) D."""

  rho: Float[Array, '...']
  a: Float[Array, '...']
  b: Float[Array, '...']
  log_d: Float[Array, '...']


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


def copies(kernel: str, *, mix_rows: int = 4) -> int:
  """Features per row of the projection.

  Args:
    kernel: a key of `COPIES`.
    mix_rows: n, for the hybrids.

  Returns:
    r / m.

  Raises:
    ValueError: if the kernel has no closed forms here.
  """
  checks.check_choice('softmax kernel', kernel, COPIES)
  if kernel == 'softmax_angular':
    return 8 * mix_rows
  if kernel == 'softmax_gaussian':
    return 2 * (4 * mix_rows + 1)
  return COPIES[kernel]


def log_0f1(b: int | float, z: Float[Array, '...']) -> Float[Array, '...']:
  """Logarithm of 0F1(; b; z) = sum_k z^k / (k! (b)_k), for z >= 0.

  The terms are summed until they are below float32's precision; their number
  grows as sqrt(z).

  Args:
    b: parameter, positive.
    z: argument, >= 0.

  Returns:
    Float32.
  """
  z = jnp.asarray(z, jnp.float32)
  log_z = jnp.log(z)

  def unfinished(carry: tuple) -> Array:
    k, term, total = carry
    # Terms rise as long as k (b + k) < z, and then fall faster and faster.
    rising = k * (b + k) < z
    return jnp.any((rising | (term > total - 20.0)) & jnp.isfinite(z) & (z > 0))

  def step(carry: tuple) -> tuple:
    k, term, total = carry
    term = term + log_z - jnp.log((k + 1.0) * (b + k))
    return k + 1.0, term, jnp.logaddexp(total, term)

  start = (jnp.float32(0), jnp.zeros_like(z), jnp.zeros_like(z))
  total = jax.lax.while_loop(unfinished, step, start)[2]
  return jnp.where(z == jnp.inf, jnp.inf, total)


def log_regularized_ratio(
  size: int, plus: Float[Array, '...']
) -> Float[Array, '...']:
  """Logarithm of SMREG(x, y) / exp(x . y), never positive for d >= 2.

  SMREG is what rows of norm sqrt(d) estimate (`norm='sqrt_d'`).

  Args:
    size: d.
    plus: |x + y|^2.

  Returns:
    log(exp(-plus / 2) 0F1(; d / 2; d plus / 4)).

  Reference: arXiv:2009.14794, Theorem 1 and Eq. 29.
  """
  return log_0f1(size / 2, size * plus / 4) - plus / 2


def oprf_constants(
  mean_square: Float[Array, '...'] | int | float, size: int
) -> OprfConstants:
  """Constants that minimise the variance at |x + y|^2 = mean_square.

  Any A < 1/8 gives an unbiased estimate of finite variance, with
  B = sqrt(1 - 4 A) and D = (1 - 4 A)^(d/4). A = 0 (at mean_square 0) is
  softmax_pos.

  Args:
    mean_square: mean of |x + y|^2, >= 0.
    size: d.

  Returns:
    rho in (0, 1], A = (1 - 1/rho) / 8, B and log D, in the dtype of
    `mean_square`, at least float32.

  Reference: arXiv:2205.15317, section 3; derived again for a mean.
  """
  s = precision.widen(jnp.asarray(mean_square))
  total = 2 * s + size
  root = jnp.sqrt(1 + 8 * (size / total) * (s / total))
  # The conjugate of (root - 1) total / (4 s): right at s = 0 too.
  rho = 2 * (size / total) / (root + 1)
  a = (1 - 1 / rho) / 8
  return OprfConstants(
    rho, a, jnp.sqrt(1 - 4 * a), size / 4 * jnp.log1p(-4 * a)
  )


def coefficient_moments(
  kernel: str,
  where: Pairs,
  *,
  mix_rows: int,
  mix_bandwidth: int | float = 1.0,
) -> tuple[Float[Array, '...'], Float[Array, '...']]:
  """First two moments of the weight of softmax_hyp in a hybrid.

  Args:
    kernel: 'softmax_angular' or 'softmax_gaussian'.
    where: the pairs.
    mix_rows: n independent rows.
    mix_bandwidth: g of the Gaussian hybrid.

  Returns:
    E c and E c^2, where the other weight, of softmax_trig, is 1 - c.

  Raises:
    ValueError: if the kernel is no hybrid.
  """
  checks.check_choice(
    'hybrid kernel', kernel, ('softmax_angular', 'softmax_gaussian')
  )
  n = mix_rows
  if kernel == 'softmax_angular':
    mean = where.angle / jnp.pi
    return mean, mean**2 + mean * (1 - mean) / n
  square = mix_bandwidth**2 * where.minus
  trig = jnp.exp(-square / 2)
  trig2 = trig**2 * (n - 1) / n + (1 + jnp.exp(-2 * square)) / (2 * n)
  return 1 - trig, 1 - 2 * trig + trig2


def relative_mse(
  kernel: str,
  where: Pairs,
  *,
  features: int | float,
  size: int,
  mean_square: Float[Array, '...'] | int | float | None = None,
  mix_rows: int = 4,
  mix_bandwidth: int | float = 1.0,
  mix_shared: bool = True,
) -> Float[Array, '...']:
  """Mean of (estimate / exp(x . y) - 1)^2, variance and squared bias.

  Args:
    kernel: a key of `COPIES`. For 'softmax_general' give the pairs of A x and
      A^-T y.
    where: the pairs.
    features: r; compare kernels at equal r.
    size: d.
    mean_square: what the constants of softmax_oprf are made for; None means
      |x + y|^2 of each pair itself, the best case.
    mix_rows: n of the hybrids.
    mix_bandwidth: g of softmax_gaussian.
    mix_shared: whether both parts of a hybrid share their rows.

  Returns:
    Float32 of the pairs' shape; inf where float32 cannot hold it.

  Raises:
    ValueError: if the kernel has no closed form, or features is not positive.
  """
  if not features > 0:
    raise ValueError(f'features must be positive, got {features=}')
  m = features / copies(kernel, mix_rows=mix_rows)
  plus, minus = where.plus, where.minus
  if kernel in ('softmax_pos', 'softmax_general'):
    return jnp.expm1(plus) / m
  if kernel == 'softmax_hyp':
    return _even(plus) / m
  if kernel == 'softmax_trig':
    return _even(minus) / m
  if kernel.endswith('_reg'):
    return _regularized(kernel, plus, m, size)
  if kernel == 'softmax_oprf':
    square = (
      plus if mean_square is None else jnp.asarray(mean_square, plus.dtype)
    )
    rho = oprf_constants(square, size).rho
    log_second = size * (jnp.log1p(1 / rho) - jnp.log(2.0) + jnp.log(rho) / 2)
    return jnp.expm1(log_second + rho * plus) / m
  first, second = coefficient_moments(
    kernel, where, mix_rows=mix_rows, mix_bandwidth=mix_bandwidth
  )
  mse = second * _even(plus) + (1 - 2 * first + second) * _even(minus)
  if mix_shared:
    mse -= 2 * (first - second) * (1 - jnp.cos(where.x2 - where.y2))
  return jnp.maximum(mse, 0.0) / m


def _even(z2: Float[Array, '...']) -> Float[Array, '...']:
  """exp(z2) (1 - exp(-z2))^2 / 2, of the even estimators, for one row."""
  return -0.5 * jnp.expm1(z2) * jnp.expm1(-z2)


def _regularized(
  kernel: str, plus: Float[Array, '...'], m: float, size: int
) -> Float[Array, '...']:
  first = log_regularized_ratio(size, plus)
  # E exp(2 w.z) relative to exp(|z|^2); the cosh form halves it and adds 1/2.
  second = jnp.exp(log_0f1(size / 2, size * plus) - plus)
  if kernel == 'softmax_hyp_reg':
    second = 0.5 * (second + jnp.exp(-plus))
  variance = jnp.maximum(second - jnp.exp(2 * first), 0.0)
  return variance / m + jnp.square(jnp.expm1(first))


def orthogonal_gain(
  plus: Float[Array, '...'], *, rows: int, size: int
) -> Float[Array, '...']:
  """Least reduction of the relative MSE of softmax_pos by orthogonal rows.

  Args:
    plus: |x + y|^2.
    rows: m; at most d, or a multiple of d.
    size: d.

  Returns:
    A lower bound on relative_mse(iid) - mse(orthogonal).

  Raises:
    ValueError: if m is neither in 1..d nor a multiple of d.

  Reference: arXiv:2009.14794, Theorem 2.
  """
  if rows < 1 or (rows > size and rows % size):
    raise ValueError(
      f'rows must be 1 to size or a multiple of it, got {rows=} {size=}'
    )
  m = min(rows, size)
  blocks = rows // m
  gain = 2 * (m - 1) / (m * (size + 2)) * jnp.square(jnp.expm1(-plus / 2))
  return gain / blocks
