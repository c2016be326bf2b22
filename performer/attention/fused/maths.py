"""Computations of the fused kernels on one chunk, in registers.

Everything here runs inside a Pallas kernel for Triton: two-dimensional
products, no concatenation. So the features of the hyperbolic kernels, exp(u)
and exp(-u), stay two arrays, "signs" 0 and 1, and with them everything per
feature: tuples of one or two arrays instead of an axis r = signs * m. Kernels
finish one sign before the next, because features of both would not fit into
registers.

Letters: i positions of queries, j of keys, both in one chunk; d width of a key,
v of a value, m rows of the projection.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float, Int

from performer.attention.fused import launch as fused_launch
from performer.attention.sums import state as state_lib

__all__ = [
  'NO_ROW',
  'Keep',
  'Keys',
  'Rows',
  'Sums',
  'add_rows',
  'attended',
  'dot',
  'from_state',
  'grow',
  'key_cotangents',
  'load',
  'load_keys',
  'load_rows',
  'per_sign',
  'project',
  'project_back',
  'reference',
  'rows_inside',
  'rows_left',
  'signed',
  'split',
  'store',
]

Plan = fused_launch.Plan
# Mask of keys, padded with zeros to whole groups.
Keep = Int[Array, 'b padded']
# Sums T and t of rows, see `backward`.
Sums = tuple[Float[Array, 'b h g s v m'], Float[Array, 'b h g s m']]

# Log-normaliser of a row that sees no key: features exp(e - NO_ROW) are 0.
NO_ROW = 1e30


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
  """Marks the rows of a chunk of this program's group that exist."""
  iota = jax.lax.broadcasted_iota(jnp.int32, (plan.chunk,), 0)
  return chunk * plan.chunk + iota < left


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


class Keys(NamedTuple):
  """Keys of a chunk, in registers.

  Attributes:
    k: keys; 0 where masked.
    v: values; 0 where masked.
    keep: which count.
    u: W k d^(-1/4).
    half: half their squared norm, scaled as u.
  """

  k: Float[Array, 'j d']
  v: Float[Array, 'j v']
  keep: Bool[Array, 'j']
  u: Float[Array, 'j m']
  half: Float[Array, 'j']

  def logs(self, sign: int) -> Float[Array, 'j m']:
    """Log-features, -inf where masked."""
    b = signed(self.u, sign) - self.half[:, None]
    return jnp.where(self.keep[:, None], b, -jnp.inf)

  def features(self, sign: int, unit: Float[Array, 'm']) -> Float[Array, 'j m']:
    """Features divided by exp(unit)."""
    return jnp.exp(self.logs(sign) - unit[None])


def load_keys(
  plan: Plan, refs: tuple[Any, Any, Any], chunk: Array, w_ref: Any
) -> Keys:
  """Loads a chunk of keys, values and their mask."""
  k_ref, v_ref, keep_ref = refs
  # The mask is padded to whole groups.
  keep = keep_ref[pl.ds(chunk * plan.chunk, plan.chunk)] != 0
  k, v = (load(plan, ref, chunk, keep) for ref in (k_ref, v_ref))
  norm = jnp.sum(jnp.square(k.astype(jnp.float32)), axis=1)
  return Keys(k, v, keep, project(k, w_ref), 0.5 * k.shape[1] ** -0.5 * norm)


def project(x: Float[Array, 'i d'], w_ref: Any) -> Float[Array, 'i m']:
  """W x d^(-1/4), float32: the log-features of queries, up to sign.

  Their other part, -|x|^2/2, cancels.
  """
  parts, _, width = w_ref.shape
  u = dot(x, w_ref[parts - 1], w_ref.dtype, contract=(1, 1))
  # From the smallest part to the greatest.
  for part in reversed(range(parts - 1)):
    u = u + dot(x, w_ref[part], w_ref.dtype, contract=(1, 1))
  return u * width**-0.25


def project_back(du: Float[Array, 'i m'], w_ref: Any) -> Float[Array, 'i d']:
  """Cotangent of x from that of `project`.

  The product is rounded to the dtype of the projection's parts: to that of the
  result, where bfloat16.
  """
  return dot(du, w_ref[0], w_ref.dtype) * w_ref.shape[2] ** -0.25


def signed(x: Array, sign: int) -> Array:
  """Sign 0 is x, sign 1 is -x."""
  return -x if sign else x


def reference(
  c: Float[Array, 'm'], b: Float[Array, 'j m'], keep: Bool[Array, 'j']
) -> Float[Array, 'm']:
  """Unit of a chunk's features: the history's c, or its first key.

  Without any key, NO_KEY.
  """
  size = keep.shape[0]
  index = jax.lax.broadcasted_iota(jnp.int32, (size,), 0)
  first = jnp.min(jnp.where(keep, index, size))
  value = jnp.sum(jnp.where((index == first)[:, None], b, 0.0), axis=0)
  value = jnp.where(first < size, value, state_lib.NO_KEY)
  return jnp.where(state_lib.has_key(c), c, value)


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


def per_sign(plan: Plan, ref: Any) -> tuple[Array, ...]:
  """The arrays of each sign."""
  return tuple(ref[i] for i in range(plan.signs))


def grow(
  plan: Plan,
  state: tuple[Array, Array],
  v: Float[Array, 'j v'],
  features: Float[Array, 'j m'],
  factor: Float[Array, 'm'] | None = None,
) -> tuple[Float[Array, 'v m'], Float[Array, 'm']]:
  """Adds a chunk of keys to S and z, then changes their unit.

  Args:
    plan: constants.
    state: S, [v, m], and z, [m], of one sign.
    v: values.
    features: features, in the old unit.
    factor: exp(old unit - new unit); None keeps it.

  Returns:
    S and z.
  """
  s, z = state
  s = s + dot(v, features, plan.dtype, contract=(0, 0))
  z = z + jnp.sum(features, axis=0)
  return (s, z) if factor is None else (s * factor[None], z * factor)


class Rows(NamedTuple):
  """Rows of a chunk, in registers.

  Attributes:
    g: cotangents of their outputs.
    delta: D.
    norm: logarithms of their normalisers; NO_ROW beyond the end, so that what
      is there adds nothing.
    u: W q d^(-1/4).
    inside: which rows exist.
  """

  g: Float[Array, 'i v']
  delta: Float[Array, 'i']
  norm: Float[Array, 'i']
  u: Float[Array, 'i m']
  inside: Bool[Array, 'i']

  def features(self, sign: int, unit: Float[Array, 'm']) -> Float[Array, 'i m']:
    """Q: normalised features times exp(unit)."""
    e = signed(self.u, sign) + unit[None]
    return jnp.exp(e - self.norm[:, None])


def load_rows(
  plan: Plan,
  refs: tuple[Any, Any, Any, Any],
  chunk: Array,
  left: Array,
  w_ref: Any,
) -> Rows:
  """Loads a chunk of queries, cotangents, D and normalisers."""
  inside = rows_inside(plan, chunk, left)
  q, g, delta, norm = (load(plan, ref, chunk, inside) for ref in refs)
  norm = jnp.where(inside, norm, NO_ROW)
  return Rows(g, delta, norm, project(q, w_ref), inside)


def from_state(
  plan: Plan, rows: Rows, s: Float[Array, 'v m'], z: Float[Array, 'm']
) -> Float[Array, 'i m']:
  """g_i . S_m - D_i z_m."""
  return dot(rows.g, s, plan.dtype) - rows.delta[:, None] * z[None]


def add_rows(
  plan: Plan,
  sums: tuple[Array, Array],
  rows: Rows,
  features: Float[Array, 'i m'],
) -> tuple[Float[Array, 'v m'], Float[Array, 'm']]:
  """Adds a chunk of rows to T, [v, m], and t, [m], of one sign."""
  big, small = sums
  return (
    big + dot(rows.g, features, plan.dtype, contract=(0, 0)),
    small - jnp.sum(rows.delta[:, None] * features, axis=0),
  )


def key_cotangents(
  keys: Keys,
  du: Float[Array, 'j m'],
  dhalf: Float[Array, 'j'],
  w_ref: Any,
) -> Float[Array, 'j d']:
  """Cotangents of keys from those of W k and of half their norms."""
  scaled = keys.k.astype(jnp.float32) * keys.k.shape[1] ** -0.5
  return project_back(du, w_ref) + dhalf[:, None] * scaled
