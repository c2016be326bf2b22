"""Another form of causal attention: one position at a time.

It computes what `linear.causal` computes, and is differentiated automatically.

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


def _groups(
  form: form_lib.Form, q: Array, k: Array, v: Array, key_mask: Array | None
) -> tuple[
  features_lib.Features, features_lib.Features, Array, Bool[Array, 'b l']
]:
  """Features of all positions at once, for the form below."""
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
