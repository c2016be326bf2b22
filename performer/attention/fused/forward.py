"""Fused forward kernels: features live in registers and are never written.

Each kernel runs on a grid (batch, head, group) and walks the chunks of its
group. `summarize` turns the keys of each group into a state; the states are
merged between kernels; `read` lets queries read one state, and `causal` starts
from the state of the groups before and goes on chunk by chunk.

Letters: b batch, h heads, l positions, d width of a key, v of a value, m rows
of the projection, s features per row of it, g groups, n chunks.

Reference: arXiv:2009.14794, Algorithm 1 and section B.1.
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

__all__ = [
  'causal',
  'read',
  'summarize',
]

Plan = fused_launch.Plan
Spec = fused_launch.Spec


def _summarize_kernel(
  plan: Plan,
  k_ref: Any,
  v_ref: Any,
  keep_ref: Any,
  w_ref: Any,
  s_ref: Any,
  z_ref: Any,
  c_ref: Any,
) -> None:
  m, width = w_ref.shape[1], v_ref.shape[1]
  refs = k_ref, v_ref, keep_ref

  def step(chunk: Array, carry: tuple) -> tuple:
    keys = fused_math.load_keys(plan, refs, chunk, w_ref)
    new = []
    for sign, (s, z, c) in enumerate(carry):
      after = jnp.maximum(c, jnp.max(keys.logs(sign), axis=0))
      factor = jnp.exp(c - after)
      state = s * factor[None], z * factor
      features = keys.features(sign, after)
      new.append((*fused_math.grow(plan, state, keys.v, features), after))
    return tuple(new)

  empty = (
    jnp.zeros((width, m), jnp.float32),
    jnp.zeros((m,), jnp.float32),
    jnp.full((m,), state_lib.NO_KEY, jnp.float32),
  )
  carry = (empty,) * plan.signs
  carry = jax.lax.fori_loop(0, plan.chunks, step, carry)
  for i, (s, z, c) in enumerate(carry):
    s_ref[i], z_ref[i], c_ref[i] = s, z, c


def summarize(
  plan: Plan,
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  keep: fused_math.Keep,
  w: Float[Array, 'p m d'],
) -> state_lib.State:
  """Sums the keys of each group into a state.

  Reads k and v once and writes 4 s m (v + 2) bytes per group.

  Args:
    plan: constants.
    k: keys.
    v: values.
    keep: 1 where a key counts.
    w: parts of the projection.

  Returns:
    States with axes [b, h, g, s, v, m] of S and [b, h, g, s, m] of z and c.
  """
  batch, _, heads, width = v.shape
  groups, m = keep.shape[1] // plan.group, w.shape[1]
  lead = (batch, heads, groups, plan.signs)
  line = ((*lead, m), jnp.float32, Spec.group(plan.signs, m))
  outputs = fused_launch.launch(
    plan,
    functools.partial(_summarize_kernel, plan),
    (batch, heads, groups),
    (
      (k, Spec.rows(plan, k.shape[3])),
      (v, Spec.rows(plan, width)),
      (keep, Spec.keep(plan)),
      (w, Spec.whole(w.shape)),
    ),
    (
      ((*lead, width, m), jnp.float32, Spec.group(plan.signs, width, m)),
      line,
      line,
    ),
  )
  return state_lib.State(*outputs)


def _scale(u: Float[Array, 'i m'], units: tuple) -> Float[Array, 'i']:
  """The greatest exponent of each row."""
  tops = [
    jnp.max(fused_math.signed(u, sign) + c[None], axis=1)
    for sign, c in enumerate(units)
  ]
  return functools.reduce(jnp.maximum, tops)


def _read(
  plan: Plan, features: Float[Array, 'i m'], s: Array, z: Array
) -> tuple[Float[Array, 'i v'], Float[Array, 'i']]:
  """Numerators and denominators of one sign."""
  numerator = fused_math.dot(features, s, plan.dtype, contract=(1, 1))
  return numerator, jnp.sum(features * z[None], axis=1)


def _read_kernel(
  plan: Plan,
  length: int,
  q_ref: Any,
  s_ref: Any,
  z_ref: Any,
  c_ref: Any,
  w_ref: Any,
  out_ref: Any,
  norm_ref: Any,
) -> None:
  left = fused_math.rows_left(plan, length)

  def step(chunk: Array, carry: tuple) -> tuple:
    inside = fused_math.rows_inside(plan, chunk, left)
    q = fused_math.load(plan, q_ref, chunk, inside)
    u = fused_math.project(q, w_ref)
    scale = _scale(u, fused_math.per_sign(plan, c_ref))
    numerator, denominator = 0.0, 0.0
    for i in range(plan.signs):
      e = fused_math.signed(u, i) + c_ref[i][None]
      features = jnp.exp(e - scale[:, None])
      one, two = _read(plan, features, s_ref[i], z_ref[i])
      numerator, denominator = numerator + one, denominator + two
    out, norm = fused_math.attended(numerator, denominator, scale)
    fused_math.store(plan, out_ref, chunk, inside, out)
    fused_math.store(plan, norm_ref, chunk, inside, norm)
    return carry

  jax.lax.fori_loop(0, plan.chunks, step, ())


def read(
  plan: Plan,
  q: Float[Array, 'b l h d'],
  state: state_lib.State,
  w: Float[Array, 'p m d'],
  dtype: jnp.dtype,
) -> tuple[Float[Array, 'b l h v'], Float[Array, 'b h l']]:
  """Every query reads one state.

  Reads q and, once per group, the state (4 s m (v + 2) bytes, from the cache
  after the first group); writes the output and 4 bytes per row.

  Args:
    plan: constants.
    q: queries.
    state: as `summarize` returns it, with one group.
    w: parts of the projection.
    dtype: of the outputs.

  Returns:
    Outputs, and the logarithm of each row's normaliser.
  """
  batch, length, heads, d = q.shape
  width, m = state.S.shape[-2:]
  line = Spec.group(plan.signs, m, shared=True)
  return fused_launch.launch(
    plan,
    functools.partial(_read_kernel, plan, length),
    (batch, heads, pl.cdiv(length, plan.group)),
    (
      (q, Spec.rows(plan, d)),
      (state.S, Spec.group(plan.signs, width, m, shared=True)),
      (state.z, line),
      (state.c, line),
      (w, Spec.whole(w.shape)),
    ),
    (
      ((batch, length, heads, width), dtype, Spec.rows(plan, width)),
      ((batch, heads, length), jnp.float32, Spec.line(plan)),
    ),
  )


def _causal_kernel(
  plan: Plan,
  length: int,
  q_ref: Any,
  k_ref: Any,
  v_ref: Any,
  keep_ref: Any,
  s_ref: Any,
  z_ref: Any,
  c_ref: Any,
  w_ref: Any,
  out_ref: Any,
  norm_ref: Any,
  unit_ref: Any,
) -> None:
  order = jax.lax.broadcasted_iota(jnp.int32, (plan.chunk,), 0)
  visible = order[:, None] >= order[None]

  left = fused_math.rows_left(plan, length)

  refs = k_ref, v_ref, keep_ref

  def step(chunk: Array, carry: tuple) -> tuple:
    inside = fused_math.rows_inside(plan, chunk, left)
    u = fused_math.project(fused_math.load(plan, q_ref, chunk, inside), w_ref)
    keys = fused_math.load_keys(plan, refs, chunk, w_ref)
    units = tuple(
      fused_math.reference(c, keys.logs(sign), keys.keep)
      for sign, (_, _, c) in enumerate(carry)
    )
    scale = _scale(u, units)
    weights, numerator, denominator, new = 0.0, 0.0, 0.0, []
    for sign, (s, z, _) in enumerate(carry):
      unit = units[sign]
      e = fused_math.signed(u, sign) + unit[None]
      queries, features = jnp.exp(e - scale[:, None]), keys.features(sign, unit)
      weights += fused_math.dot(queries, features, plan.dtype, contract=(1, 1))
      one, two = _read(plan, queries, s, z)
      numerator, denominator = numerator + one, denominator + two
      c = jnp.maximum(unit, jnp.max(keys.logs(sign), axis=0))
      factor = jnp.exp(unit - c)
      new.append((*fused_math.grow(plan, (s, z), keys.v, features, factor), c))
      unit_ref[chunk, sign] = unit
    weights = jnp.where(visible, weights, 0.0)
    out, norm = fused_math.attended(
      numerator + fused_math.dot(weights, keys.v, plan.dtype),
      denominator + jnp.sum(weights, axis=1),
      scale,
    )
    fused_math.store(plan, out_ref, chunk, inside, out)
    fused_math.store(plan, norm_ref, chunk, inside, norm)
    return tuple(new)

  carry = tuple((s_ref[i], z_ref[i], c_ref[i]) for i in range(plan.signs))
  jax.lax.fori_loop(0, plan.chunks, step, carry)


def causal(
  plan: Plan,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  keep: fused_math.Keep,
  before: state_lib.State,
  w: Float[Array, 'p m d'],
) -> tuple[
  Float[Array, 'b l h v'], Float[Array, 'b h l'], Float[Array, 'b h n s m']
]:
  """Query i sees keys 0..i; each group starts from the state before it.

  Reads q, k and v once, writes the output, 4 bytes per row, and 4 s m bytes
  per chunk for the units.

  Args:
    plan: constants.
    q: queries.
    k: keys.
    v: values.
    keep: 1 where a key counts.
    before: states of all groups before each.
    w: parts of the projection.

  Returns:
    Outputs in the dtype of v, logarithms of the rows' normalisers, and the
    unit of each chunk. Rows are right where no key that they see exceeds its
    chunk's unit by more than `log.exponent_limit`.
  """
  batch, length, heads, d = q.shape
  width, m = v.shape[3], w.shape[1]
  groups = keep.shape[1] // plan.group
  line = Spec.group(plan.signs, m)
  return fused_launch.launch(
    plan,
    functools.partial(_causal_kernel, plan, length),
    (batch, heads, groups),
    (
      (q, Spec.rows(plan, d)),
      (k, Spec.rows(plan, d)),
      (v, Spec.rows(plan, width)),
      (keep, Spec.keep(plan)),
      (before.S, Spec.group(plan.signs, width, m)),
      (before.z, line),
      (before.c, line),
      (w, Spec.whole(w.shape)),
    ),
    (
      (v.shape, v.dtype, Spec.rows(plan, width)),
      ((batch, heads, length), jnp.float32, Spec.line(plan)),
      (
        (batch, heads, groups * plan.chunks, plan.signs, m),
        jnp.float32,
        Spec.units(plan, m),
      ),
    ),
  )
