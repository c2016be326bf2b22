"""Other forms of causal attention: by positions, by prefix sums, by splitting.

They compute what `linear.causal` computes, each by its own way of adding keys
up, and are differentiated automatically. Slow or large, they are its meaning
and its tests.

Letters: b batch, l positions, h heads, d width of a key, v of a value, r
features.

Reference: arXiv:2009.14794, section B.1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention.sums import automatic, chunks
from performer.attention.sums import features as features_lib
from performer.attention.sums import form as form_lib
from performer.attention.sums import state as state_lib

__all__ = ['causal_prefix', 'causal_scan', 'causal_split']


def _groups(
  form: form_lib.Form, q: Array, k: Array, v: Array, key_mask: Array | None
) -> tuple[
  features_lib.Features, features_lib.Features, Array, Bool[Array, 'b l']
]:
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
    summary = automatic.family(form).summarize(keys, v, mask, form.dtype)
    state = state_lib.merge(state, summary)
    rows = automatic.family(form).read(state, queries, form.dtype)
    return state, form.finish(rows, queries)

  def positions(x: Array) -> Array:
    return jnp.moveaxis(x[:, :, :, None], 2, 0)

  xs = (*jax.tree.map(positions, (queries, keys, values)), mask.T[..., None])
  if state is None:
    state = state_lib.empty(v[:, 0], form.features, v.shape[-1], form.log)
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
  `sequence.before`.

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
    lambda keys, v, mask: automatic.family(form).summarize(
      keys, v, mask, form.dtype
    )
  )
  states = summarize_one(
    jax.tree.map(each, keys), each(values), mask.T[..., None]
  )
  states = jax.lax.associative_scan(state_lib.merge, states)

  def step(state: state_lib.State, queries: features_lib.Features) -> Array:
    return form.finish(
      automatic.family(form).read(state, queries, form.dtype), queries
    )

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
  queries: features_lib.Features,
  keys: features_lib.Features,
  v: Float[Array, 'b h l v'],
  mask: Bool[Array, 'b l'],
  blocks: int,
  parts: int,
) -> state_lib.Readout:
  """The sums that the last part of each block reads from the first part.

  With one part each position reads itself; with two, right halves read left
  halves, and left halves nothing.
  """

  def part(x: Array, index: int, axis: int) -> Array:
    shape = (*x.shape[:axis], blocks, parts, -1, *x.shape[axis + 1 :])
    x = jnp.take(x.reshape(shape), index, axis=axis + 1)
    return jnp.moveaxis(x, axis, 0)

  def read(
    queries: features_lib.Features,
    keys: features_lib.Features,
    v: Array,
    mask: Array,
  ) -> state_lib.Readout:
    state = automatic.family(form).summarize(keys, v, mask, form.dtype)
    return automatic.family(form).read(state, queries, form.dtype)

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
