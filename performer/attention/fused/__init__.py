"""Fused attention for GPUs: features are never written to memory.

The same sums as `sums.linear`, as Pallas kernels for Triton: bidirectional and
causal, forward and backward. At bfloat16 linear attention is bound by memory
traffic. In units of one array of l d values (all of q, k, v and the output), a
forward pass must move 4 (reads q, k, v, writes the output) and a backward pass
8 (reads q, k, v, g and the output, writes dq, dk, dv). These kernels move

  bidirectional: 4 forward (`summarize` 2, `read` 2),
    9 backward (D 2, `rows` 3, `keys` 4);
  causal: 6 forward (`summarize` 2, `causal` 4),
    14 backward (D 2, sums of rows 2, `rows` 5, `keys` 6, less what caches
    keep),

and beside these, per row and head, 8 bytes of normalisers and D, 4 r / chunk of
units, and 4 r (v + 2) / group of states per pass.

Where a key exceeds its chunk's reference by more than the exponents allow, the
causal form falls back on another one, for the whole call; so with this form the
last bits of a row may depend on whether a later key made that happen.

The projection is a constant here: its gradient is 0.

Letters: b batch, h heads, l positions, d width of a key, v of a value, m rows
of the projection, s features per row of it, r = s m, g groups.

Reference: arXiv:2009.14794, Algorithm 1 and section B.1.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention.fused import backward as fused_backward
from performer.attention.fused import causal_backward as fused_causal_backward
from performer.attention.fused import forward as fused_forward
from performer.attention.fused import launch as fused_launch
from performer.attention.fused import maths as fused_math
from performer.attention.sums import log
from performer.attention.sums import state as state_lib

__all__ = [
  'FASTER_ON',
  'GROUP',
  'Fallback',
  'Plan',
  'bidirectional',
  'causal',
]

Plan = fused_launch.Plan

# Any causal form, (q, k, v, projection, key_mask) -> outputs, a hashable pure
# function.
Fallback = Callable[..., Float[Array, 'b l h v']]

# Kinds of device (`jax.Device.device_kind`) on which `implementation='auto'`
# takes these kernels. Empty because none was measured. To add one, run
# python -m benchmarks attention on it with both implementations.
FASTER_ON: frozenset[str] = frozenset()

# Positions per program: fewer states in memory, or more programs at a time.
GROUP = 1024


def bidirectional(
  plan: Plan,
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  projection: Float[Array, 'm d'],
  *,
  key_mask: Bool[Array, 'b lk'] | None = None,
) -> Float[Array, 'b lq h v']:
  """Every query sees every kept key.

  Args:
    plan: constants of the kernels.
    q: queries, float32 or bfloat16.
    k: keys, of the same dtype.
    v: values.
    projection: W, float32, whose gradient is 0.
    key_mask: True = keep.

  Returns:
    Outputs in the dtype of v; 0 where no key is kept.

  Reference: arXiv:2009.14794, Algorithm 1.
  """
  w = fused_math.split(jax.lax.stop_gradient(projection), q.dtype)
  return _bidirectional(plan, q, k, v, _keep(plan, k, key_mask), w)


def causal(
  plan: Plan,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  projection: Float[Array, 'm d'],
  *,
  fallback: Fallback,
  key_mask: Bool[Array, 'b l'] | None = None,
) -> Float[Array, 'b l h v']:
  """Query i sees the kept keys among 0..i.

  Args:
    plan: constants of the kernels.
    q: queries, float32 or bfloat16.
    k: keys, of the same dtype.
    v: values.
    projection: W, float32, whose gradient is 0.
    fallback: right at any scale; computes the call where these kernels are
      not.
    key_mask: True = keep.

  Returns:
    Outputs in the dtype of v; 0 where no key is seen.

  Reference: arXiv:2009.14794, section B.1.
  """
  projection = jax.lax.stop_gradient(projection)
  return _causal(plan, fallback, q, k, v, key_mask, projection)


def _keep(plan: Plan, k: Array, key_mask: Array | None) -> fused_math.Keep:
  """The mask as integers, with zeros to the end of the last group."""
  batch, length = k.shape[:2]
  if key_mask is None:
    key_mask = jnp.ones((batch, length), bool)
  pad = -length % plan.group
  return jnp.pad(key_mask, ((0, 0), (0, pad))).astype(jnp.int8)


def _delta(g: Array, out: Array) -> Float[Array, 'b h l']:
  product = g.astype(jnp.float32) * out.astype(jnp.float32)
  return jnp.sum(product, axis=-1).swapaxes(1, 2)


def _total(states: state_lib.State) -> state_lib.State:
  """The sum of the groups' states, with one group."""
  c = jnp.max(states.c, axis=2, keepdims=True)
  factor = jnp.exp(states.c - c)
  scaled = states.S * factor[..., None, :], states.z * factor
  return state_lib.State(*(jnp.sum(x, 2, keepdims=True) for x in scaled), c)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bidirectional(
  plan: Plan, q: Array, k: Array, v: Array, keep: Array, w: Array
) -> Float[Array, 'b lq h v']:
  return _bidirectional_forward(plan, q, k, v, keep, w)[0]


def _bidirectional_forward(
  plan: Plan, q: Array, k: Array, v: Array, keep: Array, w: Array
) -> tuple:
  state = _total(fused_forward.summarize(plan, k, v, keep, w))
  out, norm = fused_forward.read(plan, q, state, w, v.dtype)
  return out, (q, k, v, keep, w, state, out, norm)


def _bidirectional_backward(plan: Plan, kept: tuple, g: Array) -> tuple:
  q, k, v, keep, w, state, out, norm = kept
  sums, dq = fused_backward.rows(
    plan, q, g, _delta(g, out), norm, state.c, w, state
  )
  sums = tuple(jnp.sum(x, axis=2, keepdims=True) for x in sums)
  dk, dv = fused_backward.keys(plan, k, v, keep, state.c, sums, w)
  return dq, dk, dv, None, jnp.zeros_like(w)


_bidirectional.defvjp(_bidirectional_forward, _bidirectional_backward)


def _before(states: state_lib.State) -> tuple[state_lib.State, Array]:
  """States before each group, and c after each."""
  after = jax.lax.associative_scan(state_lib.merge, states, axis=2)

  def shift(x: Array, fill: float) -> Array:
    first = jnp.full_like(x[:, :, :1], fill)
    return jnp.concatenate([first, x[:, :, :-1]], axis=2)

  before = state_lib.State(
    shift(after.S, 0.0), shift(after.z, 0.0), shift(after.c, state_lib.NO_KEY)
  )
  return before, after.c


def _following(
  plan: Plan, sums: fused_math.Sums, units: Array
) -> tuple[fused_math.Sums, Array]:
  """Sums over the rows of all groups after each, and their units.

  Args:
    plan: constants.
    sums: T and t of each group, in units of its first chunk.
    units: of each chunk.

  Returns:
    T, t, in units of the first chunk of the next group; that unit.
  """
  first = units[:, :, :: plan.chunks]

  def add(later: tuple, earlier: tuple) -> tuple:
    factor = jnp.exp(earlier[2] - later[2])
    return (
      earlier[0] + later[0] * factor[..., None, :],
      earlier[1] + later[1] * factor,
      earlier[2],
    )

  scanned = jax.lax.associative_scan(add, (*sums, first), axis=2, reverse=True)
  big, small = (
    jnp.concatenate([x[:, :, 1:], jnp.zeros_like(x[:, :, :1])], axis=2)
    for x in scanned[:2]
  )
  # The sums after the last group are 0 in any unit.
  return (big, small), jnp.concatenate(
    [first[:, :, 1:], units[:, :, -1:]], axis=2
  )


def _within_limit(plan: Plan, units: Array, last: Array) -> Bool[Array, '']:
  """Whether no key exceeds its chunk's unit by more than its dtype allows.

  The unit after a chunk is the greatest of its unit and its keys.
  """
  after = jnp.concatenate([units[:, :, 1:], last[:, :, -1:]], axis=2)
  excess = jnp.where(state_lib.has_key(units), after - units, 0.0)
  return jnp.max(excess) <= log.exponent_limit(plan.dtype)


def _other(
  fallback: Fallback,
  q: Array,
  k: Array,
  v: Array,
  projection: Array,
  key_mask: Array | None,
) -> Float[Array, 'b l h v']:
  """The call where the kernels are not right, in float32."""
  arrays = (x.astype(jnp.float32) for x in (q, k, v))
  return fallback(*arrays, projection, key_mask).astype(v.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _causal(
  plan: Plan,
  fallback: Fallback,
  q: Array,
  k: Array,
  v: Array,
  key_mask: Array | None,
  projection: Array,
) -> Float[Array, 'b l h v']:
  return _causal_forward(plan, fallback, q, k, v, key_mask, projection)[0]


def _causal_forward(
  plan: Plan,
  fallback: Fallback,
  q: Array,
  k: Array,
  v: Array,
  key_mask: Array | None,
  projection: Array,
) -> tuple:
  w = fused_math.split(projection, q.dtype)
  keep = _keep(plan, k, key_mask)
  before, last = _before(fused_forward.summarize(plan, k, v, keep, w))
  out, norm, units = fused_forward.causal(plan, q, k, v, keep, before, w)
  within = _within_limit(plan, units, last)
  out = jax.lax.cond(
    within,
    lambda: out,
    lambda: _other(fallback, q, k, v, projection, key_mask),
  )
  kept = q, k, v, key_mask, projection, out, norm, units, before, within
  return out, kept


def _causal_backward(
  plan: Plan, fallback: Fallback, kept: tuple, g: Array
) -> tuple:
  q, k, v, key_mask, projection, *rest, within = kept

  def other() -> tuple:
    def call(q: Array, k: Array, v: Array) -> Array:
      return _other(fallback, q, k, v, projection, key_mask)

    return jax.vjp(call, q, k, v)[1](g)

  inputs = q, k, v, _keep(plan, k, key_mask)
  w = fused_math.split(projection, q.dtype)
  dq, dk, dv = jax.lax.cond(
    within, lambda: _fused_backward(plan, inputs, w, rest, g), other
  )
  return dq, dk, dv, None, jnp.zeros_like(projection)


def _fused_backward(
  plan: Plan, inputs: tuple, w: Array, kept: Any, g: Array
) -> tuple[Array, Array, Array]:
  out, norm, units, before = kept
  delta = _delta(g, out)
  first = units[:, :, :: plan.chunks]
  sums, _ = fused_backward.rows(plan, inputs[0], g, delta, norm, first, w)
  sums, following = _following(plan, sums, units)
  dq = fused_causal_backward.rows(
    plan, inputs, g, delta, norm, units, before, w
  )
  dk, dv = fused_causal_backward.keys(
    plan, inputs, g, delta, norm, units, following, sums, w
  )
  return dq, dk, dv


_causal.defvjp(_causal_forward, _causal_backward)
