"""Linear forms over log-features with backward passes written by hand.

The same sums as in `log_family`. Automatic differentiation of the loops is
right, but it computes every row's maximum, denominator and numerator again;
here the backward pass reads them from the forward pass, where they are small:
a scale and a denominator per row, a state per chunk. Features exist for one
chunk at a time, in both passes.

Arrays come as `chunks.cut` makes them, [n, rows, h, width], rows = b * chunk. The feature
maps are pure functions of a chunk and of `consts`, the arrays that they close
over (the projection), so that these receive gradients too.

Letters: n chunks, b batch, h heads, i positions of queries, j of keys, r
features, v width of a value.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from performer.attention import chunks, form, log_family, precision
from performer.attention import state as state_lib

__all__ = ['LogMap', 'causal', 'read', 'summarize']

# Log-features of a chunk, (x [rows, h, d], *consts) -> [b, h, chunk, r].
LogMap = Callable[..., Float[Array, 'b h l r']]


class _Rows(NamedTuple):
  """Values of a chunk's rows that the backward pass keeps."""

  scale: Float[Array, 'b h i']
  denominator: Float[Array, 'b h i']


def _masked(
  b: Float[Array, 'b h j r'], mask: Bool[Array, '#b j'] | None
) -> Float[Array, 'b h j r']:
  return b if mask is None else jnp.where(mask[:, None, :, None], b, -jnp.inf)


def _row_cotangents(
  out: Float[Array, 'b h i v'],
  g: Float[Array, 'b h i v'],
  rows: _Rows,
) -> tuple[Float[Array, 'b h i v'], Float[Array, 'b h i']]:
  """Cotangents of numerator and denominator from that of their ratio."""
  g = form.divide(precision.widen(g), rows.denominator)
  seen = rows.denominator > 0
  return jnp.where(seen[..., None], g, 0.0), -jnp.sum(g * out, axis=-1)


def _add(one: PyTree, two: PyTree) -> PyTree:
  return jax.tree.map(jnp.add, one, two)


def _zeros(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.zeros_like, tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def summarize(
  log_keys: LogMap,
  dtype: jnp.dtype,
  keys: tuple[Array, Array, Array | None],
  empty: state_lib.State,
  consts: tuple[Array, ...],
) -> state_lib.State:
  """Sums keys into a state.

  Args:
    log_keys: log-features of a chunk of keys.
    dtype: of the stabilised features; the sums are float32.
    keys: keys, values and mask, in chunks.
    empty: the state of no keys.
    consts: arrays that `log_keys` reads.

  Returns:
    The state of all keys.
  """
  batch = empty.z.shape[0]

  def absorb(state: state_lib.State, chunk: tuple) -> tuple:
    k, v, mask = chunk
    b = _masked(log_keys(k, *consts), mask)
    c = jnp.maximum(state.c, jnp.max(b, axis=2))
    decay = jnp.exp(state.c - c)
    features = jnp.exp(b - c[:, :, None]).astype(dtype)
    sums = precision.dot('bhjv,bhjr->bhvr', chunks.rows(v, batch), features)
    total = jnp.sum(features, axis=2, dtype=precision.wide(features))
    new = state_lib.State(
      state.S * decay[:, :, None] + sums, state.z * decay + total, c
    )
    return new, None

  return jax.lax.scan(absorb, empty, keys)[0]


def _summarize_forward(
  log_keys: LogMap, dtype: jnp.dtype, keys: Any, empty: Any, consts: Any
) -> tuple:
  state = summarize(log_keys, dtype, keys, empty, consts)
  return state, (keys, consts, state.c)


def _summarize_backward(
  log_keys: LogMap, dtype: jnp.dtype, kept: tuple, g: state_lib.State
) -> tuple:
  keys, consts, c = kept
  batch = c.shape[0]

  def step(dconsts: tuple, chunk: tuple) -> tuple:
    k, v, mask = chunk
    b, pull = jax.vjp(log_keys, k, *consts)
    features = jnp.exp(_masked(b, mask) - c[:, :, None])
    dv = precision.dot('bhjr,bhvr->bhjv', features.astype(dtype), g.S)
    db = precision.dot('bhjv,bhvr->bhjr', chunks.rows(v, batch), g.S)
    dk, *more = pull((db + g.z[:, :, None]) * features)
    return _add(dconsts, tuple(more)), (dk, chunks.stack(dv).astype(v.dtype))

  dconsts, (dk, dv) = jax.lax.scan(step, _zeros(consts), keys)
  return (dk, dv, None), None, dconsts


summarize.defvjp(_summarize_forward, _summarize_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def read(
  log_queries: LogMap,
  dtype: jnp.dtype,
  q: Float[Array, 'n rows h d'],
  state: state_lib.State,
  consts: tuple[Array, ...],
) -> Float[Array, 'n rows h v']:
  """Every query sees every key of the state.

  Args:
    log_queries: log-features of a chunk of queries.
    dtype: of the stabilised features.
    q: queries, in chunks.
    state: the keys.
    consts: arrays that `log_queries` reads.

  Returns:
    Outputs, float32; 0 where the state is empty.
  """
  return _read_forward(log_queries, dtype, q, state, consts)[0]


def _read_forward(
  log_queries: LogMap, dtype: jnp.dtype, q: Any, state: Any, consts: Any
) -> tuple:
  def step(_: None, q: Array) -> tuple:
    e = log_queries(q, *consts) + state.c[:, :, None]
    scale = jax.lax.stop_gradient(jnp.max(e, axis=-1))
    features = jnp.exp(e - scale[..., None]).astype(dtype)
    numerator = precision.dot('bhir,bhvr->bhiv', features, state.S)
    denominator = precision.dot('bhir,bhr->bhi', features, state.z)
    out = chunks.stack(form.divide(numerator, denominator))
    return None, (out, _Rows(scale, denominator))

  out, rows = jax.lax.scan(step, None, q)[1]
  return out, (q, state, consts, out, rows)


def _read_backward(
  log_queries: LogMap, dtype: jnp.dtype, kept: tuple, g: Array
) -> tuple:
  q, state, consts, out, rows = kept
  batch = state.z.shape[0]

  def step(sums: tuple, chunk: tuple) -> tuple:
    q, g, out, rows = chunk
    g, dden = _row_cotangents(
      chunks.rows(out, batch), chunks.rows(g, batch), rows
    )
    a, pull = jax.vjp(log_queries, q, *consts)
    features = jnp.exp(a + state.c[:, :, None] - rows.scale[..., None])
    low = features.astype(dtype)
    da = (
      precision.dot('bhiv,bhvr->bhir', g, state.S)
      + dden[..., None] * state.z[:, :, None]
    )
    dq, *more = pull(da * features)
    new = (
      precision.dot('bhiv,bhir->bhvr', g, low),
      precision.dot('bhi,bhir->bhr', dden, low),
      tuple(more),
    )
    return _add(sums, new), dq

  init = (jnp.zeros_like(state.S), jnp.zeros_like(state.z), _zeros(consts))
  (ds, dz, dconsts), dq = jax.lax.scan(step, init, (q, g, out, rows))
  return dq, state_lib.State(ds, dz, jnp.zeros_like(state.c)), dconsts


read.defvjp(_read_forward, _read_backward)


class _Kept(NamedTuple):
  """Values of a chunk that the backward pass of `causal` keeps."""

  state: state_lib.State
  after: Float[Array, 'b h r']
  rows: _Rows
  fast: Bool[Array, '']


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def causal(
  log_queries: LogMap,
  log_keys: LogMap,
  dtype: jnp.dtype,
  inputs: tuple[Array, Array, Array, Array | None],
  state: state_lib.State,
  consts: tuple[tuple[Array, ...], tuple[Array, ...]],
) -> tuple[Float[Array, 'n rows h v'], state_lib.State]:
  """Query i sees keys 0..i, and those of the state.

  Args:
    log_queries: log-features of a chunk of queries.
    log_keys: of keys.
    dtype: of the stabilised features.
    inputs: queries, keys, values and mask, in chunks.
    state: sums over earlier keys.
    consts: arrays that `log_queries` and `log_keys` read.

  Returns:
    Outputs, float32, and the state after the last key.
  """
  return _causal_forward(log_queries, log_keys, dtype, inputs, state, consts)[0]


def _causal_forward(
  log_queries: LogMap,
  log_keys: LogMap,
  dtype: jnp.dtype,
  inputs: Any,
  state: Any,
  consts: Any,
) -> tuple:
  batch = state.z.shape[0]

  def step(state: state_lib.State, chunk: tuple) -> tuple:
    q, k, v, mask = chunk
    a = log_queries(q, *consts[0])
    b = _masked(log_keys(k, *consts[1]), mask)
    v = chunks.rows(v, batch)
    unit = log_family.reference(state.c, b, mask)
    # A unit, which cancels: without a derivative, of second order too.
    top = jax.lax.stop_gradient(jnp.max(b, axis=2))
    fast = jnp.max(top - unit[:, :, 0]) <= log_family.exponent_limit(dtype)
    after, rows = jax.lax.cond(
      fast,
      lambda: _fast_chunk(state, a, b, v, unit, top, dtype),
      lambda: log_family.exact_chunk(state, a, b, v, mask, dtype),
    )
    out = form.divide(rows.numerator, rows.denominator)
    kept = _Rows(rows.log_scale, rows.denominator)
    return after, (chunks.stack(out), _Kept(state, after.c, kept, fast))

  last, (out, kept) = jax.lax.scan(step, state, inputs)
  return (out, last), (inputs, consts, out, kept)


def _fast_chunk(
  state: state_lib.State,
  a: Float[Array, 'b h i r'],
  b: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  unit: Float[Array, 'b h 1 r'],
  top: Float[Array, 'b h r'],
  dtype: jnp.dtype,
) -> tuple[state_lib.State, state_lib.Readout]:
  """`log_family.causal_chunk` where no key exceeds the limit."""
  e = a + unit
  scale = jax.lax.stop_gradient(jnp.max(e, axis=-1))
  queries = jnp.exp(e - scale[..., None]).astype(dtype)
  features = jnp.exp(b - unit).astype(dtype)
  weights = precision.dot('bhir,bhjr->bhij', queries, features)
  weights = jnp.where(jnp.tri(a.shape[2], dtype=bool), weights, 0.0)
  rows = state_lib.Readout(
    precision.dot('bhij,bhjv->bhiv', weights, v)
    + precision.dot('bhir,bhvr->bhiv', queries, state.S),
    jnp.sum(weights, axis=-1)
    + precision.dot('bhir,bhr->bhi', queries, state.z),
    scale,
  )
  unit = unit[:, :, 0]
  c = jnp.maximum(unit, top)
  factor = jnp.exp(unit - c)
  total = state.S + precision.dot('bhjv,bhjr->bhvr', v, features)
  z = state.z + jnp.sum(features, axis=2, dtype=precision.wide(features))
  return state_lib.State(total * factor[:, :, None], z * factor, c), rows


def _causal_backward(
  log_queries: LogMap,
  log_keys: LogMap,
  dtype: jnp.dtype,
  residuals: tuple,
  cotangents: tuple[Array, state_lib.State],
) -> tuple:
  inputs, consts, out, kept = residuals
  g, last = cotangents
  batch = last.z.shape[0]

  def step(carry: tuple, chunk: tuple) -> tuple:
    ds, dz, dconsts = carry
    (q, k, v, mask), out, g, kept = chunk
    a, pull_q = jax.vjp(log_queries, q, *consts[0])
    b, pull_k = jax.vjp(lambda *x: _masked(log_keys(*x), mask), k, *consts[1])
    rows_v, g = chunks.rows(v, batch), chunks.rows(g, batch)
    da, db, dv, ds, dz = jax.lax.cond(
      kept.fast,
      lambda: _fast_backward(
        kept, a, b, rows_v, mask, chunks.rows(out, batch), g, ds, dz, dtype
      ),
      lambda: _exact_backward(kept, a, b, rows_v, mask, g, ds, dz, dtype),
    )
    dq, *dcq = pull_q(da)
    dk, *dck = pull_k(db)
    new = _add(dconsts, (tuple(dcq), tuple(dck)))
    return (ds, dz, new), (dq, dk, chunks.stack(dv).astype(v.dtype))

  (ds, dz, dconsts), (dq, dk, dv) = jax.lax.scan(
    step,
    (last.S, last.z, _zeros(consts)),
    (inputs, out, g, kept),
    reverse=True,
  )
  state = state_lib.State(ds, dz, jnp.zeros_like(last.c))
  return (dq, dk, dv, None), state, dconsts


def _fast_backward(
  kept: _Kept,
  a: Float[Array, 'b h i r'],
  b: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  mask: Bool[Array, '#b j'] | None,
  out: Float[Array, 'b h i v'],
  g: Float[Array, 'b h i v'],
  ds: Float[Array, 'b h v r'],
  dz: Float[Array, 'b h r'],
  dtype: jnp.dtype,
) -> tuple[Array, Array, Array, Array, Array]:
  """Cotangents of a, b, v and the state before the chunk."""
  state, rows = kept.state, kept.rows
  unit = log_family.reference(state.c, b, mask)
  queries = jnp.exp(a + unit - rows.scale[..., None])
  features = jnp.exp(b - unit)
  low_q, low_k = queries.astype(dtype), features.astype(dtype)
  factor = jnp.exp(unit[:, :, 0] - kept.after)
  ds, dz = ds * factor[:, :, None], dz * factor
  g, dden = _row_cotangents(out, g, rows)
  visible = jnp.tri(a.shape[2], dtype=bool)
  weights = jnp.where(
    visible, precision.dot('bhir,bhjr->bhij', low_q, low_k), 0.0
  )
  dweights = precision.dot('bhiv,bhjv->bhij', g, v) + dden[..., None]
  dweights = jnp.where(visible, dweights, 0.0)
  dqueries = (
    precision.dot('bhij,bhjr->bhir', dweights, low_k)
    + precision.dot('bhiv,bhvr->bhir', g, state.S)
    + dden[..., None] * state.z[:, :, None]
  )
  dfeatures = (
    precision.dot('bhij,bhir->bhjr', dweights, low_q)
    + precision.dot('bhjv,bhvr->bhjr', v, ds)
    + dz[:, :, None]
  )
  dv = precision.dot('bhij,bhiv->bhjv', weights, g) + precision.dot(
    'bhjr,bhvr->bhjv', low_k, ds
  )
  return (
    dqueries * queries,
    dfeatures * features,
    dv,
    ds + precision.dot('bhiv,bhir->bhvr', g, low_q),
    dz + precision.dot('bhi,bhir->bhr', dden, low_q),
  )


def _exact_backward(
  kept: _Kept,
  a: Float[Array, 'b h i r'],
  b: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  mask: Bool[Array, '#b j'] | None,
  g: Float[Array, 'b h i v'],
  ds: Float[Array, 'b h v r'],
  dz: Float[Array, 'b h r'],
  dtype: jnp.dtype,
) -> tuple[Array, Array, Array, Array, Array]:
  """The same where some row is split: rare, so differentiated as it is.

  One head at a time, because its intermediates would set the peak of memory.
  """
  heads = jax.tree.map(
    lambda x: jnp.moveaxis(x, 1, 0)[:, :, None],
    (kept.state, a, b, precision.widen(v), precision.widen(g), ds, dz),
  )

  def head(arrays: tuple) -> tuple:
    state, a, b, v, *cotangents = arrays

    def chunk(a: Array, b: Array, v: Array, s: Array, z: Array) -> tuple:
      before = state_lib.State(s, z, state.c)
      after, rows = log_family.exact_chunk(before, a, b, v, mask, dtype)
      return form.divide(rows.numerator, rows.denominator), after.S, after.z

    _, pull = jax.vjp(chunk, a, b, v, state.S, state.z)
    return pull(tuple(cotangents))

  return jax.tree.map(
    lambda x: jnp.moveaxis(x[:, :, 0], 0, 1), jax.lax.map(head, heads)
  )


causal.defvjp(_causal_forward, _causal_backward)
