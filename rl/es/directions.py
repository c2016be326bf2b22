"""Perturbations that are regenerated from (key, index) and never stored.

Letters: d parameters, n directions (antithetic pairs, in most estimators),
b rows of an orthogonal block, k dimensions of a guiding subspace.

Row i depends on the key and on i alone: not on n, on how many rows are drawn
at once, or on where. So the key alone determines the population.

All kinds have E[g g^T] = I, which is all that unbiasedness on linear and
quadratic functions needs. Which gradient they estimate elsewhere:

  kind         norm    row            unbiased for the gradient of
  gaussian     chi     N(0, I)        f smoothed by N(0, sigma^2 I)
  orthogonal   chi     N(0, I)        the same
  orthogonal   sqrt_d  sphere         f averaged over the ball of radius
                                      sigma sqrt(d)
  hadamard     sqrt_d  +-1            none of these (f = x^3: 3 x^2 + sigma^2)

Rows of one block are orthogonal, so that they do not repeat each other: for a
linear f the variance of n = b directions is (d - b) / b |grad|^2 with fixed
norms, against (d + 1) / n |grad|^2 of independent Gaussian rows.

Reference: arXiv:1804.02395 (structured directions); arXiv:1806.10230 (guided).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rl import orthonormal, ranges

__all__ = [
  'KINDS',
  'NORMS',
  'Directions',
  'keep',
  'orthonormal_basis',
  'rows',
  'weighted_sum',
]

KINDS = ('gaussian', 'orthogonal', 'hadamard')
NORMS = ('chi', 'sqrt_d')


@dataclasses.dataclass(frozen=True)
class Directions:
  """The distribution of perturbations.

  Attributes:
    kind: 'gaussian', independent rows; 'orthogonal', Haar blocks from a QR
      decomposition, d b^2 operations a block; 'hadamard', random signs times
      rows of a Walsh-Hadamard matrix, d random bits a block.
    norm: 'chi', norms of independent Gaussian vectors; 'sqrt_d', all equal.
      None: 'sqrt_d' for 'hadamard', which has no other, else 'chi'.
    block: b, a power of two; for smaller d, the largest power of two within d.
      Hadamard rows are exactly orthogonal when b divides d, else their cosines
      are at most b / (2 d). Ignored by 'gaussian', whose rows have no blocks.
    guide: alpha in [0, 1], for a guiding subspace: rows are sqrt(alpha) g +
      sqrt((1 - alpha) d / k) U z with z ~ N(0, I_k), of covariance
      alpha I + (1 - alpha) (d / k) U U^T (d times the published one). An
      estimate is then that matrix times the gradient: biased, towards U. None:
      no subspace.
  """

  kind: str = 'gaussian'
  norm: str | None = None
  block: int = 32
  guide: float | None = None

  def __post_init__(self) -> None:
    if self.kind not in KINDS:
      raise ValueError(f'kind must be one of {KINDS}, got {self.kind!r}')
    fixed = {'gaussian': 'chi', 'hadamard': 'sqrt_d'}.get(self.kind)
    if self.norm is not None and self.norm not in NORMS:
      raise ValueError(f'norm must be one of {NORMS}, got {self.norm!r}')
    if fixed and self.norm not in (None, fixed):
      raise ValueError(
        f'{self.kind} rows have norm {fixed!r} only, got {self.norm!r}'
      )
    ranges.check_counts(block=self.block)
    if self.block & (self.block - 1):
      raise ValueError(f'block must be a power of two, got {self.block}')
    ranges.check_shares(guide=self.guide)

  def rows_per_block(self, size: int) -> int:
    """Rows that must be drawn together: 1, but for 'orthogonal'."""
    return self._width(size) if self.kind == 'orthogonal' else 1

  def _width(self, size: int) -> int:
    return min(self.block, 1 << (size.bit_length() - 1))


def orthonormal_basis(vectors: Float[Array, 'k d']) -> Float[Array, 'd k']:
  """Orthonormal columns that span `vectors`, for `Directions.guide`.

  Args:
    vectors: linearly independent, such as the last k estimates; k <= d.

  Returns:
    U, float32.

  Raises:
    ValueError: if there are more vectors than dimensions.
  """
  count, size = vectors.shape
  if count > size:
    raise ValueError(f'k must be at most d, got k={count} d={size}')
  return orthonormal.orthonormal_columns(vectors.astype(jnp.float32).T)


def _gaussian(key: Key[Array, ''], index: Array, size: int) -> Array:
  return jax.random.normal(jax.random.fold_in(key, index), (size,))


def _hadamard(
  key: Key[Array, ''], index: Array, size: int, width: int
) -> Array:
  """Row i mod b of the b x b Walsh-Hadamard matrix, repeated, times signs.

  Its entry at column j is the parity of the bits that both indices have set.
  Repeating needs no padding of d, and rows are orthogonal whenever b | d.
  """
  signs = jax.random.bits(
    jax.random.fold_in(key, index // width), (size,), jnp.uint8
  )
  column = jax.lax.iota(jnp.uint32, size) % width
  overlap = (index % width).astype(jnp.uint32) & column
  parity = jax.lax.population_count(overlap).astype(jnp.uint8)
  return 1.0 - 2.0 * ((signs ^ parity) & 1).astype(jnp.float32)


def _orthogonal(
  key: Key[Array, ''], block: Array, size: int, width: int, norm: str
) -> Array:
  """One block, [b, d]."""
  gaussian = jax.random.normal(jax.random.fold_in(key, block), (size, width))
  q = orthonormal.orthonormal_columns(gaussian).T
  if norm == 'sqrt_d':
    return q * size**0.5
  # Q does not change when columns are scaled, and the norm of a Gaussian vector
  # is independent of its direction: these norms are independent of Q.
  return q * jnp.linalg.norm(gaussian, axis=0)[:, None]


def _orthogonal_rows(
  spec: Directions, key: Key[Array, ''], start: Array, count: int, size: int
) -> Array:
  width = spec.rows_per_block(size)
  norm = spec.norm or 'chi'
  if count % width and width % count:
    raise ValueError(
      'the number of orthogonal rows drawn at once must divide their block or '
      f'be a multiple of it, got {count=} block={width}'
    )
  first = start // width
  if count < width:
    block = _orthogonal(key, first, size, width, norm)
    return jax.lax.dynamic_slice_in_dim(block, start % width, count)
  blocks = first + jnp.arange(count // width)
  # One by one: a batch could round otherwise than a single block.
  drawn = jax.lax.map(lambda i: _orthogonal(key, i, size, width, norm), blocks)
  return drawn.reshape(count, size)


def _guided(
  spec: Directions,
  key: Key[Array, ''],
  isotropic: Float[Array, 'n d'],
  indices: Int[Array, ' n'],
  basis: Float[Array, 'd k'],
) -> Array:
  size, width = basis.shape
  # The last index that rows never use: their keys stay apart.
  key = jax.random.fold_in(key, jnp.uint32(2**32 - 1))
  latent = jax.vmap(lambda i: _gaussian(key, i, width))(indices)
  scale = ((1 - spec.guide) * size / width) ** 0.5
  return spec.guide**0.5 * isotropic + scale * latent @ basis.T


def rows(
  spec: Directions,
  key: Key[Array, ''],
  start: Int[Array, ''] | int,
  *,
  count: int,
  size: int,
  basis: Float[Array, 'd k'] | None = None,
) -> Float[Array, 'count d']:
  """Draws the rows start, ..., start + count - 1.

  Args:
    spec: their distribution.
    key: of the generation.
    start: index of the first row, a multiple of `count` for 'orthogonal'; may
      be traced.
    count: number of rows, static; for 'orthogonal' it divides the block of
      rows or is a multiple of it.
    size: d.
    basis: U, orthonormal columns; given if and only if `spec.guide` is.

  Returns:
    Float32 rows g_i; a population member is theta +- sigma g_i.

  Raises:
    ValueError: if `count` does not fit the block, or only one of `basis` and
      `spec.guide` is given.
  """
  if (basis is None) != (spec.guide is None):
    raise ValueError(
      f'a basis and guide go together, got guide={spec.guide} and '
      f'{"no basis" if basis is None else "a basis"}'
    )
  start = jnp.asarray(start, jnp.int32)
  indices = start + jnp.arange(count, dtype=jnp.int32)
  if spec.kind == 'orthogonal':
    drawn = _orthogonal_rows(spec, key, start, count, size)
  elif spec.kind == 'hadamard':
    width = spec._width(size)
    drawn = jax.vmap(lambda i: _hadamard(key, i, size, width))(indices)
  else:
    drawn = jax.vmap(lambda i: _gaussian(key, i, size))(indices)
  if basis is None:
    return drawn
  return _guided(spec, key, drawn, indices, basis)


def keep(
  spec: Directions,
  key: Key[Array, ''],
  count: int,
  *,
  size: int,
  block: int,
  basis: Float[Array, 'd k'] | None = None,
) -> Float[Array, 'count d'] | None:
  """Rows 0, ..., count - 1 if they fit a block; None if they do not.

  Args:
    spec: the distribution of the rows.
    key: of the generation.
    count: number of rows that are needed.
    size: d.
    block: rows in memory at once, a power of two.
    basis: as in `rows`.

  Returns:
    At least `count` rows, as many as `weighted_sum` would draw at once.
  """
  rounded = 1 << (count - 1).bit_length()
  if rounded > block:
    return None
  rounded = max(rounded, spec.rows_per_block(size))
  return rows(spec, key, 0, count=rounded, size=size, basis=basis)


def weighted_sum(
  spec: Directions,
  key: Key[Array, ''],
  weights: Float[Array, ' n'],
  *,
  size: int,
  basis: Float[Array, 'd k'] | None = None,
  block: int = 32,
  kept: Float[Array, 'count d'] | None = None,
) -> Float[Array, ' d']:
  """sum_i weights_i g_i, regenerating `block` rows at a time.

  Args:
    spec: the distribution of the rows.
    key: of the generation.
    weights: one number per direction, as the estimators return them; where it
      is 0 the direction does not count.
    size: d.
    basis: as in `rows`.
    block: rows in memory at once, a power of two.
    kept: result of `keep` for as many rows, which are not drawn again.

  Returns:
    Float32; rounding depends on `block`.
  """
  count = weights.shape[0]
  if kept is None:
    kept = keep(spec, key, count, size=size, block=block, basis=basis)
  if kept is not None:
    return jnp.pad(weights, (0, kept.shape[0] - count)) @ kept
  block = max(block, spec.rows_per_block(size))
  blocks = -(-count // block)
  padded = jnp.pad(weights, (0, blocks * block - count))

  def add(total: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
    index, part = item
    drawn = rows(spec, key, index * block, count=block, size=size, basis=basis)
    return total + part @ drawn, None

  items = (jnp.arange(blocks), padded.reshape(blocks, block))
  return jax.lax.scan(add, jnp.zeros(size), items)[0]
