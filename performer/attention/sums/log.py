"""Linear attention over log-features, stabilised exactly.

With log query features a_im and log key features b_jm the weight of key j in
row i is sum_m exp(a_im + b_jm). For any constants c_m and M_i

  sum_m exp(a_im + b_jm) = exp(M_i) sum_m exp(a_im + c_m - M_i) exp(b_jm - c_m)

and exp(M_i) cancels in the ratio. With c_m = max_j b_jm and
M_i = max_m(a_im + c_m) no exponent is positive and every denominator is at
least 1: feature argmax M_i has query factor 1, and some key has factor 1 there.

Letters: b batch, h heads, i positions of queries, j of keys, r features, v
width of a value. Masks are [b, j] or [1, j], True = keep.

Reference: arXiv:2009.14794, Eq. 4, section B.1; derived in the README.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from performer.attention.sums import features as features_lib
from performer.attention.sums import segments as segments_lib
from performer.attention.sums import state as state_lib

__all__ = [
  'attend_chunk',
  'causal_chunk',
  'exact_chunk',
  'exponent_limit',
  'log_keys',
  'masked',
  'read',
  'reference',
  'split_rows',
  'summarize',
  'visible',
]


def exponent_limit(dtype: jnp.dtype) -> float:
  """Largest exponent that key features of one chunk may have.

  A feature exp(b - c) of e^limit still multiplies a query feature that
  underflows; what is lost is then e^limit times the smallest number of the
  dtype: 1e-12 for float32 and bfloat16, 2e-4 for float16.
  """
  return 8.0 if dtype == jnp.float16 else 60.0


def masked(
  b: Float[Array, 'b h j r'], mask: Bool[Array, '#b j'] | None
) -> Float[Array, 'b h j r']:
  """Logarithms of key features, -inf where masked."""
  return b if mask is None else jnp.where(mask[:, None, :, None], b, -jnp.inf)


def log_keys(
  keys: features_lib.Features, mask: Bool[Array, '#b j'] | None
) -> Float[Array, 'b h j r']:
  """Whole logarithms of key features, -inf where masked."""
  b = keys.values
  if keys.log_weight is not None:
    b = b + keys.log_weight[..., None]
  return masked(b, mask)


def _maximum(b: Float[Array, '... j r']) -> Float[Array, '... r']:
  return jax.lax.stop_gradient(jnp.max(b, axis=-2, initial=state_lib.NO_KEY))


def _query_features(
  a: Float[Array, '... i r'], c: Float[Array, '... #i r'], dtype: jnp.dtype
) -> tuple[Float[Array, '... i r'], Float[Array, '... i']]:
  """Returns exp(a + c - M) and M."""
  e = a + c
  m = jax.lax.stop_gradient(jnp.max(e, axis=-1))
  return jnp.exp(e - m[..., None]).astype(dtype), m


def summarize(
  keys: features_lib.Features,
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
  return _summarize(log_keys(keys, mask), v, dtype)


def _summarize(
  b: Float[Array, 'b h j r'], v: Float[Array, 'b h j v'], dtype: jnp.dtype
) -> state_lib.State:
  c = _maximum(b)
  features = jnp.exp(b - c[..., None, :]).astype(dtype)
  return state_lib.add_up(features, v, c)


def read(
  state: state_lib.State, queries: features_lib.Features, dtype: jnp.dtype
) -> state_lib.Readout:
  """Reads rows from a state: every query sees every key in it.

  Args:
    state: the keys.
    queries: log-features of the queries.
    dtype: of the stabilised features.

  Returns:
    The rows; denominators are at least 1 unless the state is empty.
  """
  unit = state.c[..., None, :]
  features, scale = _query_features(queries.values, unit, dtype)
  return state_lib.read(state, features, scale)


def reference(
  c: Float[Array, 'b h r'],
  b: Float[Array, 'b h j r'],
  mask: Bool[Array, '#b j'] | None,
  segments: segments_lib.Segments | None = None,
) -> Float[Array, 'b h #j r']:
  """The unit of a chunk's features: the history's c, or its first kept key.

  With segments each has its own. No row depends on a key that it does not see,
  if it sees any.
  """
  if segments is not None:
    first = jnp.take_along_axis(b, segments.first[:, None, :, None], axis=2)
    history = segments.carried[:, None, :, None]
  elif mask is None:
    first, history = b[:, :, :1], True
  else:
    index = jnp.argmax(mask, axis=-1)[:, None, None, None]
    first, history = jnp.take_along_axis(b, index, axis=2), True
  first = jnp.maximum(first, state_lib.NO_KEY)
  c = c[:, :, None]
  return jax.lax.stop_gradient(
    jnp.where(state_lib.has_key(c) & history, c, first)
  )


def causal_chunk(
  state: state_lib.State,
  queries: features_lib.Features,
  keys: features_lib.Features,
  v: Float[Array, 'b h j v'],
  view: segments_lib.View,
  dtype: jnp.dtype,
) -> tuple[state_lib.State, state_lib.Readout]:
  """Attends causally within a chunk and to the state before it.

  Args:
    state: the keys before the chunk, of the segment open there.
    queries: log-features of the chunk's queries.
    keys: log-features of the chunk's keys.
    v: values; zero where masked.
    view: who sees whom.
    dtype: of the stabilised features.

  Returns:
    The state after the chunk (of its last segment), and the chunk's rows.
  """
  b = log_keys(keys, None)
  after, rows, _ = attend_chunk(
    state, queries.values, b, v, view, dtype, remat=True
  )
  return after, rows


def attend_chunk(
  state: state_lib.State,
  a: Float[Array, 'b h i r'],
  b: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  view: segments_lib.View,
  dtype: jnp.dtype,
  *,
  remat: bool = False,
) -> tuple[state_lib.State, state_lib.Readout, Bool[Array, '']]:
  """`causal_chunk` of logarithms.

  A row is right as long as no key that it sees exceeds the chunk's reference by
  more than `exponent_limit`; `split_rows` computes the others. Which form a row
  takes depends on what it sees alone, so its bits do not depend on later keys,
  on other segments, heads or examples.

  Args:
    state: the keys before the chunk.
    a: log query features.
    b: log key features.
    v: values; zero where masked.
    view: who sees whom.
    dtype: of the stabilised features.
    remat: whether the backward pass is automatic. Split rows are computed again
      there, lest the usual side carries zeros for their residuals.

  Returns:
    The state after the chunk, its rows, and whether no row was split.
  """
  b, segments = masked(b, view.keep), view.segments
  unit, top = reference(state.c, b, view.keep, segments), None
  if segments is None:
    # Units, which cancel: without a derivative, of second order too.
    top = jax.lax.stop_gradient(jnp.max(b, axis=2))
    excess = jnp.max(top - unit[:, :, 0])
  else:
    excess = jax.lax.stop_gradient(jnp.max(b - unit))
  fast = excess <= exponent_limit(dtype)

  def usual() -> tuple[state_lib.State, state_lib.Readout]:
    features = jnp.exp(b - unit).astype(dtype)
    pairs = visible(view, v.shape[2])
    rows = _chunk_rows(state, a, unit, features, v, pairs, segments)
    return _chunk_state(state, unit, b, features, v, segments, top), rows

  def exact() -> tuple[state_lib.State, state_lib.Readout]:
    return exact_chunk(state, a, b, v, view, dtype)

  # One predicate for all heads: under a batched one both sides would run.
  rare = jax.checkpoint(exact) if remat else exact
  return *jax.lax.cond(fast, usual, rare), fast


def exact_chunk(
  state: state_lib.State,
  a: Float[Array, 'b h i r'],
  b: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  view: segments_lib.View,
  dtype: jnp.dtype,
) -> tuple[state_lib.State, state_lib.Readout]:
  """A chunk at any scale: splits the rows that need it.

  Args:
    state: the keys before the chunk.
    a: log query features.
    b: log key features, -inf where masked.
    v: values; zero where masked.
    view: who sees whom.
    dtype: of the stabilised features.

  Returns:
    The state after the chunk, and the chunk's rows.
  """
  limit, segments = exponent_limit(dtype), view.segments
  unit = reference(state.c, b, view.keep, segments)
  excess = b - unit
  features = jnp.exp(jnp.minimum(excess, limit)).astype(dtype)
  pairs = visible(view, v.shape[2])
  fast = _chunk_rows(state, a, unit, features, v, pairs, segments)
  after = _chunk_state(state, unit, b, features, v, segments)
  large = jnp.max(excess, axis=-1) > limit
  split = jnp.any(large[:, :, None] & pairs, axis=-1)
  rows = split_rows(state, a, b, v, view, dtype)
  before, b = _open(state, b, segments)
  plain = state_lib.merge(before, _summarize(b, v, dtype))
  if segments is not None:
    large = large & segments.last[:, None]
  return (
    _select(jnp.any(large, axis=-1), plain, after),
    _select(split, rows, fast),
  )


def _select(choose: Bool[Array, '...'], one: tuple, two: tuple) -> tuple:
  def pick(x: Array, y: Array) -> Array:
    extra = (1,) * (x.ndim - choose.ndim)
    return jnp.where(choose.reshape(choose.shape + extra), x, y)

  return jax.tree.map(pick, one, two)


def visible(view: segments_lib.View, size: int) -> Bool[Array, '#b 1 i j']:
  """Pairs (row, key) of a chunk; keys that do not count are among them."""
  earlier = jnp.tri(size, k=0 if view.inclusive else -1, dtype=bool)
  if view.segments is None:
    return earlier[None, None]
  return earlier & segments_lib.same(view.segments)


def _chunk_rows(
  state: state_lib.State,
  a: Float[Array, 'b h i r'],
  unit: Float[Array, 'b h #i r'],
  features: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  pairs: Bool[Array, '#b 1 i j'],
  segments: segments_lib.Segments | None,
) -> state_lib.Readout:
  queries, scale = _query_features(a, unit, features.dtype)
  readers = queries
  if segments is not None:
    readers = jnp.where(segments.carried[:, None, :, None], queries, 0)
  history = state, readers
  return state_lib.within(queries, features, v, pairs, scale, history)


def _open(
  state: state_lib.State,
  b: Float[Array, 'b h j r'],
  segments: segments_lib.Segments | None,
) -> tuple[state_lib.State, Float[Array, 'b h j r']]:
  """The history and the keys of the segment open at the end of the chunk."""
  if segments is None:
    return state, b
  b = jnp.where(segments.last[:, None, :, None], b, -jnp.inf)
  return state_lib.forget(state, ~segments.carried[:, -1]), b


def _chunk_state(
  state: state_lib.State,
  unit: Float[Array, 'b h #j r'],
  b: Float[Array, 'b h j r'],
  features: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  segments: segments_lib.Segments | None,
  top: Float[Array, 'b h r'] | None = None,
) -> state_lib.State:
  """Adds the chunk's keys; where the state is empty its unit is free."""
  if segments is not None:
    features = jnp.where(segments.last[:, None, :, None], features, 0)
  state, b = _open(state, b, segments)
  unit = unit[:, :, -1]
  after = jnp.maximum(unit, _maximum(b) if top is None else top)
  factor = jnp.exp(unit - after)
  added = state_lib.add_up(features, v, after)
  return state_lib.State(
    (state.S + added.S) * factor[..., None, :],
    (state.z + added.z) * factor,
    after,
  )


def split_rows(
  state: state_lib.State,
  a: Float[Array, 'b h i r'],
  b: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  view: segments_lib.View,
  dtype: jnp.dtype,
) -> state_lib.Readout:
  """Attends causally by binary splitting, right at any scale.

  Each right half of 1, 2, 4, ... positions reads its left sibling as one group
  with its own c; key i itself and the history are groups too. No group
  contains a key that a reader does not see. Chunks of other lengths are padded
  to the next power of two.

  The levels are one scanned body over the whole chunk: more work than halves of
  the right size, but a fifth of the compilation, and it is taken rarely.

  Args:
    state: the keys before the chunk.
    a: log query features.
    b: log key features, -inf where masked.
    v: values; zero where masked.
    view: who sees whom.
    dtype: of the stabilised features.

  Returns:
    The chunk's rows.
  """
  length = a.shape[2]
  size = 1 << (length - 1).bit_length()
  a, v = _lengthen(a, size), _lengthen(v, size)
  b = _lengthen(b, size, constant_values=-jnp.inf)
  rows = read(state, features_lib.Features(a, None), dtype)
  run = jnp.zeros((1, size), jnp.int32)
  if view.segments is not None:
    run, carried = (
      jnp.pad(x, ((0, 0), (0, size - length)), mode='edge')
      for x in (view.segments.run, view.segments.carried)
    )
    rows = state_lib.keep(rows, carried)

  @jax.checkpoint
  def level(carry: tuple, level: Array) -> tuple[tuple, None]:
    rows, c = carry
    group, c = _siblings(a, b, v, c, run, level, dtype)
    return (state_lib.merge_readouts(rows, group), c), None

  c = jax.lax.stop_gradient(jnp.maximum(b, state_lib.NO_KEY))
  levels = jnp.arange(0 if view.inclusive else 1, size.bit_length())
  (rows, _), _ = jax.lax.scan(level, (rows, c), levels)
  return jax.tree.map(lambda x: x[:, :, :length], rows)


def _lengthen(
  x: Float[Array, 'b h l r'], length: int, **options: Any
) -> Float[Array, 'b h length r']:
  extra = (0, length - x.shape[2])
  return jnp.pad(x, ((0, 0), (0, 0), extra, (0, 0)), **options)


def _siblings(
  a: Float[Array, 'b h i r'],
  b: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  c: Float[Array, 'b h j r'],
  run: Int[Array, '#b j'],
  level: Int[Array, ''],
  dtype: jnp.dtype,
) -> tuple[state_lib.Readout, Float[Array, 'b h i r']]:
  """Right blocks read their left siblings; at level 0 each key reads itself.

  Only the last segment of the left sibling can reach into the right block.

  Args:
    a: log query features.
    b: log key features, -inf where masked.
    v: values.
    c: for each position the maximum of b over the last segment of its block.
    run: number of the segment of each position.
    level: 0, or n for blocks of 2**(n - 1) positions.
    dtype: of the stabilised features.

  Returns:
    What each row reads, nothing in left blocks; and c of the next level.
  """
  index = jnp.arange(a.shape[2])
  size = (1 << level) >> 1  # 0 at level 0: then a block's sibling is itself.
  block = index // jnp.maximum(size, 1)
  last = run[:, index | (jnp.maximum(size, 1) - 1)]
  other, other_last = jnp.take(c, index ^ size, axis=2), last[:, index ^ size]
  queries, scale = _query_features(a, other, dtype)
  reaching = (run == last)[:, None, :, None]
  features = jnp.exp(jnp.where(reaching, b - c, -jnp.inf)).astype(dtype)
  right = (block % 2 == 1) | (level == 0)
  left = block - jnp.minimum(size, 1)
  pairs = right[:, None] & (left[:, None] == block[None, :])
  pairs = pairs & (run[:, None, :, None] == run[:, None, None, :])
  # A row that reads nothing has no scale: its own would bury the others.
  scale = jnp.where(jnp.any(pairs, axis=-1), scale, state_lib.NO_KEY)
  of_right = jnp.where((block % 2 == 1)[:, None], c, other)
  whole = (last == other_last)[:, None, :, None]
  c = jnp.where(whole, jnp.maximum(c, other), of_right)
  return state_lib.within(queries, features, v, pairs, scale), c
