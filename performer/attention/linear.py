"""Linear attention, bidirectional and causal, as it is used.

Each function takes arrays as the model has them, [b, l, h, width], and scans
over chunks of positions. Features exist for one chunk at a time, in the forward
and in the backward pass, so memory is linear in the length with no [l, r]
buffer. `causal_forms` has three more ways to compute `causal`.

Letters: b batch, l positions, h heads, d width of a key, v of a value, r
features, n chunks.

Reference: arXiv:2009.14794, Algorithm 1 and section B.1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from performer.attention import chunks, kernels, log_forms
from performer.attention import form as form_lib
from performer.attention import segments as segments_lib
from performer.attention import state as state_lib

__all__ = ['bidirectional', 'causal', 'read', 'summarize']


def _block(form: form_lib.Form, length: int) -> int:
  """Positions at a time where no row looks at another.

  Several chunks, because larger products keep two cores busy and there is no
  chunk x chunk matrix that would grow; fewer where the sequence is short and
  one block would be most of the memory.
  """
  return chunks.size(length, form.chunk * (8 if length >= 2048 else 4))


def _explicit(
  features: Callable[[Array], kernels.Features],
  example: Float[Array, 'rows h d'],
  batch: int,
) -> tuple[log_forms.LogMap, tuple[Array, ...]]:
  """A log-feature map of a chunk, and the arrays that it closes over."""

  def log_features(x: Float[Array, 'rows h d']) -> Float[Array, 'b h l r']:
    values, weight = features(chunks.rows(x, batch))
    return values if weight is None else values + weight[..., None]

  converted, consts = jax.closure_convert(log_features, example)
  return converted, tuple(consts)


def _log_queries(
  form: form_lib.Form, q: Float[Array, 'n rows h d'], batch: int
) -> tuple[log_forms.LogMap, tuple[Array, ...]]:
  # Without the factor per row, which cancels.
  return _explicit(
    lambda q: kernels.Features(form.featurize_queries(q).values, None),
    q[0],
    batch,
  )


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
  k, v = chunks.clean(k, v, key_mask)
  batch, length = k.shape[:2]
  size = _block(form, length)
  mask = chunks.cut_mask(key_mask, length, size)
  keys = (chunks.cut(k, size), chunks.cut(v, size), mask)
  if form.log:
    log_keys, consts = _explicit(form.featurize_keys, keys[0][0], batch)
    empty = form.empty(v)
    return log_forms.summarize(log_keys, form.dtype, keys, empty, consts)

  # The sum itself stays outside the checkpoint: it is linear, so the backward
  # pass needs no copy of the state per chunk.
  @jax.checkpoint
  def summary(k: Array, v: Array, mask: Array | None) -> state_lib.State:
    features = form.featurize_keys(chunks.rows(k, batch))
    return form.family.summarize(
      features, chunks.rows(v, batch), mask, form.dtype
    )

  def absorb(
    state: state_lib.State, chunk: tuple
  ) -> tuple[state_lib.State, None]:
    return state_lib.merge(state, summary(*chunk)), None

  return jax.lax.scan(absorb, form.empty(v), keys)[0]


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
  if form.by_hand:
    log_queries, consts = _log_queries(form, queries, batch)
    state = chunks.vary_like(state, q)
    out = log_forms.read(log_queries, form.dtype, queries, state, consts)
    return chunks.join(out, batch, length)

  @jax.checkpoint
  def step(state: state_lib.State, q: Array) -> Array:
    features = form.featurize_queries(chunks.rows(q, batch))
    rows = form.family.read(state, features, form.dtype)
    return chunks.stack(form.finish(rows, features))

  _, out = jax.lax.scan(lambda s, q: (s, step(s, q)), state, queries)
  return chunks.join(out, batch, length)


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
  before, behind = states or (None, None)
  earlier, _ = _causal(
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
    rows: state_lib.Readout, features: kernels.Features, earlier: Array
  ) -> Array:
    return form.finish(
      state_lib.merge_readouts(rows, _unpack(earlier)), features
    )

  out, _ = _causal(form, *flipped, state=behind, inclusive=False, end=merge)
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
  if segment_ids is None and form.by_hand:
    return _causal_by_hand(form, q, k, v, key_mask, state)
  return _causal(form, q, k, v, key_mask, segment_ids, state=state)


def _causal_by_hand(
  form: form_lib.Form,
  q: Array,
  k: Array,
  v: Array,
  key_mask: Array | None,
  state: state_lib.State | None,
) -> tuple[Float[Array, 'b l h v'], state_lib.State]:
  batch, length = q.shape[:2]
  size = chunks.size(length, form.chunk)
  k, v = chunks.clean(k, v, key_mask)
  q, k, v = (chunks.cut(x, size) for x in (q, k, v))
  mask = chunks.cut_mask(key_mask, length, size)
  log_queries, query_consts = _log_queries(form, q, batch)
  log_keys, key_consts = _explicit(form.featurize_keys, k[0], batch)
  if state is None:
    state = form.empty(chunks.join(v, batch, length))
  out, state = log_forms.causal(
    log_queries,
    log_keys,
    form.dtype,
    (q, k, v, mask),
    chunks.vary_like(state, q),
    (query_consts, key_consts),
  )
  return chunks.join(out, batch, length), state


def _causal(
  form: form_lib.Form,
  q: Array,
  k: Array,
  v: Array,
  key_mask: Array | None,
  segment_ids: Array | None,
  extra: Array | None = None,
  *,
  state: state_lib.State | None = None,
  inclusive: bool = True,
  end: Callable[..., Array] | None = None,
) -> tuple[Float[Array, 'b l h v'], state_lib.State]:
  """Any form, differentiated automatically.

  Args:
    form: features and chunking.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.
    segment_ids: runs of equal ids.
    extra: one more array of rows, [b, l, h, ...], for `end`.
    state: sums over earlier keys.
    inclusive: whether a row sees its own key.
    end: turns rows, query features and `extra` of a chunk into outputs
      [b, h, l, ...]; None is `form.finish`.

  Returns:
    The outputs, [b, l, h, ...], and the state after the last key.
  """
  batch, length = q.shape[:2]
  size = chunks.size(length, form.chunk)
  k, v = chunks.clean(k, v, key_mask)
  segments = None
  if segment_ids is not None:
    segments = segments_lib.chunked(segment_ids, key_mask, size)
  end = end or (lambda rows, features, _: form.finish(rows, features))

  @jax.checkpoint
  def step(state: state_lib.State, chunk: tuple) -> tuple:
    (q, k, v, extra), mask, segments = chunk
    rows = [None if x is None else chunks.rows(x, batch) for x in (k, v, extra)]
    queries = form.featurize_queries(chunks.rows(q, batch))
    state, read = form.family.causal_chunk(
      state,
      queries,
      form.featurize_keys(rows[0]),
      rows[1],
      mask,
      form.dtype,
      segments,
      inclusive,
    )
    return state, chunks.stack(end(read, queries, rows[2]))

  arrays = [
    None if x is None else chunks.cut(x, size) for x in (q, k, v, extra)
  ]
  mask = chunks.cut_mask(key_mask, length, size)
  if state is None:
    state = form.empty(v)
  state, out = jax.lax.scan(step, state, (arrays, mask, segments))
  return chunks.join(out, batch, length), state
