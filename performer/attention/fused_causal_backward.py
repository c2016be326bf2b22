"""Fused backward kernels of causal attention: one walk forward, one back.

The formulas are those of `fused_backward`. `rows` walks the chunks of a group
forward, building S and z again from the state before the group, and writes dq;
`keys` walks them backward, carrying T and t from those of the groups after, and
writes dk and dv. Both take the unit of every chunk from the forward pass.

Letters as in `fused_forward`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention import fused_backward, fused_forward, fused_math
from performer.attention import state as state_lib

__all__ = ['keys', 'rows']

Plan = fused_math.Plan
Spec = fused_forward.Spec


def _visible(plan: Plan) -> Array:
  order = jax.lax.broadcasted_iota(jnp.int32, (plan.chunk,), 0)
  return order[:, None] >= order[None]


def _weight_cotangents(
  plan: Plan, g: Array, v: Array, delta: Array
) -> Float[Array, 'i j']:
  dweights = fused_math.dot(g, v, plan.dtype, contract=(1, 1))
  return jnp.where(_visible(plan), dweights - delta[:, None], 0.0)


def _unit(plan: Plan, ref: Any, chunk: Array) -> tuple[Array, ...]:
  return tuple(ref[chunk, i] for i in range(plan.signs))


def _rows_kernel(
  plan: Plan,
  length: int,
  q_ref: Any,
  k_ref: Any,
  v_ref: Any,
  keep_ref: Any,
  g_ref: Any,
  delta_ref: Any,
  norm_ref: Any,
  unit_ref: Any,
  s_ref: Any,
  z_ref: Any,
  w_ref: Any,
  dq_ref: Any,
) -> None:
  arrays = q_ref, g_ref, delta_ref, norm_ref

  left = fused_math.rows_left(plan, length)

  def step(chunk: Array, state: tuple) -> tuple:
    unit = _unit(plan, unit_ref, chunk)
    q, g, delta, queries, inside = fused_backward.load_rows(
      plan, chunk, left, arrays, unit, w_ref
    )
    keep = fused_math.keys_kept(plan, keep_ref, chunk)
    k = fused_math.load(plan, k_ref, chunk, keep)
    v = fused_math.load(plan, v_ref, chunk, keep)
    b = fused_math.log_keys(plan, k, keep, w_ref)
    dweights = _weight_cotangents(plan, g, v, delta)
    da = tuple(
      x
      * (
        fused_backward.from_state(plan, g, delta, s, z)
        + fused_math.dot(dweights, y, plan.dtype)
      )
      for x, y, s, z in zip(
        queries, fused_math.key_features(b, unit), *state, strict=True
      )
    )
    dq = fused_math.project_back(plan, da, q, w_ref, keys=False)
    fused_math.store(plan, dq_ref, chunk, inside, dq)
    return fused_forward.grow(plan, state, unit, b, v)[0]

  state = tuple(fused_forward.per_sign(plan, ref) for ref in (s_ref, z_ref))
  jax.lax.fori_loop(0, plan.chunks, step, state)


def rows(
  plan: Plan,
  inputs: tuple[Array, Array, Array, fused_forward.Keep],
  g: Float[Array, 'b l h v'],
  delta: Float[Array, 'b h l'],
  norm: Float[Array, 'b h l'],
  units: Float[Array, 'b h n s m'],
  before: state_lib.State,
  w: Float[Array, 'p m d'],
) -> Float[Array, 'b l h d']:
  """Cotangents of queries.

  Reads q, k, v, g, 8 bytes per row, the units and the states; writes dq.

  Args:
    plan: constants.
    inputs: queries, keys, values, and the mask of `fused_forward`.
    g: cotangents of the outputs.
    delta: D.
    norm: logarithms of the rows' normalisers.
    units: of each chunk.
    before: states before each group.
    w: parts of the projection.

  Returns:
    dq in the dtype of q.
  """
  q, _, v, keep = inputs
  batch, length, heads, d = q.shape
  width, m = v.shape[3], w.shape[1]
  [dq] = fused_forward.launch(
    plan,
    functools.partial(_rows_kernel, plan, length),
    (batch, heads, keep.shape[1] // plan.group),
    (
      *_sequence(plan, inputs, g, delta, norm, units),
      (before.S, Spec.group(plan.signs, width, m)),
      (before.z, Spec.group(plan.signs, m)),
      (w, Spec.whole(w.shape)),
    ),
    ((q.shape, q.dtype, Spec.rows(plan, d)),),
  )
  return dq


def _sequence(
  plan: Plan, inputs: tuple, g: Array, delta: Array, norm: Array, units: Array
) -> tuple[tuple[Array, Any], ...]:
  """What both kernels read of a group, and its blocks."""
  q, k, v, keep = inputs
  d, width = q.shape[3], v.shape[3]
  return (
    (q, Spec.rows(plan, d)),
    (k, Spec.rows(plan, d)),
    (v, Spec.rows(plan, width)),
    (keep, Spec.keep(plan)),
    (g, Spec.rows(plan, width)),
    (delta, Spec.line(plan)),
    (norm, Spec.line(plan)),
    (units, Spec.units(plan, units.shape[-1])),
  )


def _keys_kernel(
  plan: Plan,
  length: int,
  q_ref: Any,
  k_ref: Any,
  v_ref: Any,
  keep_ref: Any,
  g_ref: Any,
  delta_ref: Any,
  norm_ref: Any,
  unit_ref: Any,
  next_ref: Any,
  t_ref: Any,
  sum_ref: Any,
  w_ref: Any,
  dk_ref: Any,
  dv_ref: Any,
) -> None:
  arrays = q_ref, g_ref, delta_ref, norm_ref

  left = fused_math.rows_left(plan, length)

  def step(index: Array, carry: tuple) -> tuple:
    sums, after = carry
    chunk = plan.chunks - 1 - index
    unit = _unit(plan, unit_ref, chunk)
    sums = fused_forward.rescale(sums, unit, after)
    _, g, delta, queries, inside = fused_backward.load_rows(
      plan, chunk, left, arrays, unit, w_ref
    )
    keep = fused_math.keys_kept(plan, keep_ref, chunk)
    k = fused_math.load(plan, k_ref, chunk, keep)
    v = fused_math.load(plan, v_ref, chunk, keep)
    b = fused_math.log_keys(plan, k, keep, w_ref)
    features = fused_math.key_features(b, unit)
    dk, dv = _key_cotangents(
      plan, k, v, features, queries, g, delta, sums, w_ref
    )
    fused_math.store(plan, dk_ref, chunk, inside, dk)
    fused_math.store(plan, dv_ref, chunk, inside, dv)
    return fused_backward.sum_rows(plan, sums, queries, g, delta), unit

  sums = tuple(fused_forward.per_sign(plan, ref) for ref in (t_ref, sum_ref))
  after = fused_forward.per_sign(plan, next_ref)
  jax.lax.fori_loop(0, plan.chunks, step, (sums, after))


def _key_cotangents(
  plan: Plan,
  k: Array,
  v: Array,
  features: tuple,
  queries: tuple,
  g: Array,
  delta: Array,
  sums: tuple,
  w_ref: Any,
) -> tuple[Float[Array, 'j d'], Float[Array, 'j v']]:
  """Cotangents of a chunk, from its own rows and from the sums over later."""
  weights = sum(
    fused_math.dot(x, y, plan.dtype, contract=(1, 1))
    for x, y in zip(queries, features, strict=True)
  )
  weights = jnp.where(_visible(plan), weights, 0.0)
  dweights = _weight_cotangents(plan, g, v, delta)
  dv = fused_math.dot(weights, g, plan.dtype, contract=(0, 0))
  db = []
  for x, y, big, small in zip(queries, features, *sums, strict=True):
    dv = dv + fused_math.dot(y, big, plan.dtype, contract=(1, 1))
    dfeatures = fused_math.dot(dweights, x, plan.dtype, contract=(0, 0))
    dfeatures += fused_math.dot(v, big, plan.dtype) + small[None]
    db.append(y * dfeatures)
  return fused_math.project_back(plan, tuple(db), k, w_ref, keys=True), dv


def keys(
  plan: Plan,
  inputs: tuple[Array, Array, Array, fused_forward.Keep],
  g: Float[Array, 'b l h v'],
  delta: Float[Array, 'b h l'],
  norm: Float[Array, 'b h l'],
  units: Float[Array, 'b h n s m'],
  following: Float[Array, 'b h g s m'],
  sums: fused_backward.Sums,
  w: Float[Array, 'p m d'],
) -> tuple[Float[Array, 'b l h d'], Float[Array, 'b l h v']]:
  """Cotangents of keys and values.

  Reads q, k, v, g, 8 bytes per row, the units and the sums; writes dk and dv.

  Args:
    plan: constants.
    inputs: queries, keys, values, and the mask of `fused_forward`.
    g: cotangents of the outputs.
    delta: D.
    norm: logarithms of the rows' normalisers.
    units: of each chunk.
    following: unit of the sums.
    sums: T and t of all groups after each.
    w: parts of the projection.

  Returns:
    dk and dv in the dtypes of k and v.
  """
  _, k, v, keep = inputs
  batch, length, heads, d = k.shape
  width, m = v.shape[3], w.shape[1]
  dk, dv = fused_forward.launch(
    plan,
    functools.partial(_keys_kernel, plan, length),
    (batch, heads, keep.shape[1] // plan.group),
    (
      *_sequence(plan, inputs, g, delta, norm, units),
      (following, Spec.group(plan.signs, m)),
      (sums[0], Spec.group(plan.signs, width, m)),
      (sums[1], Spec.group(plan.signs, m)),
      (w, Spec.whole(w.shape)),
    ),
    (
      (k.shape, k.dtype, Spec.rows(plan, d)),
      (v.shape, v.dtype, Spec.rows(plan, width)),
    ),
  )
  return dk, dv
