"""Linear attention over direct (possibly signed) features.

Same interface as `log`. A kernel may give each key a factor exp(w_j)
(trigonometric features: w_j = |y_j|^2 / 2); it is scaled by the running
maximum of w over the keys that a row sees. Signed features admit no scaling
per feature, so denominators can be small, zero or negative.

Letters as in `log`.

Reference: arXiv:2009.14794, Eq. 4 and section B.1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention.sums import features as features_lib
from performer.attention.sums import log
from performer.attention.sums import segments as segments_lib
from performer.attention.sums import state as state_lib

__all__ = ['causal_chunk', 'read', 'summarize']


def _masked(
  keys: features_lib.Features, mask: Bool[Array, '#b j'] | None
) -> features_lib.Features:
  values, weight = keys
  if mask is None:
    return keys
  values = jnp.where(mask[:, None, :, None], values, 0.0)
  if weight is not None:
    weight = jnp.where(mask[:, None, :], weight, -jnp.inf)
  return features_lib.Features(values, weight)


def summarize(
  keys: features_lib.Features,
  v: Float[Array, 'b h j v'],
  mask: Bool[Array, '#b j'] | None,
  dtype: jnp.dtype,
) -> state_lib.State:
  """Sums a run of keys into a state; see `log.summarize`."""
  return _summarize(_masked(keys, mask), v, dtype)


def _summarize(
  keys: features_lib.Features, v: Float[Array, 'b h j v'], dtype: jnp.dtype
) -> state_lib.State:
  values, weight = keys
  c = jnp.zeros_like(values[:, :, 0, :1])
  if weight is not None:
    c = jnp.max(weight, axis=-1, initial=state_lib.NO_KEY, keepdims=True)
    c = jax.lax.stop_gradient(c)
    values = values * jnp.exp(weight - c)[..., None]
  return state_lib.add_up(values.astype(dtype), v, c)


def read(
  state: state_lib.State, queries: features_lib.Features, dtype: jnp.dtype
) -> state_lib.Readout:
  """Reads rows from a state; see `log.read`."""
  values = queries.values.astype(dtype)
  scale = jnp.broadcast_to(state.c, values.shape[:3])
  return state_lib.read(state, values, scale)


def causal_chunk(
  state: state_lib.State,
  queries: features_lib.Features,
  keys: features_lib.Features,
  v: Float[Array, 'b h j v'],
  view: segments_lib.View,
  dtype: jnp.dtype,
) -> tuple[state_lib.State, state_lib.Readout]:
  """Attends causally; see `log.causal_chunk`. Needs no second form."""
  keys, segments = _masked(keys, view.keep), view.segments
  after = _after(state, keys, v, dtype, segments)
  history = read(state, queries, dtype)
  if segments is not None:
    history = state_lib.keep(history, segments.carried)
  visible = log.visible(view, v.shape[2])
  weights = state_lib.dot(
    'bhir,bhjr->bhij',
    queries.values.astype(dtype),
    keys.values.astype(dtype),
  )
  if keys.log_weight is None:
    scale = jnp.zeros_like(history.log_scale)
  else:
    # Masked before exp: the exponent of an invisible key may overflow, and its
    # gradient with it.
    exponent = jnp.where(visible, keys.log_weight[:, :, None, :], -jnp.inf)
    scale = jnp.maximum(jnp.max(exponent, axis=-1), history.log_scale)
    scale = jax.lax.stop_gradient(scale)
    weights *= jnp.exp(exponent - scale[..., None])
  weights = jnp.where(visible, weights, 0.0)
  near = state_lib.weigh(weights, v, scale)
  return after, state_lib.merge_readouts(history, near)


def _after(
  state: state_lib.State,
  keys: features_lib.Features,
  v: Float[Array, 'b h j v'],
  dtype: jnp.dtype,
  segments: segments_lib.Segments | None,
) -> state_lib.State:
  """The state after the chunk: of the segment open at its end."""
  if segments is None:
    return state_lib.merge(state, _summarize(keys, v, dtype))
  values, weight = keys
  values = jnp.where(segments.last[:, None, :, None], values, 0.0)
  if weight is not None:
    weight = jnp.where(segments.last[:, None], weight, -jnp.inf)
  chunk = _summarize(features_lib.Features(values, weight), v, dtype)
  return state_lib.merge(
    state_lib.forget(state, ~segments.carried[:, -1]), chunk
  )
