"""Attention over sequences whose positions are split over devices.

Linear attention needs of other devices only their sums. Every device sums its
own keys into a state; the states, [b, h, v + 1, r] whatever the length, cross
the devices: all of them together for bidirectional attention, those of earlier
devices (a prefix sum of log2(n) rounds) for causal attention. To be called
inside `jax.shard_map`.

Letters: b batch, l positions on this device, h heads, d width of a key, v of a
value, n devices.

Reference: arXiv:2009.14794, section B.1 (parallel prefix sums).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention import checks, structures
from performer.attention import favor as favor_lib
from performer.attention import state as state_lib

__all__ = ['attend', 'before', 'everywhere']


def before(state: state_lib.State, axis_name: str) -> state_lib.State:
  """Sums the states of the devices before this one.

  Args:
    state: of this device's keys.
    axis_name: the mesh axis that the positions are split over, in order.

  Returns:
    The state of all earlier positions; empty on the first device.
  """
  count = jax.lax.axis_size(axis_name)
  index = jax.lax.axis_index(axis_name)

  def shift(state: state_lib.State, by: int) -> state_lib.State:
    pairs = [(i, i + by) for i in range(count - by)]
    received = jax.tree.map(
      lambda x: jax.lax.ppermute(x, axis_name, pairs), state
    )
    # Who receives nothing receives zeros, and a c of 0 stands for a key.
    nothing = jnp.broadcast_to(index < by, state.z.shape[:1])
    return state_lib.forget(received, nothing)

  total, by = shift(state, 1), 1
  while by < count:
    total = state_lib.merge(shift(total, by), total)
    by *= 2
  return total


def everywhere(state: state_lib.State, axis_name: str) -> state_lib.State:
  """Sums the states of all devices.

  Args:
    state: of this device's keys.
    axis_name: the mesh axis that the positions are split over.

  Returns:
    The state of all positions.
  """
  c = jax.lax.pmax(jax.lax.stop_gradient(state.c), axis_name)
  factor = jnp.exp(jax.lax.stop_gradient(state.c) - c)
  return state_lib.State(
    jax.lax.psum(state.S * factor[:, :, None], axis_name),
    jax.lax.psum(state.z * factor, axis_name),
    c,
  )


def attend(
  favor: favor_lib.Favor,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *,
  projection: structures.Projection | None,
  causal: bool,
  axis_name: str,
  key_mask: Bool[Array, 'b l'] | None = None,
) -> Float[Array, 'b l h v']:
  """What `favor` computes on the whole sequence, for this device's positions.

  Args:
    favor: the attention.
    q: queries, unscaled.
    k: keys.
    v: values.
    projection: what `favor.draw` returned, the same on every device.
    causal: whether row i sees keys 0..i only.
    axis_name: the mesh axis that the positions are split over, in order.
    key_mask: True = keep.

  Returns:
    Outputs in the dtype of v.

  Raises:
    ValueError: as the call of `favor`, and for what needs all keys at once:
      the reference stabiliser, softmax_oprf without a mean square.
  """
  checks.check_inputs(q, k, v, causal=causal, key_mask=key_mask)
  own = favor.summarize(k, v, projection=projection, key_mask=key_mask)
  if not causal:
    state = everywhere(own, axis_name)
    return favor.read(q, state, projection=projection).astype(v.dtype)
  out, _ = favor.extend(
    q,
    k,
    v,
    projection=projection,
    key_mask=key_mask,
    state=before(own, axis_name),
  )
  return out
