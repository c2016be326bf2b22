"""Fused backward kernels of causal attention: one walk forward, one back.

The formulas are those of `fused.backward`. `rows` walks the chunks of a group
forward, building S and z again from the state before the group, and writes dq;
`keys` walks them backward, carrying T and t from those of the groups after, and
writes dk and dv. Both take the unit of every chunk from the forward pass.

Letters as in `fused.forward`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention.fused import launch as fused_launch
from performer.attention.fused import maths as fused_math
from performer.attention.sums import state as state_lib

__all__ = ['keys', 'rows']

Plan = fused_launch.Plan
Spec = fused_launch.Spec


def _visible(plan: Plan) -> Array:
  order = jax.lax.broadcasted_iota(jnp.int32, (plan.chunk,), 0)
  return order[:, None] >= order[None]


def _weight_cotangents(
  plan: Plan, rows: fused_math.Rows, v: Float[Array, 'j v']
) -> Float[Array, 'i j']:
  dweights = fused_math.dot(rows.g, v, plan.dtype, contract=(1, 1))
  return jnp.where(_visible(plan), dweights - rows.delta[:, None], 0.0)


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
  refs = k_ref, v_ref, keep_ref
  left = fused_math.rows_left(plan, length)

  def step(chunk: Array, carry: tuple) -> tuple:
    rows = fused_math.load_rows(plan, arrays, chunk, left, w_ref)
    keys = fused_math.load_keys(plan, refs, chunk, w_ref)
    dweights = _weight_cotangents(plan, rows, keys.v)
    du, new = 0.0, []
    for sign, (s, z) in enumerate(carry):
      unit = unit_ref[chunk, sign]
      features = keys.features(sign, unit)
      da = fused_math.from_state(plan, rows, s, z)
      da += fused_math.dot(dweights, features, plan.dtype)
      du += fused_math.signed(da * rows.features(sign, unit), sign)
      top = jnp.max(keys.logs(sign), axis=0)
      factor = jnp.exp(unit - jnp.maximum(unit, top))
      new.append(fused_math.grow(plan, (s, z), keys.v, features, factor))
    dq = fused_math.project_back(du, w_ref)
    fused_math.store(plan, dq_ref, chunk, rows.inside, dq)
    return tuple(new)

  carry = tuple((s_ref[i], z_ref[i]) for i in range(plan.signs))
  jax.lax.fori_loop(0, plan.chunks, step, carry)


def rows(
  plan: Plan,
  inputs: tuple[Array, Array, Array, fused_math.Keep],
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
    inputs: queries, keys, values, and the mask of `fused.forward`.
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
  [dq] = fused_launch.launch(
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
  """The arrays of a group that both kernels read, and their blocks."""
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
  refs = k_ref, v_ref, keep_ref
  left = fused_math.rows_left(plan, length)

  def step(index: Array, carry: tuple) -> tuple:
    chunk = plan.chunks - 1 - index
    rows = fused_math.load_rows(plan, arrays, chunk, left, w_ref)
    keys = fused_math.load_keys(plan, refs, chunk, w_ref)
    dweights = _weight_cotangents(plan, rows, keys.v)
    weights, du, dhalf, dv, new = 0.0, 0.0, 0.0, 0.0, []
    for sign, (big, small, after) in enumerate(carry):
      unit = unit_ref[chunk, sign]
      factor = jnp.exp(unit - after)
      big, small = big * factor[None], small * factor
      queries, features = rows.features(sign, unit), keys.features(sign, unit)
      weights += fused_math.dot(queries, features, plan.dtype, contract=(1, 1))
      dv += fused_math.dot(features, big, plan.dtype, contract=(1, 1))
      db = fused_math.dot(dweights, queries, plan.dtype, contract=(0, 0))
      db += fused_math.dot(keys.v, big, plan.dtype) + small[None]
      db = db * features
      du += fused_math.signed(db, sign)
      dhalf -= jnp.sum(db, axis=1)
      sums = fused_math.add_rows(plan, (big, small), rows, queries)
      new.append((*sums, unit))
    weights = jnp.where(_visible(plan), weights, 0.0)
    dv += fused_math.dot(weights, rows.g, plan.dtype, contract=(0, 0))
    dk = fused_math.key_cotangents(keys, du, dhalf, w_ref)
    fused_math.store(plan, dk_ref, chunk, rows.inside, dk)
    fused_math.store(plan, dv_ref, chunk, rows.inside, dv)
    return tuple(new)

  carry = tuple((t_ref[i], sum_ref[i], next_ref[i]) for i in range(plan.signs))
  jax.lax.fori_loop(0, plan.chunks, step, carry)


def keys(
  plan: Plan,
  inputs: tuple[Array, Array, Array, fused_math.Keep],
  g: Float[Array, 'b l h v'],
  delta: Float[Array, 'b h l'],
  norm: Float[Array, 'b h l'],
  units: Float[Array, 'b h n s m'],
  following: Float[Array, 'b h g s m'],
  sums: fused_math.Sums,
  w: Float[Array, 'p m d'],
) -> tuple[Float[Array, 'b l h d'], Float[Array, 'b l h v']]:
  """Cotangents of keys and values.

  Reads q, k, v, g, 8 bytes per row, the units and the sums; writes dk and dv.

  Args:
    plan: constants.
    inputs: queries, keys, values, and the mask of `fused.forward`.
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
  dk, dv = fused_launch.launch(
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
