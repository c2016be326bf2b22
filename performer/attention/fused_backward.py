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

Letters as in `fused_forward`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from performer.attention import fused_forward, fused_math
from performer.attention import state as state_lib

__all__ = ['Sums', 'from_state', 'keys', 'load_rows', 'rows', 'sum_rows']

Plan = fused_math.Plan
Spec = fused_forward.Spec
Sums = tuple[Float[Array, 'b h g s v m'], Float[Array, 'b h g s m']]


def load_rows(
  plan: Plan,
  chunk: Array,
  left: Array,
  refs: tuple[Any, Any, Any, Any],
  unit: tuple,
  w_ref: Any,
) -> tuple[Array, Array, Array, tuple, Array]:
  """q, g, D and query features of a chunk, and which rows exist."""
  q_ref, g_ref, delta_ref, norm_ref = refs
  inside = fused_math.rows_inside(plan, chunk, left)
  q, g, delta, norm = (
    fused_math.load(plan, ref, chunk, inside)
    for ref in (q_ref, g_ref, delta_ref, norm_ref)
  )
  # Rows beyond the end must add nothing to the sums.
  norm = jnp.where(inside, norm, fused_math.NO_ROW)
  a = fused_math.log_queries(plan, q, w_ref)
  return q, g, delta, fused_math.query_features(a, unit, norm), inside


def from_state(
  plan: Plan, g: Array, delta: Array, s: Array, z: Array
) -> Float[Array, 'i m']:
  """g_i . S_m - D_i z_m."""
  return fused_math.dot(g, s, plan.dtype) - delta[:, None] * z[None]


def sum_rows(
  plan: Plan, sums: tuple, features: tuple, g: Array, delta: Array
) -> tuple[tuple, tuple]:
  """Adds a chunk of rows to T, [v, m], and t, [m]."""
  big, small = sums
  return (
    tuple(
      x + fused_math.dot(g, f, plan.dtype, contract=(0, 0))
      for x, f in zip(big, features, strict=True)
    ),
    tuple(
      x - jnp.sum(delta[:, None] * f, axis=0)
      for x, f in zip(small, features, strict=True)
    ),
  )


def _zero_sums(plan: Plan, width: int, m: int) -> tuple[tuple, tuple]:
  return (
    (jnp.zeros((width, m), jnp.float32),) * plan.signs,
    (jnp.zeros((m,), jnp.float32),) * plan.signs,
  )


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
  unit = fused_forward.per_sign(plan, unit_ref)
  arrays = q_ref, g_ref, delta_ref, norm_ref

  left = fused_math.rows_left(plan, length)

  def step(chunk: Array, sums: tuple) -> tuple:
    q, g, delta, features, inside = load_rows(
      plan, chunk, left, arrays, unit, w_ref
    )
    if dq_ref is not None:
      da = tuple(
        f * from_state(plan, g, delta, s_ref[i], z_ref[i])
        for i, f in enumerate(features)
      )
      dq = fused_math.project_back(plan, da, q, w_ref, keys=False)
      fused_math.store(plan, dq_ref, chunk, inside, dq)
    return sum_rows(plan, sums, features, g, delta)

  empty = _zero_sums(plan, g_ref.shape[1], w_ref.shape[1])
  big, small = jax.lax.fori_loop(0, plan.chunks, step, empty)
  for i in range(plan.signs):
    t_ref[i], sum_ref[i] = big[i], small[i]


def rows(
  plan: Plan,
  q: Float[Array, 'b l h d'],
  g: Float[Array, 'b l h v'],
  delta: Float[Array, 'b h l'],
  norm: Float[Array, 'b h l'],
  unit: Float[Array, 'b h #g s m'],
  w: Float[Array, 'p m d'],
  state: state_lib.State | None = None,
) -> tuple[Sums, Float[Array, 'b l h d'] | None]:
  """Sums T and t of each group's rows, and dq where all rows read one state.

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
  results = fused_forward.launch(
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
  unit = fused_forward.per_sign(plan, unit_ref)

  left = fused_math.rows_left(plan, length)

  def step(chunk: Array, carry: tuple) -> tuple:
    keep = fused_math.keys_kept(plan, keep_ref, chunk)
    k = fused_math.load(plan, k_ref, chunk, keep)
    v = fused_math.load(plan, v_ref, chunk, keep)
    b = fused_math.log_keys(plan, k, keep, w_ref)
    features = fused_math.key_features(b, unit)
    db = tuple(
      f * (fused_math.dot(v, t_ref[i], plan.dtype) + sum_ref[i][None])
      for i, f in enumerate(features)
    )
    dv = sum(
      fused_math.dot(f, t_ref[i], plan.dtype, contract=(1, 1))
      for i, f in enumerate(features)
    )
    dk = fused_math.project_back(plan, db, k, w_ref, keys=True)
    inside = fused_math.rows_inside(plan, chunk, left)
    fused_math.store(plan, dk_ref, chunk, inside, dk)
    fused_math.store(plan, dv_ref, chunk, inside, dv)
    return carry

  jax.lax.fori_loop(0, plan.chunks, step, ())


def keys(
  plan: Plan,
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  keep: fused_forward.Keep,
  unit: Float[Array, 'b h 1 s m'],
  sums: Sums,
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
  dk, dv = fused_forward.launch(
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
