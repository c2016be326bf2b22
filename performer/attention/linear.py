"""Forms of linear attention: bidirectional, and five equal causal ones.

Each form takes arrays as the model has them, [b, l, h, width], and scans over
chunks of positions. Features exist for one chunk at a time, in the forward and
in the backward pass, so memory is linear in the length with no [l, r] buffer.

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

__all__ = [
  'bidirectional',
  'causal',
  'causal_prefix',
  'causal_scan',
  'causal_split',
  'read',
  'summarize',
]


# Chunks at a time where no row looks at another: larger products keep two cores
# busy, and there is no chunk x chunk matrix that would grow.
_BLOCK = 8


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
  size = chunks.size(length, _BLOCK * form.chunk)
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
    state: what `summarize` returned, with the same form.

  Returns:
    Outputs, float32.
  """
  batch, length = q.shape[:2]
  queries = chunks.cut(q, chunks.size(length, _BLOCK * form.chunk))
  if form.by_hand:
    log_queries, consts = _log_queries(form, queries, batch)
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

  Returns:
    Outputs, float32.

  Reference: arXiv:2009.14794, Algorithm 1 (bidirectional).
  """
  if segment_ids is None:
    return read(form, q, summarize(form, k, v, key_mask=key_mask))
  earlier = _causal(
    form, q, k, v, key_mask, segment_ids, end=lambda rows, *_: _pack(rows)
  )[0]
  # From the other end every query reads what is strictly behind it.
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

  out, _ = _causal(form, *flipped, inclusive=False, end=merge)
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
    state,
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


def _groups(
  form: form_lib.Form, q: Array, k: Array, v: Array, key_mask: Array | None
) -> tuple[kernels.Features, kernels.Features, Array, Bool[Array, 'b l']]:
  """Features of all positions at once, for the small forms below."""
  k, v = chunks.clean(k, v, key_mask)
  if key_mask is None:
    key_mask = jnp.ones(k.shape[:2], bool)
  q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
  return form.featurize_queries(q), form.featurize_keys(k), v, key_mask


def causal_scan(
  form: form_lib.Form,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *,
  key_mask: Bool[Array, 'b l'] | None = None,
  state: state_lib.State | None = None,
) -> tuple[Float[Array, 'b l h v'], state_lib.State]:
  """The same as `causal`, one position at a time.

  Slow, and its backward pass keeps a state per position: it is the meaning of
  `causal`, for tests.

  Args:
    form: features; its chunk is not used.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.
    state: sums over earlier keys; None for none.

  Returns:
    Outputs, float32, and the state after the last key.
  """
  queries, keys, values, mask = _groups(form, q, k, v, key_mask)

  def step(
    state: state_lib.State, position: tuple
  ) -> tuple[state_lib.State, Array]:
    queries, keys, v, mask = position
    summary = form.family.summarize(keys, v, mask, form.dtype)
    state = state_lib.merge(state, summary)
    rows = form.family.read(state, queries, form.dtype)
    return state, form.finish(rows, queries)

  def positions(x: Array) -> Array:
    return jnp.moveaxis(x[:, :, :, None], 2, 0)

  xs = (*jax.tree.map(positions, (queries, keys, values)), mask.T[..., None])
  if state is None:
    state = form.empty(v)
  state, out = jax.lax.scan(step, state, xs)
  return jnp.moveaxis(out[:, :, :, 0], 0, 1), state


def causal_prefix(
  form: form_lib.Form,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *,
  key_mask: Bool[Array, 'b l'] | None = None,
) -> Float[Array, 'b l h v']:
  """The same as `causal`, by a parallel prefix sum over positions.

  O(log l) deep, but it holds a state per position, [l, r, v]: for short
  sequences and for tests. Over the states of devices the same sum is
  `sequence.causal`.

  Args:
    form: features; its chunk is not used.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.

  Returns:
    Outputs, float32.

  Reference: arXiv:2009.14794, section B.1.
  """
  queries, keys, values, mask = _groups(form, q, k, v, key_mask)

  def each(x: Array) -> Array:
    return jnp.moveaxis(x[:, :, :, None], 2, 0)

  summarize_one = jax.vmap(
    lambda keys, v, mask: form.family.summarize(keys, v, mask, form.dtype)
  )
  states = summarize_one(
    jax.tree.map(each, keys), each(values), mask.T[..., None]
  )
  states = jax.lax.associative_scan(state_lib.merge, states)

  def step(state: state_lib.State, queries: kernels.Features) -> Array:
    return form.finish(form.family.read(state, queries, form.dtype), queries)

  out = jax.vmap(step)(states, jax.tree.map(each, queries))
  return jnp.moveaxis(out[:, :, :, 0], 0, 1)


def causal_split(
  form: form_lib.Form,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *,
  key_mask: Bool[Array, 'b l'] | None = None,
) -> Float[Array, 'b l h v']:
  """The same as `causal`, by binary splitting of the whole sequence.

  The right half of every block of 2, 4, 8, ... positions reads the left half
  as one group. O(l log l), right at any scale: the safe path of `causal`
  within a chunk, here without chunks.

  Args:
    form: features; its chunk is not used.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.

  Returns:
    Outputs, float32.
  """
  length = q.shape[1]
  size = 1 << (length - 1).bit_length()
  if key_mask is None:
    key_mask = jnp.ones((q.shape[0], length), bool)
  pad = ((0, 0), (0, size - length))
  arrays = [jnp.pad(x, (*pad, (0, 0), (0, 0))) for x in (q, k, v)]
  queries, keys, values, mask = _groups(form, *arrays, jnp.pad(key_mask, pad))
  rows = _level(form, queries, keys, values, mask, size, 1)
  block = 2
  while block <= size:
    left = _level(form, queries, keys, values, mask, size // block, 2)
    rows = state_lib.merge_readouts(rows, left)
    block *= 2
  out = form.finish(rows, queries)[:, :, :length]
  return out.swapaxes(1, 2)


def _level(
  form: form_lib.Form,
  queries: kernels.Features,
  keys: kernels.Features,
  v: Float[Array, 'b h l v'],
  mask: Bool[Array, 'b l'],
  blocks: int,
  parts: int,
) -> state_lib.Readout:
  """What the last part of each block reads from the first one.

  With one part each position reads itself; with two, right halves read left
  halves, and left halves nothing.
  """

  def part(x: Array, index: int, axis: int) -> Array:
    shape = (*x.shape[:axis], blocks, parts, -1, *x.shape[axis + 1 :])
    x = jnp.take(x.reshape(shape), index, axis=axis + 1)
    return jnp.moveaxis(x, axis, 0)

  def read(
    queries: kernels.Features, keys: kernels.Features, v: Array, mask: Array
  ) -> state_lib.Readout:
    state = form.family.summarize(keys, v, mask, form.dtype)
    return form.family.read(state, queries, form.dtype)

  rows = jax.vmap(read)(
    jax.tree.map(lambda x: part(x, parts - 1, 2), queries),
    jax.tree.map(lambda x: part(x, 0, 2), keys),
    part(v, 0, 2),
    part(mask, 0, 1),
  )

  def whole(x: Array, fill: float) -> Array:
    x = jnp.moveaxis(x, 0, 2)[:, :, :, None]
    if parts == 2:
      x = jnp.concatenate([jnp.full_like(x, fill), x], axis=3)
    return x.reshape(*x.shape[:2], v.shape[2], *x.shape[5:])

  return state_lib.Readout(
    whole(rows.numerator, 0.0),
    whole(rows.denominator, 0.0),
    whole(rows.log_scale, state_lib.NO_KEY),
  )
