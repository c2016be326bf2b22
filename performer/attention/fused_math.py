"""What the fused kernels compute on one chunk, in registers.

Everything here runs inside a Pallas kernel for Triton: two-dimensional
products, no concatenation. So the features of the hyperbolic kernels, exp(u)
and exp(-u), stay two arrays, "signs", and with them everything per feature:
tuples of one or two arrays instead of an axis r = signs * m.

Letters: i positions of queries, j of keys, both in one chunk; d width of a key,
v of a value, m rows of the projection.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float

from performer.attention import state as state_lib

__all__ = [
  'NO_ROW',
  'Plan',
  'absorb',
  'attended',
  'dot',
  'key_features',
  'keys_kept',
  'load',
  'log_keys',
  'log_queries',
  'project_back',
  'query_features',
  'reference',
  'rows_inside',
  'rows_left',
  'split',
  'store',
]

# Log-normaliser of a row that sees no key: features exp(e - NO_ROW) are 0.
NO_ROW = 1e30

Signs = tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is fixed when a kernel is compiled.

  Attributes:
    signs: features per row of the projection, 1 or 2.
    chunk: positions in registers at a time, a power of two.
    group: positions that one program walks; a multiple of chunk.
    dtype: of stabilised features, weights and whatever multiplies them; sums
      are float32.
    interpret: whether Pallas interprets the kernels (any device) or Triton
      compiles them.
  """

  signs: int
  chunk: int
  group: int
  dtype: jnp.dtype
  interpret: bool

  @property
  def chunks(self) -> int:
    """Chunks per group."""
    return self.group // self.chunk


def split(w: Float[Array, 'm d'], dtype: jnp.dtype) -> Float[Array, 'p m d']:
  """The projection as a sum of arrays that tensor cores multiply exactly.

  Exponents need all bits of a float32 product. Float32 inputs take one, and
  bfloat16 inputs three, with the first, second and third 8 bits of W: products
  of bfloat16 are exact in float32 and many times as fast.

  Args:
    w: the projection, float32.
    dtype: of the queries and keys.

  Returns:
    Parts whose sum is W, float32 [1, m, d] or bfloat16 [3, m, d].
  """
  if dtype != jnp.bfloat16:
    return w[None]
  parts = []
  for _ in range(3):
    # A cast to bfloat16 and back would be optimised away.
    parts.append(jax.lax.reduce_precision(w, exponent_bits=8, mantissa_bits=7))
    w = w - parts[-1]
  return jnp.stack(parts).astype(jnp.bfloat16)


def dot(
  a: Array, b: Array, dtype: jnp.dtype, *, contract: tuple[int, int] = (1, 0)
) -> Float[Array, 'rows columns']:
  """A product of two matrices rounded to a dtype, summed in float32."""
  return jax.lax.dot_general(
    a.astype(dtype),
    b.astype(dtype),
    (((contract[0],), (contract[1],)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )


def rows_left(plan: Plan, length: int) -> Array:
  """Rows from the start of this program's group on; call outside loops."""
  return length - pl.program_id(2) * plan.group


def rows_inside(plan: Plan, chunk: Array, left: Array) -> Bool[Array, 'i']:
  """Which rows of a chunk of this program's group exist."""
  iota = jax.lax.broadcasted_iota(jnp.int32, (plan.chunk,), 0)
  return chunk * plan.chunk + iota < left


def keys_kept(plan: Plan, keep_ref: Any, chunk: Array) -> Bool[Array, 'j']:
  """Which keys of a chunk count; the mask is padded to whole groups."""
  return keep_ref[pl.ds(chunk * plan.chunk, plan.chunk)] != 0


def load(
  plan: Plan, ref: Any, chunk: Array, valid: Bool[Array, 'rows']
) -> Float[Array, 'rows *width']:
  """Loads a chunk of rows or of numbers per row; 0 where not valid."""
  ref = ref.at[pl.ds(chunk * plan.chunk, plan.chunk)]
  return plgpu.load(ref, mask=_spread(valid, ref), other=0.0)


def store(
  plan: Plan, ref: Any, chunk: Array, valid: Bool[Array, 'rows'], x: Array
) -> None:
  """Stores a chunk of rows where valid, in the dtype of the reference."""
  ref = ref.at[pl.ds(chunk * plan.chunk, plan.chunk)]
  plgpu.store(ref, x.astype(ref.dtype), mask=_spread(valid, ref))


def _spread(valid: Bool[Array, 'rows'], ref: Any) -> Bool[Array, 'rows *width']:
  if len(ref.shape) == 1:
    return valid
  return jnp.broadcast_to(valid[:, None], ref.shape)


def log_queries(plan: Plan, x: Float[Array, 'i d'], w_ref: Any) -> Signs:
  """Log-features without -|x|^2/2, which cancels; float32, [i, m] each."""
  parts, _, width = w_ref.shape
  u = jnp.zeros((), jnp.float32)
  # The smallest part first.
  for part in reversed(range(parts)):
    u = u + dot(x, w_ref[part], w_ref.dtype, contract=(1, 1))
  u = u * width**-0.25
  return (u,) if plan.signs == 1 else (u, -u)


def log_keys(
  plan: Plan, y: Float[Array, 'j d'], keep: Bool[Array, 'j'], w_ref: Any
) -> Signs:
  """Log-features of keys, -inf where masked; float32, [j, m] each."""
  half = 0.5 * y.shape[1] ** -0.5
  norm = half * jnp.sum(jnp.square(y.astype(jnp.float32)), axis=1)
  return tuple(
    jnp.where(keep[:, None], b - norm[:, None], -jnp.inf)
    for b in log_queries(plan, y, w_ref)
  )


def project_back(
  plan: Plan, du: Signs, x: Float[Array, 'i d'], w_ref: Any, *, keys: bool
) -> Float[Array, 'i d']:
  """Cotangents of queries or keys from those of their log-features.

  The product is rounded to the dtype of the projection's parts: to that of the
  result, where bfloat16.
  """
  total = du[0] if plan.signs == 1 else du[0] - du[1]
  width = x.shape[1]
  dx = dot(total, w_ref[0], w_ref.dtype) * width**-0.25
  if not keys:
    return dx
  norm = sum(jnp.sum(db, axis=1) for db in du)
  return dx - x.astype(jnp.float32) * norm[:, None] * width**-0.5


def reference(c: Signs, b: Signs, keep: Bool[Array, 'j']) -> Signs:
  """Units of a chunk's features, [m]: the history's c, or its first key.

  Without any key, NO_KEY.
  """
  size = keep.shape[0]
  index = jax.lax.broadcasted_iota(jnp.int32, (size,), 0)
  first = jnp.min(jnp.where(keep, index, size))
  chosen = index == first

  def unit(c: Array, b: Array) -> Array:
    value = jnp.sum(jnp.where(chosen[:, None], b, 0.0), axis=0)
    value = jnp.where(first < size, value, state_lib.NO_KEY)
    return jnp.where(state_lib.has_key(c), c, value)

  return tuple(unit(*pair) for pair in zip(c, b, strict=True))


def query_features(a: Signs, unit: Signs, log_norm: Float[Array, 'i']) -> Signs:
  """exp(a + unit - log_norm), float32, [i, m] each."""
  return tuple(
    jnp.exp(x + c[None] - log_norm[:, None])
    for x, c in zip(a, unit, strict=True)
  )


def key_features(b: Signs, unit: Signs) -> Signs:
  """exp(b - unit), float32, [j, m] each."""
  return tuple(jnp.exp(x - c[None]) for x, c in zip(b, unit, strict=True))


def absorb(
  plan: Plan,
  state: tuple[Signs, Signs],
  features: Signs,
  v: Float[Array, 'j v'],
) -> tuple[Signs, Signs]:
  """Adds keys, in the unit of the state, to S, [v, m], and z, [m]."""
  s, z = state
  return (
    tuple(
      x + dot(v, f, plan.dtype, contract=(0, 0))
      for x, f in zip(s, features, strict=True)
    ),
    tuple(x + jnp.sum(f, axis=0) for x, f in zip(z, features, strict=True)),
  )


def attended(
  numerator: Float[Array, 'i v'],
  denominator: Float[Array, 'i'],
  scale: Float[Array, 'i'],
) -> tuple[Float[Array, 'i v'], Float[Array, 'i']]:
  """Outputs and log-normalisers of rows; 0 and NO_ROW where none is seen."""
  seen = denominator > 0
  safe = jnp.where(seen, denominator, 1.0)
  log_norm = jnp.where(seen, scale + jnp.log(safe), NO_ROW)
  return numerator / safe[:, None], log_norm
