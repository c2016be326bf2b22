"""Loops over chunks of any linear form, differentiated automatically.

Letters: b batch, l positions, h heads, d width of a key, v of a value, n
chunks.
"""

import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from performer.attention.sums import chunks, direct, log
from performer.attention.sums import features as features_lib
from performer.attention.sums import form as form_lib
from performer.attention.sums import segments as segments_lib
from performer.attention.sums import state as state_lib

__all__ = ['bidirectional', 'causal', 'family', 'read', 'summarize']

End = Callable[[state_lib.Readout, features_lib.Features, Array | None], Array]


def family(form: form_lib.Form) -> types.ModuleType:
  """The arithmetic of a form: of features, or of their logarithms."""
  return log if form.log else direct


def summarize(
  form: form_lib.Form, keys: chunks.Cut, empty: state_lib.State
) -> state_lib.State:
  """The state of all keys; see `linear.summarize`."""
  batch, sums = empty.z.shape[0], family(form)

  # The sum itself stays outside the checkpoint: it is linear, so the backward
  # pass needs no copy of the state per chunk.
  @jax.checkpoint
  def summary(k: Array, v: Array, mask: Array | None) -> state_lib.State:
    k, v = chunks.rows((k, v), batch)
    return sums.summarize(form.featurize_keys(k), v, mask, form.dtype)

  def absorb(
    state: state_lib.State, chunk: chunks.Cut
  ) -> tuple[state_lib.State, None]:
    _, *keys = chunk
    return state_lib.merge(state, summary(*keys)), None

  return jax.lax.scan(absorb, empty, keys)[0]


def read(
  form: form_lib.Form, q: Float[Array, 'n rows h d'], state: state_lib.State
) -> Float[Array, 'n rows h v']:
  """Every query sees every key of a state; see `linear.read`."""
  batch, sums = state.z.shape[0], family(form)

  @jax.checkpoint
  def step(state: state_lib.State, q: Array) -> Array:
    features = form.featurize_queries(chunks.rows(q, batch))
    rows = sums.read(state, features, form.dtype)
    return chunks.stack(form.finish(rows, features))

  return jax.lax.scan(lambda s, q: (s, step(s, q)), state, q)[1]


def bidirectional(
  form: form_lib.Form,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  key_mask: Bool[Array, 'b l'] | None,
  segment_ids: Int[Array, 'b l'],
  states: tuple[state_lib.State, state_lib.State],
) -> Float[Array, 'b l h v']:
  """Every query sees every kept key of its segment: one pass from each end.

  Args:
    form: features and chunking.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.
    segment_ids: runs of equal ids attend among themselves.
    states: sums over more keys of the first segment and of the last.

  Returns:
    Outputs, float32.
  """
  before, behind = states
  earlier, _ = causal(
    form,
    q,
    k,
    v,
    key_mask,
    segment_ids,
    state=before,
    end=lambda rows, *_: _pack(rows),
  )
  # From the other end every query reads the keys strictly after it.
  flipped = [
    None if x is None else jnp.flip(x, axis=1)
    for x in (q, k, v, key_mask, segment_ids, earlier)
  ]

  def merge(
    rows: state_lib.Readout, features: features_lib.Features, earlier: Array
  ) -> Array:
    return form.finish(
      state_lib.merge_readouts(rows, _unpack(earlier)), features
    )

  out, _ = causal(form, *flipped, state=behind, inclusive=False, end=merge)
  return jnp.flip(out, axis=1)


def _pack(rows: state_lib.Readout) -> Float[Array, 'b h l columns']:
  columns = (rows.denominator, rows.log_scale)
  return jnp.concatenate(
    [rows.numerator, *(x[..., None] for x in columns)], axis=-1
  )


def _unpack(rows: Float[Array, 'b h l columns']) -> state_lib.Readout:
  return state_lib.Readout(rows[..., :-2], rows[..., -2], rows[..., -1])


def causal(
  form: form_lib.Form,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  key_mask: Bool[Array, 'b l'] | None,
  segment_ids: Int[Array, 'b l'] | None,
  extra: Float[Array, 'b l h columns'] | None = None,
  *,
  state: state_lib.State,
  inclusive: bool = True,
  end: End | None = None,
) -> tuple[Float[Array, 'b l h out'], state_lib.State]:
  """Query i sees kept keys 0..i of its segment; see `linear.causal`.

  Args:
    form: features and chunking.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.
    segment_ids: runs of equal ids.
    extra: one more array of rows, for `end`.
    state: sums over earlier keys.
    inclusive: whether a row sees its own key.
    end: turns rows, query features and `extra` of a chunk into outputs
      [b, h, l, ...]; None is `form.finish`.

  Returns:
    The outputs, and the state after the last key.
  """
  batch, length = q.shape[:2]
  size, sums = chunks.size(length, form.chunk), family(form)
  segments = None
  if segment_ids is not None:
    segments = segments_lib.chunked(segment_ids, key_mask, size)
  end = end or (lambda rows, features, _: form.finish(rows, features))

  @jax.checkpoint
  def step(state: state_lib.State, chunk: tuple) -> tuple:
    (*arrays, mask), extra, segments = chunk
    q, k, v, extra = chunks.rows((*arrays, extra), batch)
    queries = form.featurize_queries(q)
    view = segments_lib.View(mask, inclusive, segments)
    state, rows = sums.causal_chunk(
      state, queries, form.featurize_keys(k), v, view, form.dtype
    )
    return state, chunks.stack(end(rows, queries, extra))

  inputs = chunks.cut_inputs(q, k, v, key_mask, size)
  extra = None if extra is None else chunks.cut(extra, size)
  state, out = jax.lax.scan(step, state, (inputs, extra, segments))
  return chunks.join(out, batch, length), state
