"""Fused backward kernels: features are computed again, from inputs and units.

Let P_ij = sum_m exp(a_im + u_m - n_i) exp(b_jm - u_m) be the weights of row i,
n_i the logarithm of its normaliser (a residual), g_i the cotangent of its
output, D_i = g_i . out_i. Then dP_ij = g_i . v_j - D_i, and with
Q_im = exp(a_im + u_m - n_i), K_jm = exp(b_jm - u_m),

  da_im = Q_im (g_i . S_m - D_i z_m + sum_j dP_ij K_jm)
  db_jm = K_jm (v_j . T_m + t_m + sum_i dP_ij Q_im)
  dv_j = sum_m K_jm T_m + sum_i P_ij g_i

where S, z sum over earlier keys, as forward, T_m = sum_i Q_im g_i and
t_m = -sum_i Q_im D_i over later rows; sums over i, j are within a chunk. T and
t in units of exp(u) need the same change of unit as S and z, the other way
round: exp(u_before - u_after), which is at most 1.

Letters as in `fused.forward`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from performer.attention.fused import launch as fused_launch
from performer.attention.fused import maths as fused_math
from performer.attention.sums import state as state_lib

__all__ = ['keys', 'rows']

Plan = fused_launch.Plan
Spec = fused_launch.Spec


def _rows_kernel(
  plan: Plan,
  length: int,
  q_ref: Any,
  g_ref: Any,
  delta_ref: Any,
  norm_ref: Any,
  unit_ref: Any,
  w_ref: Any,
  *refs: Any,
) -> None:
  # T and t alone, or S and z, which all rows read, then T, t and dq.
  s_ref, z_ref, t_ref, sum_ref, dq_ref = (
    refs if len(refs) == 5 else (None, None, *refs, None)
  )
  arrays = q_ref, g_ref, delta_ref, norm_ref
  left = fused_math.rows_left(plan, length)

  def step(chunk: Array, carry: tuple) -> tuple:
    rows = fused_math.load_rows(plan, arrays, chunk, left, w_ref)
    du, new = 0.0, []
    for sign, sums in enumerate(carry):
      features = rows.features(sign, unit_ref[sign])
      if dq_ref is not None:
        da = features * fused_math.from_state(
          plan, rows, s_ref[sign], z_ref[sign]
        )
        du += fused_math.signed(da, sign)
      new.append(fused_math.add_rows(plan, sums, rows, features))
    if dq_ref is not None:
      dq = fused_math.project_back(du, w_ref)
      fused_math.store(plan, dq_ref, chunk, rows.inside, dq)
    return tuple(new)

  m, width = w_ref.shape[1], g_ref.shape[1]
  zeros = jnp.zeros((width, m), jnp.float32), jnp.zeros((m,), jnp.float32)
  carry = (zeros,) * plan.signs
  carry = jax.lax.fori_loop(0, plan.chunks, step, carry)
  for i, (big, small) in enumerate(carry):
    t_ref[i], sum_ref[i] = big, small


def rows(
  plan: Plan,
  q: Float[Array, 'b l h d'],
  g: Float[Array, 'b l h v'],
  delta: Float[Array, 'b h l'],
  norm: Float[Array, 'b h l'],
  unit: Float[Array, 'b h #g s m'],
  w: Float[Array, 'p m d'],
  state: state_lib.State | None = None,
) -> tuple[fused_math.Sums, Float[Array, 'b l h d'] | None]:
  """fused_math.Sums T and t of each group's rows, and dq where all rows read one state.

  Reads q, g and 8 bytes per row once (and per group the state), writes
  4 s m (v + 1) bytes per group, and dq.

  Args:
    plan: constants.
    q: queries.
    g: cotangents of the outputs.
    delta: D.
    norm: logarithms of the rows' normalisers.
    unit: of each group, or one for all.
    w: parts of the projection.
    state: what all rows read, with one group; None for the sums alone.

  Returns:
    T and t in the groups' units, and dq in the dtype of q, or None.
  """
  batch, length, heads, d = q.shape
  width, m = g.shape[3], w.shape[1]
  groups = pl.cdiv(length, plan.group)
  lead, signs = (batch, heads, groups, plan.signs), plan.signs
  inputs = [
    (q, Spec.rows(plan, d)),
    (g, Spec.rows(plan, width)),
    (delta, Spec.line(plan)),
    (norm, Spec.line(plan)),
    (unit, Spec.group(signs, m, shared=unit.shape[2] == 1)),
    (w, Spec.whole(w.shape)),
  ]
  outputs = [
    ((*lead, width, m), jnp.float32, Spec.group(signs, width, m)),
    ((*lead, m), jnp.float32, Spec.group(signs, m)),
  ]
  if state is not None:
    inputs += [
      (state.S, Spec.group(signs, width, m, shared=True)),
      (state.z, Spec.group(signs, m, shared=True)),
    ]
    outputs.append((q.shape, q.dtype, Spec.rows(plan, d)))
  results = fused_launch.launch(
    plan,
    functools.partial(_rows_kernel, plan, length),
    lead[:3],
    tuple(inputs),
    tuple(outputs),
  )
  dq = None if state is None else results[2]
  return (results[0], results[1]), dq


def _keys_kernel(
  plan: Plan,
  length: int,
  k_ref: Any,
  v_ref: Any,
  keep_ref: Any,
  unit_ref: Any,
  t_ref: Any,
  sum_ref: Any,
  w_ref: Any,
  dk_ref: Any,
  dv_ref: Any,
) -> None:
  refs = k_ref, v_ref, keep_ref
  left = fused_math.rows_left(plan, length)

  def step(chunk: Array, carry: tuple) -> tuple:
    keys = fused_math.load_keys(plan, refs, chunk, w_ref)
    du, dhalf, dv = 0.0, 0.0, 0.0
    for i in range(plan.signs):
      features = keys.features(i, unit_ref[i])
      db = fused_math.dot(keys.v, t_ref[i], plan.dtype) + sum_ref[i][None]
      db = db * features
      du += fused_math.signed(db, i)
      dhalf -= jnp.sum(db, axis=1)
      dv += fused_math.dot(features, t_ref[i], plan.dtype, contract=(1, 1))
    inside = fused_math.rows_inside(plan, chunk, left)
    dk = fused_math.key_cotangents(keys, du, dhalf, w_ref)
    fused_math.store(plan, dk_ref, chunk, inside, dk)
    fused_math.store(plan, dv_ref, chunk, inside, dv)
    return carry

  jax.lax.fori_loop(0, plan.chunks, step, ())


def keys(
  plan: Plan,
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  keep: fused_math.Keep,
  unit: Float[Array, 'b h 1 s m'],
  sums: fused_math.Sums,
  w: Float[Array, 'p m d'],
) -> tuple[Float[Array, 'b l h d'], Float[Array, 'b l h v']]:
  """Dk and dv where every key is read by all rows.

  Reads k and v once (and per group the sums), writes dk and dv.

  Args:
    plan: constants.
    k: keys.
    v: values.
    keep: 1 where a key counts.
    unit: c of the state of all keys.
    sums: T and t of all rows, with one group.
    w: parts of the projection.

  Returns:
    dk and dv in the dtypes of k and v.
  """
  batch, length, heads, d = k.shape
  width, m = v.shape[3], w.shape[1]
  line = Spec.group(plan.signs, m, shared=True)
  dk, dv = fused_launch.launch(
    plan,
    functools.partial(_keys_kernel, plan, length),
    (batch, heads, keep.shape[1] // plan.group),
    (
      (k, Spec.rows(plan, d)),
      (v, Spec.rows(plan, width)),
      (keep, Spec.keep(plan)),
      (unit, line),
      (sums[0], Spec.group(plan.signs, width, m, shared=True)),
      (sums[1], line),
      (w, Spec.whole(w.shape)),
    ),
    (
      (k.shape, k.dtype, Spec.rows(plan, d)),
      (v.shape, v.dtype, Spec.rows(plan, width)),
    ),
  )
  return dk, dv
