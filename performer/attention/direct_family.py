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

from performer.attention import kernels
from performer.attention import state as state_lib

__all__ = ['PER_FEATURE', 'causal_chunk', 'read', 'summarize']

PER_FEATURE = False


def _dot(form: str, *operands: Array) -> Array:
  return jnp.einsum(form, *operands, preferred_element_type=jnp.float32)


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
    _dot('bhjr,bhjv->bhrv', values, v),
    jnp.sum(values, axis=-2, dtype=jnp.float32),
    c,
  )


def read(
  state: state_lib.State, queries: kernels.Features, dtype: jnp.dtype
) -> state_lib.Readout:
  """Reads rows from a state; see `log_family.read`."""
  values = queries.values.astype(dtype)
  return state_lib.Readout(
    _dot('bhir,bhrv->bhiv', values, state.S),
    _dot('bhir,bhr->bhi', values, state.z),
    jnp.broadcast_to(state.c, values.shape[:3]),
  )


def causal_chunk(
  state: state_lib.State,
  queries: kernels.Features,
  keys: kernels.Features,
  v: Float[Array, 'b h j v'],
  mask: Bool[Array, '#b j'] | None,
  dtype: jnp.dtype,
) -> tuple[state_lib.State, state_lib.Readout]:
  """Attends causally; see `log_family.causal_chunk`. Needs no second form."""
  keys = _masked(keys, mask)
  after = state_lib.merge(state, _summarize(keys, v, dtype))
  history = read(state, queries, dtype)
  weights = _dot(
    'bhir,bhjr->bhij',
    queries.values.astype(dtype),
    keys.values.astype(dtype),
  )
  visible = jnp.tri(v.shape[2], dtype=bool)
  if keys.log_weight is None:
    scale = jnp.zeros_like(history.log_scale)
  else:
    scale = jax.lax.stop_gradient(
      jnp.maximum(jax.lax.cummax(keys.log_weight, axis=2), state.c)
    )
    exponent = keys.log_weight[:, :, None, :] - scale[..., None]
    # Masked before exp: the exponent of a later key may overflow, and its
    # gradient with it.
    weights *= jnp.exp(jnp.where(visible, exponent, -jnp.inf))
  weights = jnp.where(visible, weights, 0.0)
  within = state_lib.Readout(
    _dot('bhij,bhjv->bhiv', weights, v), jnp.sum(weights, axis=-1), scale
  )
  return after, state_lib.merge_readouts(history, within)
