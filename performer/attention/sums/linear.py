"""Linear attention, bidirectional and causal, as it is used.

Each function takes arrays as the model has them, [b, l, h, width], and scans
over chunks of positions. Features exist for one chunk at a time, in the forward
and in the backward pass, so memory is linear in the length with no [l, r]
buffer.

Ratios of sums of log-features have loops of their own here, with the backward
passes of `log_backward`; the loops of `automatic` compute all other forms.

Letters: b batch, l positions, h heads, d width of a key, v of a value, r
features, n chunks.

Reference: arXiv:2009.14794, Algorithm 1 and section B.1.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from performer.attention.sums import automatic, chunks, log, log_backward
from performer.attention.sums import features as features_lib
from performer.attention.sums import form as form_lib
from performer.attention.sums import segments as segments_lib
from performer.attention.sums import state as state_lib

__all__ = ['bidirectional', 'causal', 'read', 'summarize']


def _block(form: form_lib.Form, length: int) -> int:
  """Positions at a time where no row looks at another.

  Several chunks, because larger products keep two cores busy and there is no
  chunk x chunk matrix that would grow; fewer where the sequence is short and
  one block would be most of the memory.
  """
  return chunks.size(length, form.chunk * (8 if length >= 2048 else 4))


def _empty(form: form_lib.Form, v: Float[Array, 'b l h v']) -> state_lib.State:
  return state_lib.empty(v[:, 0], form.features, v.shape[-1], form.log)


def _is_log_ratio(form: form_lib.Form) -> bool:
  return form.log and form.finish is form_lib.ratio


def _explicit(
  log_features: log_backward.LogMap, like: Float[Array, 'n rows h d'], b: int
) -> tuple[log_backward.LogMap, tuple[Array, ...]]:
  """A log-feature map of a chunk, and the arrays that it closes over."""
  _, rows, h, d = like.shape
  # Made of `like`, to vary over the mesh axes that it varies over.
  example = jnp.full_like(like, 0, shape=(b, h, rows // b, d))
  converted, consts = jax.closure_convert(log_features, example)
  return converted, tuple(consts)


def _log_queries(form: form_lib.Form) -> log_backward.LogMap:
  # Without the factor per row, which cancels.
  return lambda q: form.featurize_queries(q).values


def _log_keys(form: form_lib.Form) -> log_backward.LogMap:
  def log_keys(k: Float[Array, 'b h l d']) -> Float[Array, 'b h l r']:
    values, weight = form.featurize_keys(k)
    return values if weight is None else values + weight[..., None]

  return log_keys


def summarize(
  form: form_lib.Form,
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *,
  key_mask: Bool[Array, 'b l'] | None = None,
) -> state_lib.State:
  """Sums keys and values into a state, to be read by any number of queries.

  Args:
    form: features and chunking.
    k: keys.
    v: values.
    key_mask: True = keep.

  Returns:
    The state of all kept keys.

  Reference: arXiv:2009.14794, Algorithm 1.
  """
  keys = chunks.cut_inputs(None, k, v, key_mask, _block(form, k.shape[1]))
  if not form.log:
    return automatic.summarize(form, keys, _empty(form, v))
  log_keys, consts = _explicit(_log_keys(form), keys.k, k.shape[0])
  return _summarize(log_keys, form.dtype, keys, _empty(form, v), consts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _summarize(
  log_keys: log_backward.LogMap,
  dtype: jnp.dtype,
  keys: chunks.Cut,
  empty: state_lib.State,
  consts: tuple[Array, ...],
) -> state_lib.State:
  batch = empty.z.shape[0]

  def absorb(state: state_lib.State, chunk: chunks.Cut) -> tuple:
    k, v = chunks.rows((chunk.k, chunk.v), batch)
    b = log.masked(log_keys(k, *consts), chunk.mask)
    c = jnp.maximum(state.c, jnp.max(b, axis=2))
    decay = jnp.exp(state.c - c)
    features = jnp.exp(b - c[:, :, None]).astype(dtype)
    added = state_lib.add_up(features, v, c)
    new = state_lib.State(
      state.S * decay[:, :, None] + added.S, state.z * decay + added.z, c
    )
    return new, None

  return jax.lax.scan(absorb, empty, keys)[0]


def _summarize_forward(
  log_keys: Any, dtype: jnp.dtype, keys: Any, empty: Any, consts: Any
) -> tuple:
  state = _summarize(log_keys, dtype, keys, empty, consts)
  return state, (keys, consts, state.c)


_summarize.defvjp(_summarize_forward, log_backward.summarize)


def read(
  form: form_lib.Form, q: Float[Array, 'b l h d'], state: state_lib.State
) -> Float[Array, 'b l h v']:
  """Every query sees every key of a state.

  Args:
    form: features and chunking.
    q: queries.
    state: result of `summarize`, with the same form.

  Returns:
    Outputs, float32.
  """
  batch, length = q.shape[:2]
  queries = chunks.cut(q, _block(form, length))
  if not _is_log_ratio(form):
    out = automatic.read(form, queries, state)
    return chunks.join(out, batch, length)
  log_queries, consts = _explicit(_log_queries(form), queries, batch)
  state = chunks.vary_like(state, q)
  out = _read(log_queries, form.dtype, queries, state, consts)
  return chunks.join(out, batch, length)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _read(
  log_queries: log_backward.LogMap,
  dtype: jnp.dtype,
  q: Float[Array, 'n rows h d'],
  state: state_lib.State,
  consts: tuple[Array, ...],
) -> Float[Array, 'n rows h v']:
  return _read_forward(log_queries, dtype, q, state, consts)[0]


def _read_forward(
  log_queries: Any, dtype: jnp.dtype, q: Any, state: Any, consts: Any
) -> tuple:
  batch = state.z.shape[0]

  def step(_: None, q: Array) -> tuple:
    a = features_lib.Features(log_queries(chunks.rows(q, batch), *consts), None)
    rows = log.read(state, a, dtype)
    out = chunks.stack(state_lib.divide(rows.numerator, rows.denominator))
    return None, (out, log_backward.Rows(rows.log_scale, rows.denominator))

  out, rows = jax.lax.scan(step, None, q)[1]
  return out, (q, state, consts, out, rows)


_read.defvjp(_read_forward, log_backward.read)


def bidirectional(
  form: form_lib.Form,
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  *,
  key_mask: Bool[Array, 'b lk'] | None = None,
  segment_ids: Int[Array, 'b lk'] | None = None,
  states: tuple[state_lib.State, state_lib.State] | None = None,
) -> Float[Array, 'b lq h v']:
  """Every query sees every kept key (of its segment).

  Segments cost two causal passes, one from each end, and then as many queries
  as keys are needed.

  Args:
    form: features and chunking.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.
    segment_ids: runs of equal ids attend among themselves.
    states: with segments: sums over more keys of the first and of the last.

  Returns:
    Outputs, float32.

  Reference: arXiv:2009.14794, Algorithm 1 (bidirectional).
  """
  if segment_ids is None:
    return read(form, q, summarize(form, k, v, key_mask=key_mask))
  states = states or (_empty(form, v),) * 2
  return automatic.bidirectional(form, q, k, v, key_mask, segment_ids, states)


def causal(
  form: form_lib.Form,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *,
  key_mask: Bool[Array, 'b l'] | None = None,
  segment_ids: Int[Array, 'b l'] | None = None,
  state: state_lib.State | None = None,
) -> tuple[Float[Array, 'b l h v'], state_lib.State]:
  """Query i sees kept keys 0..i (of its segment), and those of the state.

  Per chunk of C positions the work is three C x C and two C x r products; the
  backward pass keeps one state per chunk and computes the rest again.

  Args:
    form: features and chunking.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.
    segment_ids: runs of equal ids attend among themselves; the state belongs
      to the first.
    state: sums over earlier keys; None for none.

  Returns:
    Outputs, float32, and the state after the last key (of the last segment).

  Reference: arXiv:2009.14794, section B.1.
  """
  if state is None:
    state = _empty(form, v)
  if segment_ids is not None or not _is_log_ratio(form):
    return automatic.causal(form, q, k, v, key_mask, segment_ids, state=state)
  batch, length = q.shape[:2]
  inputs = chunks.cut_inputs(q, k, v, key_mask, form.chunk)
  log_queries, query_consts = _explicit(_log_queries(form), inputs.q, batch)
  log_keys, key_consts = _explicit(_log_keys(form), inputs.k, batch)
  out, state = _causal(
    log_queries,
    log_keys,
    form.dtype,
    inputs,
    chunks.vary_like(state, q),
    (query_consts, key_consts),
  )
  return chunks.join(out, batch, length), state


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _causal(
  log_queries: log_backward.LogMap,
  log_keys: log_backward.LogMap,
  dtype: jnp.dtype,
  inputs: chunks.Cut,
  state: state_lib.State,
  consts: tuple[tuple[Array, ...], tuple[Array, ...]],
) -> tuple[Float[Array, 'n rows h v'], state_lib.State]:
  return _causal_forward(log_queries, log_keys, dtype, inputs, state, consts)[0]


def _causal_forward(
  log_queries: Any,
  log_keys: Any,
  dtype: jnp.dtype,
  inputs: Any,
  state: Any,
  consts: Any,
) -> tuple:
  batch = state.z.shape[0]

  def step(state: state_lib.State, chunk: chunks.Cut) -> tuple:
    *arrays, mask = chunk
    q, k, v = chunks.rows(arrays, batch)
    after, rows, fast = log.attend_chunk(
      state,
      log_queries(q, *consts[0]),
      log_keys(k, *consts[1]),
      v,
      segments_lib.View(mask),
      dtype,
    )
    out = chunks.stack(state_lib.divide(rows.numerator, rows.denominator))
    kept = log_backward.Rows(rows.log_scale, rows.denominator)
    return after, (out, log_backward.Kept(state, after.c, kept, fast))

  last, (out, kept) = jax.lax.scan(step, state, inputs)
  return (out, last), (inputs, consts, out, kept)


_causal.defvjp(_causal_forward, log_backward.causal)
