"""Linear attention over log-features, stabilised exactly.

With log query features a_im and log key features b_jm the weight of key j in
row i is sum_m exp(a_im + b_jm). For any constants c_m and M_i

  sum_m exp(a_im + b_jm) = exp(M_i) sum_m exp(a_im + c_m - M_i) exp(b_jm - c_m)

and exp(M_i) cancels in the ratio. With c_m = max_j b_jm and
M_i = max_m(a_im + c_m) no exponent is positive and every denominator is at
least 1: feature argmax M_i has query factor 1, and some key has factor 1 there.

Letters: b batch, h heads, l or i positions of queries, j of keys, r features,
v width of a value. Masks are [b, j] or [1, j], True = keep.

Reference: arXiv:2009.14794, Eq. 4 and section B.1; the stabiliser is derived
in this package's README.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from performer.attention import kernels
from performer.attention import state as state_lib

__all__ = ['PER_FEATURE', 'causal_chunk', 'exponent_limit', 'read', 'summarize']

PER_FEATURE = True


def exponent_limit(dtype: jnp.dtype) -> float:
  """Largest exponent that key features of one chunk may have.

  A feature exp(b - c) of e^limit still multiplies a query feature that
  underflows; what is lost is then e^limit times the smallest number of the
  dtype: 1e-12 for float32 and bfloat16, 2e-4 for float16.
  """
  return 8.0 if dtype == jnp.float16 else 60.0


def _log_keys(
  keys: kernels.Features, mask: Bool[Array, '#b j'] | None
) -> Float[Array, 'b h j r']:
  b = keys.values
  if keys.log_weight is not None:
    b = b + keys.log_weight[..., None]
  return b if mask is None else jnp.where(mask[:, None, :, None], b, -jnp.inf)


def _maximum(b: Float[Array, '... j r']) -> Float[Array, '... r']:
  return jax.lax.stop_gradient(jnp.max(b, axis=-2, initial=state_lib.NO_KEY))


def _dot(form: str, *operands: Array) -> Array:
  return jnp.einsum(form, *operands, preferred_element_type=jnp.float32)


def _query_features(
  a: Float[Array, '... i r'], c: Float[Array, '... r'], dtype: jnp.dtype
) -> tuple[Float[Array, '... i r'], Float[Array, '... i']]:
  """Returns exp(a + c - M) and M."""
  e = a + c[..., None, :]
  m = jax.lax.stop_gradient(jnp.max(e, axis=-1))
  return jnp.exp(e - m[..., None]).astype(dtype), m


def summarize(
  keys: kernels.Features,
  v: Float[Array, 'b h j v'],
  mask: Bool[Array, '#b j'] | None,
  dtype: jnp.dtype,
) -> state_lib.State:
  """Sums a run of keys into a state whose c is their own maximum.

  Args:
    keys: log-features of the keys.
    v: values; zero where masked.
    mask: keys to keep; None keeps all.
    dtype: of the stabilised features; the sums are float32.

  Returns:
    The state of these keys.
  """
  return _summarize(_log_keys(keys, mask), v, dtype)


def _summarize(
  b: Float[Array, 'b h j r'], v: Float[Array, 'b h j v'], dtype: jnp.dtype
) -> state_lib.State:
  c = _maximum(b)
  features = jnp.exp(b - c[..., None, :]).astype(dtype)
  return state_lib.State(
    _dot('bhjr,bhjv->bhrv', features, v),
    jnp.sum(features, axis=-2, dtype=jnp.float32),
    c,
  )


def read(
  state: state_lib.State, queries: kernels.Features, dtype: jnp.dtype
) -> state_lib.Readout:
  """Reads rows from a state: every query sees every key in it.

  Args:
    state: the keys.
    queries: log-features of the queries.
    dtype: of the stabilised features.

  Returns:
    The rows; denominators are at least 1 unless the state is empty.
  """
  features, scale = _query_features(queries.values, state.c, dtype)
  return state_lib.Readout(
    _dot('bhir,bhrv->bhiv', features, state.S),
    _dot('bhir,bhr->bhi', features, state.z),
    scale,
  )


def _reference(
  c: Float[Array, 'b h r'],
  b: Float[Array, 'b h j r'],
  mask: Bool[Array, '#b j'] | None,
) -> Float[Array, 'b h r']:
  """The history's c; without history, b of the chunk's first kept key.

  Neither depends on a key that some row with a visible key does not see.
  """
  if mask is None:
    first = b[:, :, 0]
  else:
    index = jnp.argmax(mask, axis=-1)[:, None, None, None]
    first = jnp.take_along_axis(b, index, axis=2)[:, :, 0]
  first = jnp.maximum(first, state_lib.NO_KEY)
  return jax.lax.stop_gradient(jnp.where(state_lib.has_key(c), c, first))


def causal_chunk(
  state: state_lib.State,
  queries: kernels.Features,
  keys: kernels.Features,
  v: Float[Array, 'b h j v'],
  mask: Bool[Array, '#b j'] | None,
  dtype: jnp.dtype,
) -> tuple[state_lib.State, state_lib.Readout]:
  """Attends causally within a chunk and to the state before it.

  Row i is right as long as no key up to i exceeds the chunk's reference by
  more than `exponent_limit`; other rows are computed by `_split`. Which form a
  row takes depends on what the row sees alone, so its bits do not depend on
  later keys, on other heads or on other examples.

  Args:
    state: the keys before the chunk.
    queries: log-features of the chunk's queries.
    keys: log-features of the chunk's keys.
    v: values; zero where masked.
    mask: keys to keep; None keeps all.
    dtype: of the stabilised features.

  Returns:
    The state after the chunk, and the chunk's rows.
  """
  a, b = queries.values, _log_keys(keys, mask)
  limit = exponent_limit(dtype)
  c = _reference(state.c, b, mask)
  excess = b - c[..., None, :]
  features = jnp.exp(jnp.minimum(excess, limit)).astype(dtype)
  fast = _chunk_rows(state, a, c, features, v, dtype)
  after = _chunk_state(state, c, _maximum(b), features, v)
  running = jax.lax.cummax(
    jax.lax.stop_gradient(jnp.max(excess, axis=-1)), axis=2
  )
  valid = running <= limit

  def exact() -> tuple[state_lib.State, state_lib.Readout]:
    rows = _select(valid, fast, _split(state, a, b, v, dtype))
    summary = state_lib.merge(state, _summarize(b, v, dtype))
    return _select(valid[..., -1], after, summary), rows

  # One predicate for all heads: under a batched predicate both sides would
  # run. Checkpointed, lest the usual side carries zeros for its residuals.
  return jax.lax.cond(
    jnp.all(valid), lambda: (after, fast), jax.checkpoint(exact)
  )


def _select(choose: Bool[Array, '...'], one: tuple, two: tuple) -> tuple:
  def pick(x: Array, y: Array) -> Array:
    extra = (1,) * (x.ndim - choose.ndim)
    return jnp.where(choose.reshape(choose.shape + extra), x, y)

  return jax.tree.map(pick, one, two)


def _chunk_rows(
  state: state_lib.State,
  a: Float[Array, 'b h i r'],
  c: Float[Array, 'b h r'],
  features: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  dtype: jnp.dtype,
) -> state_lib.Readout:
  queries, scale = _query_features(a, c, dtype)
  weights = _dot('bhir,bhjr->bhij', queries, features)
  weights = jnp.where(jnp.tri(a.shape[2], dtype=bool), weights, 0.0)
  return state_lib.Readout(
    _dot('bhij,bhjv->bhiv', weights, v)
    + _dot('bhir,bhrv->bhiv', queries, state.S),
    jnp.sum(weights, axis=-1) + _dot('bhir,bhr->bhi', queries, state.z),
    scale,
  )


def _chunk_state(
  state: state_lib.State,
  c: Float[Array, 'b h r'],
  maximum: Float[Array, 'b h r'],
  features: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
) -> state_lib.State:
  """Adds the chunk's keys; where the state is empty its unit is free."""
  after = jnp.maximum(c, maximum)
  factor = jnp.exp(c - after)
  total = state.S + _dot('bhjr,bhjv->bhrv', features, v)
  z = state.z + jnp.sum(features, axis=-2, dtype=jnp.float32)
  return state_lib.State(total * factor[..., None], z * factor, after)


def _split(
  state: state_lib.State,
  a: Float[Array, 'b h i r'],
  b: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  dtype: jnp.dtype,
) -> state_lib.Readout:
  """Attends causally by binary splitting, right at any scale.

  Each right half of 1, 2, 4, ... positions reads its left sibling as one group
  with its own c; key i itself and the history are groups too. No group
  contains a key that a reader does not see. The chunk is a power of two long.

  The levels are one scanned body over the whole chunk, which costs more work
  than halves of the right size but a fifth of the compilation: this path is
  compiled always and taken rarely.
  """

  @jax.checkpoint
  def level(carry: tuple, level: Array) -> tuple[tuple, None]:
    rows, c = carry
    group, sibling = _siblings(a, b, v, c, level, dtype)
    return (
      state_lib.merge_readouts(rows, group),
      jnp.maximum(c, sibling),
    ), None

  rows = read(state, kernels.Features(a, None), dtype)
  c = jax.lax.stop_gradient(jnp.maximum(b, state_lib.NO_KEY))
  levels = jnp.arange(a.shape[2].bit_length())
  return jax.lax.scan(level, (rows, c), levels)[0][0]


def _siblings(
  a: Float[Array, 'b h i r'],
  b: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  c: Float[Array, 'b h j r'],
  level: Int[Array, ''],
  dtype: jnp.dtype,
) -> tuple[state_lib.Readout, Float[Array, 'b h i r']]:
  """Right blocks read their left siblings; at level 0 each key reads itself.

  Args:
    a: log query features.
    b: log key features, -inf where masked.
    v: values.
    c: for each position the maximum of b over its block.
    level: 0, or n for blocks of 2**(n - 1) positions.
    dtype: of the stabilised features.

  Returns:
    What each row reads, nothing in left blocks; and c of the sibling blocks.
  """
  index = jnp.arange(a.shape[2])
  size = (1 << level) >> 1  # 0 at level 0: then a block's sibling is itself.
  sibling = jnp.take(c, index ^ size, axis=2)
  e = a + sibling
  scale = jax.lax.stop_gradient(jnp.max(e, axis=-1))
  queries = jnp.exp(e - scale[..., None]).astype(dtype)
  features = jnp.exp(b - c).astype(dtype)
  block = index // jnp.maximum(size, 1)
  right = (block % 2 == 1) | (level == 0)
  left = block - jnp.minimum(size, 1)
  pairs = right[:, None] & (left[:, None] == block[None, :])
  weights = _dot('bhir,bhjr->bhij', queries, features)
  weights = jnp.where(pairs, weights, 0.0)
  rows = state_lib.Readout(
    _dot('bhij,bhjv->bhiv', weights, v),
    jnp.sum(weights, axis=-1),
    jnp.where(right, scale, state_lib.NO_KEY),
  )
  return rows, sibling
