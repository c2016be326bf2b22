"""Linear attention over direct (possibly signed) features.

Same interface as `log_family`. A kernel may give each key a factor exp(w_j)
(trigonometric features: w_j = |y_j|^2 / 2); it is scaled by the running
maximum of w over the keys that a row sees. Signed features admit no scaling
per feature, so denominators can be small, zero or negative.

Letters as in `log_family`.

Reference: arXiv:2009.14794, Eq. 4 and section B.1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention import kernels, precision
from performer.attention import segments as segments_lib
from performer.attention import state as state_lib

__all__ = ['PER_FEATURE', 'causal_chunk', 'read', 'summarize']

PER_FEATURE = False


def _masked(
  keys: kernels.Features, mask: Bool[Array, '#b j'] | None
) -> kernels.Features:
  values, weight = keys
  if mask is None:
    return keys
  values = jnp.where(mask[:, None, :, None], values, 0.0)
  if weight is not None:
    weight = jnp.where(mask[:, None, :], weight, -jnp.inf)
  return kernels.Features(values, weight)


def summarize(
  keys: kernels.Features,
  v: Float[Array, 'b h j v'],
  mask: Bool[Array, '#b j'] | None,
  dtype: jnp.dtype,
) -> state_lib.State:
  """Sums a run of keys into a state; see `log_family.summarize`."""
  return _summarize(_masked(keys, mask), v, dtype)


def _summarize(
  keys: kernels.Features, v: Float[Array, 'b h j v'], dtype: jnp.dtype
) -> state_lib.State:
  values, weight = keys
  c = jnp.zeros_like(values[:, :, 0, :1])
  if weight is not None:
    c = jnp.max(weight, axis=-1, initial=state_lib.NO_KEY, keepdims=True)
    c = jax.lax.stop_gradient(c)
    values = values * jnp.exp(weight - c)[..., None]
  values = values.astype(dtype)
  return state_lib.State(
    precision.dot('bhjv,bhjr->bhvr', v, values),
    jnp.sum(values, axis=-2, dtype=precision.wide(values)),
    c,
  )


def read(
  state: state_lib.State, queries: kernels.Features, dtype: jnp.dtype
) -> state_lib.Readout:
  """Reads rows from a state; see `log_family.read`."""
  values = queries.values.astype(dtype)
  return state_lib.Readout(
    precision.dot('bhir,bhvr->bhiv', values, state.S),
    precision.dot('bhir,bhr->bhi', values, state.z),
    jnp.broadcast_to(state.c, values.shape[:3]),
  )


def causal_chunk(
  state: state_lib.State,
  queries: kernels.Features,
  keys: kernels.Features,
  v: Float[Array, 'b h j v'],
  mask: Bool[Array, '#b j'] | None,
  dtype: jnp.dtype,
  segments: segments_lib.Segments | None = None,
  inclusive: bool = True,
) -> tuple[state_lib.State, state_lib.Readout]:
  """Attends causally; see `log_family.causal_chunk`. Needs no second form."""
  keys = _masked(keys, mask)
  after = _after(state, keys, v, dtype, segments)
  history = read(state, queries, dtype)
  if segments is not None:
    history = state_lib.keep(history, segments.carried)
  visible = segments_lib.visible(v.shape[2], segments, inclusive=inclusive)
  weights = precision.dot(
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
  within = state_lib.Readout(
    precision.dot('bhij,bhjv->bhiv', weights, v),
    jnp.sum(weights, axis=-1),
    scale,
  )
  return after, state_lib.merge_readouts(history, within)


def _after(
  state: state_lib.State,
  keys: kernels.Features,
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
  chunk = _summarize(kernels.Features(values, weight), v, dtype)
  return state_lib.merge(
    state_lib.forget(state, ~segments.carried[:, -1]), chunk
  )
