"""Random matrices whose rows are the frequencies omega of the features.

Letters: d: width of a head, m: number of rows (the papers' number of random
features), h: heads.

Reference: arXiv:2009.14794, sections 2.4 and B.2.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from performer.attention import checks

__all__ = ['NORMS', 'ORTHO', 'draw', 'haar']

ORTHO = ('iid', 'rorf')
NORMS = ('chi', 'sqrt_d')


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


def _directions(key: Key[Array, ''], m: int, d: int) -> Float[Array, 'm d']:
  """Stacks independent Haar blocks; the last one may be cut."""
  blocks = jax.vmap(lambda k: haar(k, d))(jax.random.split(key, -(-m // d)))
  return blocks.reshape(-1, d)[:m]


def draw(
  key: Key[Array, ''], rows: int, size: int, *, ortho: str, norm: str
) -> Float[Array, 'm d']:
  """Draws W, with independent keys for the directions and the norms.

  Args:
    key: a random key.
    rows: m, the number of frequencies.
    size: d, the width of a head.
    ortho: 'iid', independent rows, or 'rorf', rows orthogonal within each
      block of d.
    norm: 'chi', norms of independent Gaussian rows, so that every row is
      N(0, I); or 'sqrt_d', all norms equal to sqrt(d), so that every row is
      uniform on a sphere (the regularised kernels).

  Returns:
    Float32 [m, d].

  Raises:
    ValueError: if a size is not positive or a name is unknown.

  Reference: arXiv:2009.14794, section B.2 (R-ORF) and Theorem 1 (sqrt_d).
  """
  checks.check_choice('ortho', ortho, ORTHO)
  checks.check_choice('norm', norm, NORMS)
  if rows < 1 or size < 1:
    raise ValueError(f'rows and size must be positive, got {rows=} {size=}')
  key_directions, key_norms = jax.random.split(key)
  if ortho == 'rorf':
    directions = _directions(key_directions, rows, size)
  else:
    directions = jax.random.normal(key_directions, (rows, size), jnp.float32)
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
  if norm == 'sqrt_d':
    return directions * size**0.5
  gaussian = jax.random.normal(key_norms, (rows, size), jnp.float32)
  return directions * jnp.linalg.norm(gaussian, axis=-1, keepdims=True)
