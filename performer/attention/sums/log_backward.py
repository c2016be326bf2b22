"""Backward passes of the loops over log-features, written by hand.

Automatic differentiation of the loops of `linear` is right, but it computes
every row's maximum, denominator and numerator again; here the backward pass
reads them from the forward pass, where they are small: a scale and a
denominator per row, a state per chunk. Features exist for one chunk at a time,
in both passes.

Arrays come as `chunks.cut` makes them, [n, rows, h, width], rows = b * chunk.
The feature maps are pure functions of a chunk and of `consts`, the arrays that
they close over (the projection), so that these receive gradients too.

Letters: n chunks, b batch, h heads, i positions of queries, j of keys, r
features, v width of a value.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from performer.attention.sums import chunks, log
from performer.attention.sums import segments as segments_lib
from performer.attention.sums import state as state_lib

__all__ = ['Kept', 'LogMap', 'Rows', 'causal', 'read', 'summarize']

# Log-features of a chunk, (x [b, h, chunk, d], *consts) -> [b, h, chunk, r].
LogMap = Callable[..., Float[Array, 'b h l r']]


class Rows(NamedTuple):
  """Values of a chunk's rows that the backward pass keeps."""

  scale: Float[Array, 'b h i']
  denominator: Float[Array, 'b h i']


class Kept(NamedTuple):
  """Values of a chunk that the backward pass of `causal` keeps.

  Attributes:
    state: before the chunk.
    after: c after it.
    rows: of its rows.
    fast: whether no row was split.
  """

  state: state_lib.State
  after: Float[Array, 'b h r']
  rows: Rows
  fast: Bool[Array, '']


def _row_cotangents(
  out: Float[Array, 'b h i v'],
  g: Float[Array, 'b h i v'],
  rows: Rows,
) -> tuple[Float[Array, 'b h i v'], Float[Array, 'b h i']]:
  """Cotangents of numerator and denominator from that of their ratio."""
  g = state_lib.divide(state_lib.widen(g), rows.denominator)
  seen = rows.denominator > 0
  return jnp.where(seen[..., None], g, 0.0), -jnp.sum(g * out, axis=-1)


def _add(one: PyTree, two: PyTree) -> PyTree:
  return jax.tree.map(jnp.add, one, two)


def _zeros(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.zeros_like, tree)


def summarize(
  log_keys: LogMap,
  dtype: jnp.dtype,
  residuals: tuple[chunks.Cut, tuple[Array, ...], Array],
  g: state_lib.State,
) -> tuple:
  """Cotangents of keys, of the empty state (None) and of what maps close over.

  Args:
    log_keys: log-features of a chunk of keys.
    dtype: of the stabilised features.
    residuals: keys in chunks, consts, and c of the state.
    g: cotangent of the state.
  """
  keys, consts, c = residuals
  batch = c.shape[0]

  def step(dconsts: tuple, chunk: chunks.Cut) -> tuple:
    k, v = chunks.rows((chunk.k, chunk.v), batch)
    b, pull = jax.vjp(log_keys, k, *consts)
    features = jnp.exp(log.masked(b, chunk.mask) - c[:, :, None])
    dv = state_lib.dot('bhjr,bhvr->bhjv', features.astype(dtype), g.S)
    db = state_lib.dot('bhjv,bhvr->bhjr', v, g.S)
    dk, *more = pull((db + g.z[:, :, None]) * features)
    new = _add(dconsts, tuple(more))
    return new, chunks.stack((dk, dv.astype(v.dtype)))

  dconsts, (dk, dv) = jax.lax.scan(step, _zeros(consts), keys)
  return chunks.Cut(None, dk, dv, None), None, dconsts


def read(
  log_queries: LogMap, dtype: jnp.dtype, residuals: tuple, g: Array
) -> tuple:
  """Cotangents of queries, state and what the map closes over.

  Args:
    log_queries: log-features of a chunk of queries.
    dtype: of the stabilised features.
    residuals: queries in chunks, state, consts, outputs, `Rows`.
    g: cotangent of the outputs.
  """
  q, state, consts, out, rows = residuals
  batch = state.z.shape[0]

  def step(sums: tuple, chunk: tuple) -> tuple:
    arrays, rows = chunk
    q, g, out = chunks.rows(arrays, batch)
    g, dden = _row_cotangents(out, g, rows)
    a, pull = jax.vjp(log_queries, q, *consts)
    features = jnp.exp(a + state.c[:, :, None] - rows.scale[..., None])
    low = features.astype(dtype)
    da = (
      state_lib.dot('bhiv,bhvr->bhir', g, state.S)
      + dden[..., None] * state.z[:, :, None]
    )
    dq, *more = pull(da * features)
    new = (
      state_lib.dot('bhiv,bhir->bhvr', g, low),
      state_lib.dot('bhi,bhir->bhr', dden, low),
      tuple(more),
    )
    return _add(sums, new), chunks.stack(dq)

  init = (jnp.zeros_like(state.S), jnp.zeros_like(state.z), _zeros(consts))
  (ds, dz, dconsts), dq = jax.lax.scan(step, init, ((q, g, out), rows))
  return dq, state_lib.State(ds, dz, jnp.zeros_like(state.c)), dconsts


def causal(
  log_queries: LogMap,
  log_keys: LogMap,
  dtype: jnp.dtype,
  residuals: tuple,
  cotangents: tuple[Array, state_lib.State],
) -> tuple:
  """Cotangents of inputs, state and what the maps close over.

  Args:
    log_queries: log-features of a chunk of queries.
    log_keys: of keys.
    dtype: of the stabilised features.
    residuals: inputs in chunks, consts of both maps, outputs, `Kept`.
    cotangents: of the outputs, and of the state after the last key.
  """
  inputs, consts, out, kept = residuals
  g, last = cotangents
  batch = last.z.shape[0]

  def step(carry: tuple, chunk: tuple) -> tuple:
    ds, dz, dconsts = carry
    (*inputs, mask), out, g, kept = chunk
    q, k, v, out, g = chunks.rows((*inputs, out, g), batch)
    a, pull_q = jax.vjp(log_queries, q, *consts[0])
    b, pull_k = jax.vjp(
      lambda *x: log.masked(log_keys(*x), mask), k, *consts[1]
    )
    da, db, dv, ds, dz = jax.lax.cond(
      kept.fast,
      lambda: _fast_backward(kept, a, b, v, mask, out, g, ds, dz, dtype),
      lambda: _exact_backward(kept, a, b, v, mask, g, ds, dz, dtype),
    )
    dq, *dcq = pull_q(da)
    dk, *dck = pull_k(db)
    new = _add(dconsts, (tuple(dcq), tuple(dck)))
    return (ds, dz, new), chunks.stack((dq, dk, dv.astype(v.dtype)))

  (ds, dz, dconsts), (dq, dk, dv) = jax.lax.scan(
    step,
    (last.S, last.z, _zeros(consts)),
    (inputs, out, g, kept),
    reverse=True,
  )
  state = state_lib.State(ds, dz, jnp.zeros_like(last.c))
  return chunks.Cut(dq, dk, dv, None), state, dconsts


def _fast_backward(
  kept: Kept,
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
  unit = log.reference(state.c, b, mask)
  queries = jnp.exp(a + unit - rows.scale[..., None])
  features = jnp.exp(b - unit)
  low_q, low_k = queries.astype(dtype), features.astype(dtype)
  factor = jnp.exp(unit[:, :, 0] - kept.after)
  ds, dz = ds * factor[:, :, None], dz * factor
  g, dden = _row_cotangents(out, g, rows)
  visible = jnp.tri(a.shape[2], dtype=bool)
  weights = jnp.where(
    visible, state_lib.dot('bhir,bhjr->bhij', low_q, low_k), 0.0
  )
  dweights = state_lib.dot('bhiv,bhjv->bhij', g, v) + dden[..., None]
  dweights = jnp.where(visible, dweights, 0.0)
  dqueries = (
    state_lib.dot('bhij,bhjr->bhir', dweights, low_k)
    + state_lib.dot('bhiv,bhvr->bhir', g, state.S)
    + dden[..., None] * state.z[:, :, None]
  )
  dfeatures = (
    state_lib.dot('bhij,bhir->bhjr', dweights, low_q)
    + state_lib.dot('bhjv,bhvr->bhjr', v, ds)
    + dz[:, :, None]
  )
  dv = state_lib.dot('bhij,bhiv->bhjv', weights, g) + state_lib.dot(
    'bhjr,bhvr->bhjv', low_k, ds
  )
  return (
    dqueries * queries,
    dfeatures * features,
    dv,
    ds + state_lib.dot('bhiv,bhir->bhvr', g, low_q),
    dz + state_lib.dot('bhi,bhir->bhr', dden, low_q),
  )


def _exact_backward(
  kept: Kept,
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
  view = segments_lib.View(mask)
  heads = jax.tree.map(
    lambda x: jnp.moveaxis(x, 1, 0)[:, :, None],
    (kept.state, a, b, state_lib.widen(v), state_lib.widen(g), ds, dz),
  )

  def head(arrays: Any) -> tuple:
    state, a, b, v, *cotangents = arrays

    def chunk(a: Array, b: Array, v: Array, s: Array, z: Array) -> tuple:
      before = state_lib.State(s, z, state.c)
      after, rows = log.exact_chunk(before, a, b, v, view, dtype)
      out = state_lib.divide(rows.numerator, rows.denominator)
      return out, after.S, after.z

    _, pull = jax.vjp(chunk, a, b, v, state.S, state.z)
    return pull(tuple(cotangents))

  return jax.tree.map(
    lambda x: jnp.moveaxis(x[:, :, 0], 0, 1), jax.lax.map(head, heads)
  )
