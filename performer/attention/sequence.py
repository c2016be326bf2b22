"""Attention over sequences whose positions are split over devices.

Linear attention needs of other devices only their sums. Every device sums its
own keys into a state; the states, [b, h, v + 1, r] whatever the length, cross
the devices: all of them together for bidirectional attention, those of earlier
devices (a prefix sum of log2(n) rounds) for causal attention. Of packed
sequences travel the segments that are open at the borders. To be called inside
`jax.shard_map`.

Letters: b batch, l positions on this device, h heads, d width of a key, v of a
value, n devices.

Reference: arXiv:2009.14794, section B.1 (parallel prefix sums).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from performer.attention import calls
from performer.attention import favor as favor_lib
from performer.attention.kernels import structures
from performer.attention.sums import linear, segments
from performer.attention.sums import state as state_lib

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
  total, by = _shift(state, 1, axis_name), 1
  while by < count:
    total = state_lib.merge(_shift(total, by, axis_name), total)
    by *= 2
  return total


def _receive(x: Array, by: int, axis_name: str) -> Array:
  """The value of the device `by` places before; zeros if there is none."""
  count = jax.lax.axis_size(axis_name)
  pairs = [(i, i + by) for i in range(count) if 0 <= i + by < count]
  return jax.lax.ppermute(x, axis_name, pairs)


def _shift(state: state_lib.State, by: int, axis_name: str) -> state_lib.State:
  """The state of the device `by` places before; empty where there is none."""
  source = jax.lax.axis_index(axis_name) - by
  outside = (source < 0) | (source >= jax.lax.axis_size(axis_name))
  received = jax.tree.map(lambda x: _receive(x, by, axis_name), state)
  # A device without a sender receives zeros, and a c of 0 would mean a key.
  nothing = jnp.broadcast_to(outside, state.z.shape[:1])
  return state_lib.forget(received, nothing)


class _Run(NamedTuple):
  """The segment that is open at one end of a stretch of positions.

  Attributes:
    state: of its keys in the stretch.
    whole: whether it is all of the stretch.
    near: its id.
    far: id at the other end of the stretch.
  """

  state: state_lib.State
  whole: Bool[Array, 'b']
  near: Int[Array, 'b']
  far: Int[Array, 'b']


def _join(one: _Run, two: _Run) -> _Run:
  """The open segment of two neighbouring stretches, `two` at the open end."""
  goes_on = two.whole & (one.near == two.far)
  state = state_lib.merge(state_lib.forget(one.state, ~goes_on), two.state)
  return _Run(state, goes_on & one.whole, two.near, one.far)


def _open_before(own: _Run, axis_name: str, sign: int) -> state_lib.State:
  """The state of the segment that continues at the start of this device.

  Args:
    own: of this device, open towards the next.
    axis_name: the mesh axis that the positions are split over, in order.
    sign: 1, or -1 to go through the devices, and so `own`, from the last.

  Returns:
    The state; empty where a segment begins with the device.
  """

  def shift(run: _Run, by: int) -> _Run:
    # Where there is no device the state is empty, and no id matters.
    ids = [_receive(x, sign * by, axis_name) for x in run[1:]]
    return _Run(_shift(run.state, sign * by, axis_name), *ids)

  total, by = shift(own, 1), 1
  while by < jax.lax.axis_size(axis_name):
    total = _join(shift(total, by), total)
    by *= 2
  return state_lib.forget(total.state, total.near != own.far)


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
  segment_ids: Int[Array, 'b l'] | None = None,
) -> Float[Array, 'b l h v']:
  """Attention over the whole sequence, for this device's positions.

  Args:
    favor: the attention.
    q: queries, unscaled.
    k: keys.
    v: values.
    projection: result of `favor.draw`, the same on every device.
    causal: whether row i sees keys 0..i only.
    axis_name: the mesh axis that the positions are split over, in order.
    key_mask: True = keep.
    segment_ids: packed sequences; a segment may reach over several devices.

  Returns:
    Outputs in the dtype of v.

  Raises:
    ValueError: as the call of `favor`, and for what needs all keys at once:
      the reference stabiliser, softmax_oprf without a mean square.
  """
  calls.check_inputs(
    q, k, v, causal=causal, key_mask=key_mask, segment_ids=segment_ids
  )

  def summarize(keep: Array | None) -> state_lib.State:
    return favor.summarize(k, v, projection=projection, key_mask=keep)

  def earlier(sign: int) -> state_lib.State:
    if segment_ids is None:
      return before(summarize(key_mask), axis_name)
    own = _open_run(summarize, segment_ids, key_mask, sign)
    return _open_before(own, axis_name, sign)

  if causal:
    out, _ = favor.extend(
      q,
      k,
      v,
      projection=projection,
      key_mask=key_mask,
      segment_ids=segment_ids,
      state=earlier(1),
    )
    return out
  if segment_ids is None:
    state = everywhere(summarize(key_mask), axis_name)
    return favor.read(q, state, projection=projection).astype(v.dtype)
  out = linear.bidirectional(
    favor.form(projection, head_dim=q.shape[3], dtype=q.dtype),
    q,
    k,
    v,
    key_mask=key_mask,
    segment_ids=segment_ids,
    states=(earlier(1), earlier(-1)),
  )
  return out.astype(v.dtype)


def _open_run(
  summarize: Callable[[Array], state_lib.State],
  ids: Int[Array, 'b l'],
  key_mask: Bool[Array, 'b l'] | None,
  sign: int,
) -> _Run:
  """This device's last segment, or (sign -1) its first."""
  run = segments.runs(ids)
  last, first = (-1, 0) if sign > 0 else (0, -1)
  keep = run == run[:, last, None]
  state = summarize(keep if key_mask is None else keep & key_mask)
  return _Run(state, run[:, -1] == 0, ids[:, last], ids[:, first])
