"""Orthogonal matrices as parameters: draws, tangents, updates.

Letters: W in O(d); P [n, k] with k <= n and orthonormal columns (a point of a
Stiefel manifold); G an Euclidean gradient; Delta a tangent at P, P^T Delta skew.
A matrix with fewer rows than columns has orthonormal rows: it is transposed on
the way in and out.

  tangent at W        W X, X skew-symmetric         moved by W exp(X)
  tangent at P        Delta                         moved by exp(A), A P = Delta

All moves are matrix products: batches of LAPACK's solvers are slow on a CPU. They
take any number of leading axes.

Every move ends with a Newton-Schulz step, so that rounding does not add up.

Source: arXiv:2006.11421, Section 3; decisions on metrics are ours.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rl import ranges
from rl.odetoode import retractions

__all__ = [
  'MOVE',
  'check_orthogonal',
  'from_coordinates',
  'haar',
  'move_orthogonal',
  'move_stiefel',
  'num_coordinates',
  'orthogonality_defect',
  'riemannian_gradient',
  'riemannian_update',
  'stiefel',
  'stiefel_gradient',
  'stiefel_noise',
  'stiefel_update',
]

product = retractions.product
_eye = lambda x: jnp.eye(x.shape[-1], dtype=x.dtype)
_turned = lambda x: jnp.swapaxes(x, -1, -2)

# Perturbations are larger than steps of a flow: sigma = 0.1 has a 1-norm of about
# 6 at d = 64, of 20 at d = 256. Exact to rounding up to 32, without branches.
MOVE = retractions.Taylor(squarings=6)


def _check_pair(p: Array, g: Array) -> None:
  """Checks that a point and its tangent or gradient have one shape."""
  if p.ndim < 2 or p.shape != g.shape:
    raise ValueError(
      f'a matrix and its tangent or gradient must be of one shape, got {p.shape}'
      f' and {g.shape}'
    )


def _tall(function: Callable[..., Array]) -> Callable[..., Array]:
  """Transposes wide matrices, so that the function sees columns only."""

  @functools.wraps(function)
  def transposed(p: Array, *others: Array) -> Array:
    if p.shape[-2] >= p.shape[-1]:
      return function(p, *others)
    return _turned(function(_turned(p), *map(_turned, others)))

  return transposed


def stiefel(key: Key[Array, ''], shape: tuple[int, int]) -> Float[Array, 'n k']:
  """Draws orthonormal columns, or rows if there are fewer, uniformly.

  Args:
    key: of the draw.
    shape: of the matrix.

  Returns:
    Float32.

  Raises:
    ValueError: if the shape is not of two positive numbers.
  """
  ranges.check_counts(shape=shape)
  if len(shape) != 2:
    raise ValueError(f'shape must be of a matrix, got {shape=}')
  rows, columns = shape
  normal = jax.random.normal(key, (max(shape), min(shape)))
  q, r = jnp.linalg.qr(normal)
  # QR fixes the signs of R, so a raw Q prefers a direction.
  q = q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)
  return q if rows >= columns else q.T


def haar(key: Key[Array, ''], d: int) -> Float[Array, 'd d']:
  """Draws from the uniform distribution on O(d); determinants are +-1.

  Args:
    key: of the draw.
    d: width.

  Raises:
    ValueError: if d is not a positive whole number.
  """
  ranges.check_counts(d=d)
  return stiefel(key, (d, d))


@_tall
def _gram_defect(p: Array) -> Array:
  gram = product(_turned(p), p)
  return jnp.abs(gram - _eye(p))


def orthogonality_defect(p: Float[Array, '... n k']) -> Float[Array, '...']:
  """The largest entry of |P^T P - I|; of rows, if there are fewer.

  Args:
    p: any matrices.
  """
  return jnp.max(_gram_defect(p), axis=(-2, -1))


@jax.jit
def _worst_defect(p: Float[Array, '... n k']) -> Float[Array, '']:
  """The largest defect of a batch, 0 of none; compiled as one program."""
  return jnp.max(orthogonality_defect(p), initial=0.0)


def check_orthogonal(limit: float | None = None, **matrices: Array) -> None:
  """Rejects matrices that are not orthogonal.

  Inside `jax.jit` values are unknown, and only shapes and dtypes are checked.

  Args:
    limit: of the orthogonality defect; None: 10 d times the rounding of the
      matrix's dtype, which draws and long flows keep to.
    **matrices: [..., d, d], by name.

  Raises:
    ValueError: naming the matrix, its defect and the limit.
  """
  retractions.check_square(**matrices)
  for name, w in matrices.items():
    if isinstance(w, jax.core.Tracer):
      continue
    # A known matrix may be used while a program is traced.
    with jax.ensure_compile_time_eval():
      w = jnp.asarray(w)
      defect = float(_worst_defect(w))
    bound = limit or 10 * w.shape[-1] * float(jnp.finfo(w.dtype).eps)
    if not defect <= bound:
      raise ValueError(
        f'{name} must be orthogonal: its orthogonality defect is {defect:.2g}, '
        f'the limit for {w.dtype} [{w.shape[-1]}, {w.shape[-1]}] is {bound:.2g}'
      )


def num_coordinates(d: int) -> int:
  """The dimension of O(d), d (d - 1) / 2."""
  return d * (d - 1) // 2


def from_coordinates(
  z: Float[Array, '... c'], d: int
) -> Float[Array, '... d d']:
  """The skew-symmetric matrix with the entries z above its diagonal.

  Args:
    z: row by row; c = d (d - 1) / 2.
    d: width.

  Raises:
    ValueError: if there are more coordinates, or fewer.
  """
  if z.shape[-1:] != (num_coordinates(d),):
    raise ValueError(
      f'z must be [..., {num_coordinates(d)}] for {d=}, got {z.shape}'
    )
  rows, columns = jnp.triu_indices(d, 1)
  upper = jnp.zeros((*z.shape[:-1], d, d), z.dtype)
  upper = upper.at[..., rows, columns].set(z)
  return upper - _turned(upper)


def move_orthogonal(
  w: Float[Array, '... d d'],
  x: Float[Array, '... d d'],
  retraction: retractions.Retraction = MOVE,
) -> Float[Array, '... d d']:
  """W U(X), on the manifold to rounding.

  Args:
    w: W.
    x: skew-symmetric.
    retraction: U.
  """
  return retractions.newton_schulz(product(w, retraction(x)))


@_tall
def move_stiefel(
  p: Float[Array, '... n k'], delta: Float[Array, '... n k']
) -> Float[Array, '... n k']:
  """exp(A) P with the skew-symmetric A for which A P = Delta.

  A = D P^T - P D^T with D = (I - P P^T / 2) Delta has rank 2 k: matrices are of
  size 2 k instead of n. Moves of a length far beyond 32 are shortened.

  Args:
    p: P.
    delta: tangent at P.

  Raises:
    ValueError: if the shapes differ.
  """
  _check_pair(p, delta)
  d = delta - product(p, product(_turned(p), delta)) / 2
  # Factors of one size: V^T U is then as large as D, not as its square.
  length = jnp.linalg.norm(jax.lax.stop_gradient(d), axis=(-2, -1))
  size = jnp.sqrt(jnp.maximum(length, 1.0))[..., None, None]
  u = jnp.concatenate([d / size, p * size], axis=-1)
  v = jnp.concatenate([p * size, -d / size], axis=-1)
  # exp(A / c) P for a large A.
  norm = retractions.one_norm(product(_turned(v), u))
  u = retractions.shorten(u, 64.0, norm)
  inner = retractions.phi(product(_turned(v), u))
  moved = p + product(u, product(inner, product(_turned(v), p)))
  return retractions.newton_schulz(moved)


@_tall
def stiefel_noise(
  p: Float[Array, '... n k'], e: Float[Array, '... n k']
) -> Float[Array, '... n k']:
  """The tangent (I - P P^T) E + P (P^T E - E^T P) / sqrt(2).

  Of E ~ N(0, I), entries off the columns' span and those of P^T Delta above the
  diagonal are independent and N(0, 1): at n = k, the noise of W S in O(d) with
  S = (E - E^T) / sqrt(2). The map is its own adjoint.

  Args:
    p: P.
    e: any matrix.

  Raises:
    ValueError: if the shapes differ.
  """
  _check_pair(p, e)
  inner = product(_turned(p), e)
  skewed = 2**0.5 * retractions.skew(inner)
  return e - product(p, inner) + product(p, skewed)


@_tall
def stiefel_gradient(
  p: Float[Array, '... n k'], g: Float[Array, '... n k']
) -> Float[Array, '... n k']:
  """The projection of G on the tangents at P, G - P (P^T G + G^T P) / 2.

  Args:
    p: P.
    g: G.

  Raises:
    ValueError: if the shapes differ.
  """
  _check_pair(p, g)
  inner = product(_turned(p), g)
  return g - product(p, inner) + product(p, retractions.skew(inner))


def riemannian_gradient(
  w: Float[Array, '... d d'], g: Float[Array, '... d d']
) -> Float[Array, '... d d']:
  """Omega = (W^T G - G^T W) / 2, the projected gradient as W Omega.

  Args:
    w: W.
    g: G.

  Raises:
    ValueError: if W is not square, or G of another shape.
  """
  retractions.check_square(w=w)
  _check_pair(w, g)
  return retractions.skew(product(_turned(w), g))


def riemannian_update(
  w: Float[Array, '... d d'],
  g: Float[Array, '... d d'],
  learning_rate: float | Float[Array, ''],
) -> Float[Array, '... d d']:
  """One step of descent on O(d): W exp(-learning_rate Omega).

  Args:
    w: W.
    g: gradient of what is minimised.
    learning_rate: negative for ascent.

  Raises:
    ValueError: as `riemannian_gradient`.
  """
  return move_orthogonal(w, -learning_rate * riemannian_gradient(w, g))


def stiefel_update(
  p: Float[Array, '... n k'],
  g: Float[Array, '... n k'],
  learning_rate: float | Float[Array, ''],
) -> Float[Array, '... n k']:
  """One step of descent among matrices with orthonormal columns or rows.

  Args:
    p: P.
    g: gradient of what is minimised.
    learning_rate: negative for ascent.

  Raises:
    ValueError: as `stiefel_gradient`.
  """
  return move_stiefel(p, -learning_rate * stiefel_gradient(p, g))
