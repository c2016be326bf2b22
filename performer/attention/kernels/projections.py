"""Random matrices whose rows are the frequencies omega of the features.

Letters: b batch, h heads, l positions, d: width of a head, p its next power of
two, m: number of rows (the papers' number of random features), n blocks.

Reference: arXiv:2009.14794, sections 2.4 and B.2.
"""

import functools
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from performer.attention import checks
from performer.attention.kernels import structures
from performer.attention.sums import features as features_lib
from performer.attention.sums import state as state_lib

__all__ = [
  'NORMS',
  'ORTHO',
  'TRANSFORM_WIDTH',
  'check',
  'draw',
  'exponents',
  'givens',
  'haar',
  'hadamard_transform',
  'matrix',
  'one_map',
  'prepare',
  'project',
  'scaled',
  'squared_norms',
]

ORTHO = ('iid', 'rorf', 'horf', 'gorf')
NORMS = ('chi', 'sqrt_d')

# Padded width from which the fast Walsh-Hadamard transform is used. Below it a
# product with the matrix written out is faster, if not fewer operations: 9
# times on 2 CPU cores at d = 64 and 3 times at d = 512, m = 4 d.
TRANSFORM_WIDTH = 1024

# Up to this width sums over a head are products. XLA's CPU compiler gives plain
# sums to several threads: on 2 cores, votes of 2,304 positions with 16 features
# then take up to 1.1 times as long at d = 4 and up to 1.9 times at d = 16.
_NARROW = 16


def haar(key: Key[Array, ''], size: int) -> Float[Array, 'd d']:
  """Draws an orthogonal matrix from the Haar (uniform) distribution.

  Householder QR fixes the signs of R by its own convention, so the raw Q is
  not uniform (its columns have a preferred direction) and positive features
  built on it are biased. Multiplying column i by the sign of R_ii restores
  uniformity.

  Args:
    key: a random key.
    size: d.

  Returns:
    A float32 [d, d] matrix with orthonormal rows and columns.

  Reference: arXiv:math-ph/0609050, section 5.
  """
  q, r = jnp.linalg.qr(jax.random.normal(key, (size, size), jnp.float32))
  # Not jnp.sign: a zero on the diagonal must not erase a column.
  return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)


def givens(
  key: Key[Array, ''], size: int, *, sweeps: int = 2
) -> Float[Array, 'd d']:
  """Draws a product of sweeps * d ceil(ln d) random Givens rotations.

  They come in rounds of d / 2: a round pairs all coordinates at random, each
  with another one (an odd one rests), and rotates each pair by an angle uniform
  on [0, 2 pi). Then each row gets a random sign. Pairs drawn with replacement
  may be a coordinate and itself, and then the factor is no rotation.

  The published number is one sweep. That leaves some rows almost along an
  axis, and positive features are biased there: at |x + y| = 1.4 along an axis
  by 6 % (d = 8), 27 % (d = 16) and 83 % (d = 64). After two sweeps it is 3 %
  or less at every d.

  The product is written out: the factors alone would take d log d numbers for
  d rows, but they must be applied one round after the other.

  Args:
    key: a random key.
    size: d.
    sweeps: number of times that d ceil(ln d) rotations are applied.

  Returns:
    A float32 [d, d] matrix with orthonormal rows and columns.

  Reference: arXiv:2009.14794, section B.2 (G-ORF); arXiv:1610.09072.
  """
  key_pairs, key_angles, key_signs = jax.random.split(key, 3)
  signs = jax.random.rademacher(key_signs, (size, 1), jnp.float32)
  rounds, half = 2 * sweeps * math.ceil(math.log(size)), size // 2
  if rounds == 0:
    return signs
  # The order of random numbers is a random permutation, in one sort.
  order = jnp.argsort(
    jax.random.uniform(key_pairs, (rounds, size), jnp.float32), axis=-1
  )
  shape = (rounds, half, 1)
  angles = jax.random.uniform(
    key_angles, shape, jnp.float32, maxval=2 * math.pi
  )

  def rotate(q: Array, turn: tuple) -> tuple[Array, None]:
    order, c, s = turn
    i, j = order[:half], order[half : 2 * half]
    first, second = q[i], q[j]
    q = q.at[i].set(c * first - s * second)
    return q.at[j].set(s * first + c * second), None

  turns = (order, jnp.cos(angles), jnp.sin(angles))
  return (
    signs * jax.lax.scan(rotate, jnp.eye(size, dtype=jnp.float32), turns)[0]
  )


def hadamard_transform(x: Float[Array, '... p']) -> Float[Array, '... p']:
  """Multiplies by the normalised Walsh-Hadamard matrix, in p log2 p additions.

  Args:
    x: vectors, p a power of two.

  Returns:
    H x, with H H^T = I.

  Raises:
    ValueError: if p is not a power of two.
  """
  width = x.shape[-1]
  if width < 1 or width & (width - 1):
    raise ValueError(f'width must be a power of two, got {width=}')
  half = 1
  while half < width:
    y = x.reshape(*x.shape[:-1], width // (2 * half), 2, half)
    a, b = y[..., 0, :], y[..., 1, :]
    x = jnp.stack([a + b, a - b], axis=-2).reshape(x.shape)
    half *= 2
  return x * width**-0.5


def _padded(size: int) -> int:
  return 1 << (size - 1).bit_length()


def _blocks(
  key: Key[Array, ''], rows: int, size: int, ortho: str
) -> Float[Array, 'm d']:
  """Stacks independent orthogonal blocks; the last one may be cut."""
  block = haar if ortho == 'rorf' else givens
  keys = jax.random.split(key, -(-rows // size))
  return jax.vmap(lambda k: block(k, size))(keys).reshape(-1, size)[:rows]


def _norms(
  key: Key[Array, ''], rows: int, size: int, norm: str
) -> Float[Array, ' m']:
  if norm == 'sqrt_d':
    return jnp.full(rows, size**0.5, jnp.float32)
  gaussian = jax.random.normal(key, (rows, size), jnp.float32)
  return jnp.linalg.norm(gaussian, axis=-1)


@functools.partial(jax.jit, static_argnames=('rows', 'size', 'ortho', 'norm'))
def draw(
  key: Key[Array, ''], rows: int, size: int, *, ortho: str, norm: str
) -> structures.Matrix:
  """Draws W, with independent keys for the directions and the norms.

  It is compiled, because single operations round the norms differently: the
  same key must give the same bits inside and outside of `jax.jit`.

  Args:
    key: a random key.
    rows: m, the number of frequencies.
    size: d, the width of a head.
    ortho: 'iid', independent rows; or rows orthogonal within each block of d:
      'rorf', Haar; 'horf', signs and Walsh-Hadamard matrices; 'gorf', Givens
      rotations. Each block has a key of its own.
    norm: 'chi', norms of independent Gaussian rows, so that every row is
      N(0, I) ('horf', 'gorf': nearly); or 'sqrt_d', all norms equal to
      sqrt(d), so that every row is uniform on a sphere (the regularised
      kernels). The blocks of 'horf' have the padded width p, and it stands
      for d in both.

  Returns:
    Float32 [m, d]; for 'horf' its factors, in O(m) memory.

  Raises:
    ValueError: if a size is not positive or a name is unknown.

  Reference: arXiv:2009.14794, section B.2 and Theorem 1 (sqrt_d).
  """
  checks.check_choice('ortho', ortho, ORTHO)
  checks.check_choice('norm', norm, NORMS)
  if rows < 1 or size < 1:
    raise ValueError(f'rows and size must be positive, got {rows=} {size=}')
  key_directions, key_norms = jax.random.split(key)
  if ortho == 'horf':
    width = _padded(size)
    signs = jax.random.rademacher(
      key_directions, (-(-rows // width), 3, width), jnp.float32
    )
    return structures.Hadamard(signs, _norms(key_norms, rows, width, norm))
  if ortho == 'iid':
    directions = jax.random.normal(key_directions, (rows, size), jnp.float32)
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
  else:
    directions = _blocks(key_directions, rows, size, ortho)
  return directions * _norms(key_norms, rows, size, norm)[:, None]


def _rotate(
  x: Float[Array, '... d'], w: structures.Hadamard
) -> Float[Array, '... m']:
  """W x by fast transforms; axes of W broadcast against those of x."""
  width = w.signs.shape[-1]
  pad = [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])]
  y = jnp.pad(x, pad)[..., None, :]
  for i in range(3):
    y = hadamard_transform(y * w.signs[..., i, :])
  y = y.reshape(*y.shape[:-2], -1)
  return y[..., : w.norms.shape[-1]] * w.norms


def matrix(projection: structures.Matrix, size: int) -> Float[Array, '... m d']:
  """Writes a projection out as a matrix.

  Args:
    projection: result of `draw`, with any axes in front.
    size: d.

  Returns:
    W, float32; a matrix is returned as it is.
  """
  if not isinstance(projection, structures.Hadamard):
    return projection
  # The columns of W are its products with the unit vectors.
  lifted = jax.tree.map(lambda x: x[..., None, :], projection.norms)
  signs = projection.signs[..., None, :, :, :]
  columns = _rotate(
    jnp.eye(size, dtype=jnp.float32), structures.Hadamard(signs, lifted)
  )
  return jnp.swapaxes(columns, -1, -2)


def prepare(
  projection: structures.Matrix | None, size: int
) -> structures.Matrix | None:
  """The form of a projection that is fastest to apply often.

  Args:
    projection: result of `draw`, or None.
    size: d.

  Returns:
    The factors of a Hadamard projection of large width, else the matrix.
  """
  if not isinstance(projection, structures.Hadamard):
    return projection
  fast = projection.signs.shape[-1] >= TRANSFORM_WIDTH
  return projection if fast else matrix(projection, size)


def project(
  projection: structures.Matrix, x: Float[Array, 'b h l d']
) -> Float[Array, 'b h l m']:
  """Multiplies each position by W: u = W x.

  Args:
    projection: W, or one per head (one more axis in front).
    x: float32 inputs.

  Returns:
    Float32.
  """
  weights = prepare(projection, x.shape[-1])
  if isinstance(weights, structures.Hadamard):
    signs, norms = weights.signs, weights.norms
    # An axis for the positions, behind that of the heads.
    lifted = structures.Hadamard(signs[..., None, :, :, :], norms[..., None, :])
    return _rotate(x, lifted)
  form = 'bhld,md->bhlm' if weights.ndim == 2 else 'bhld,hmd->bhlm'
  # An exponent: a rounding error of the default bfloat16 or TF32 product is a
  # relative error of the feature, hence the highest precision.
  return jnp.einsum(form, x, weights, precision=jax.lax.Precision.HIGHEST)


def scaled(x: Float[Array, 'b h l d']) -> Float[Array, 'b h l d']:
  """Queries or keys in the scale of the softmax kernel: x d**-0.25."""
  wide = jnp.promote_types(x.dtype, jnp.float32)
  return x.astype(wide) * x.shape[-1] ** -0.25


def exponents(
  projection: structures.Matrix, x: Float[Array, 'b h l d']
) -> tuple[Float[Array, 'b h l m'], Float[Array, 'b h l']]:
  """W x and |x|^2 / 2 of queries or keys in the scale of the softmax kernel.

  Args:
    projection: W, as for `project`.
    x: queries or keys, unscaled.

  Returns:
    Both, float32 or wider.
  """
  x = scaled(x)
  return project(projection, x), 0.5 * _sums_of_squares(x)


def _sums_of_squares(x: Float[Array, '... d']) -> Float[Array, '...']:
  squares = jnp.square(x)
  if x.shape[-1] > _NARROW:
    return jnp.sum(squares, axis=-1)
  ones = jnp.ones(x.shape[-1], x.dtype)
  return jnp.matmul(squares, ones, precision=jax.lax.Precision.HIGHEST)


def one_map(
  featurize: Callable[..., features_lib.Features],
  projection: structures.Matrix | None,
  size: int,
) -> features_lib.FeatureMaps:
  """One map for queries and keys, (x, projection=W) -> features, with its W."""
  weights = prepare(projection, size)
  one = functools.partial(featurize, projection=weights)
  return features_lib.FeatureMaps(one, one)


def squared_norms(projection: structures.Matrix) -> Float[Array, '... m']:
  """Squared norms of the rows (of 'horf', in its p dimensions)."""
  if isinstance(projection, structures.Hadamard):
    return jnp.square(projection.norms)
  return jnp.sum(jnp.square(state_lib.widen(projection)), axis=-1)


def check(
  projection: Any | None,
  *,
  expected: Sequence[int] | None,
  structure: type | None = None,
  parts: Mapping[str, Sequence[tuple]] = types.MappingProxyType({}),
) -> None:
  """Checks a projection against the shape that a kernel needs.

  Args:
    projection: the projection given, or None.
    expected: (h, m, d) for a kernel that projects; None for one that does
      not. A matrix must have shape [m, d] or [h, m, d]; its Hadamard factors,
      `structures.Hadamard`, stand for one.
    structure: the pytree of which the matrix is `omega`; None: the matrix
      itself.
    parts: the shapes that each other array may have, None standing for d.

  Raises:
    ValueError: naming what is missing, superfluous or misshapen.
  """
  if expected is None:
    if projection is not None:
      raise ValueError(
        f'this kernel takes no projection, got {_describe(projection)}'
      )
    return
  if projection is None:
    raise ValueError('this kernel needs a projection (see draw), got None')
  for leaf in jax.tree.leaves(projection):
    if getattr(leaf, 'dtype', None) not in checks.FLOATING:
      raise ValueError(
        'a projection must consist of floating arrays, got '
        f'{getattr(leaf, "dtype", type(leaf))}'
      )
  if structure is None:
    _check_matrix('projection', projection, expected)
    return
  if not isinstance(projection, structure):
    raise ValueError(
      f'this kernel needs a {structure.__name__} projection (see draw), '
      f'got {_describe(projection)}'
    )
  heads, _, size = expected
  rank = _check_matrix('projection.omega', projection.omega, expected)
  for name, shapes in parts.items():
    lead = () if rank == 2 else (heads,)
    shapes = [
      (*lead, *(size if n is None else n for n in shape)) for shape in shapes
    ]
    if (got := jnp.shape(getattr(projection, name))) not in shapes:
      raise ValueError(
        f'projection.{name} must have shape {shapes} beside its omega, '
        f'got {got}'
      )
  if getattr(projection, 'second', None) is not None:
    _check_matrix('projection.second', projection.second, expected, rank)


def _check_matrix(
  name: str, matrix: Any, expected: Sequence[int], rank: int | None = None
) -> int:
  """Checks a matrix or its factors; returns 3 if it has one per head."""
  heads, rows, size = expected
  if isinstance(matrix, structures.Mixture | structures.General):
    raise ValueError(
      f'{name} must be a matrix or its Hadamard factors, '
      f'got {_describe(matrix)}'
    )
  if isinstance(matrix, structures.Hadamard):
    width = _padded(size)
    shapes = ((-(-rows // width), 3, width), (rows,))
    got = tuple(jnp.shape(leaf) for leaf in matrix)
    allowed = [shapes, tuple((heads, *shape) for shape in shapes)]
  else:
    got = tuple(jnp.shape(matrix))
    allowed = [(rows, size), (heads, rows, size)]
  if rank is not None:
    allowed = [allowed[rank - 2]]
  if got not in allowed:
    raise ValueError(f'{name} must have shape {allowed}, got {got}')
  return 2 + allowed.index(got) if rank is None else rank


def _describe(projection: Any) -> str:
  if isinstance(projection, tuple):
    return f'a {type(projection).__name__}'
  return f'one of shape {jnp.shape(projection)}'
