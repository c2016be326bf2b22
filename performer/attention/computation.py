"""The computations behind the calls of `favor.Favor`.

Arguments are checked by the caller. Letters: b batch, l positions, h heads, d
width of a key, v of a value.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from performer.attention import (
  calls,
  features,
  kernels,
  linear,
  oprf,
  options,
  precision,
  reference_stabilizer,
  structures,
)
from performer.attention import form as form_lib
from performer.attention import state as state_lib

__all__ = ['attend', 'extend', 'form', 'read', 'summarize']

_EPSILON = 1e-3  # The default for generalised kernels.

Projection = structures.Projection | None


def form(
  favor: options.Options,
  projection: Projection,
  *,
  head_dim: int,
  mean_square: Float[Array, 'b h'] | None = None,
  dtype: Any = jnp.float32,
) -> form_lib.Form:
  """The linear form of some options; see `favor.Favor.form`.

  Args:
    favor: the options.
    projection: W, whose gradient is 0; None without one.
    head_dim: d.
    mean_square: of |x + y|, for softmax_oprf without a constant.
    dtype: of queries and keys.

  Returns:
    The form.

  Raises:
    ValueError: if softmax_oprf has no mean square.
  """
  spec = favor.spec
  projection = _constant(projection, dtype)
  if favor.oprf_mean_square is not None:
    mean_square = favor.oprf_mean_square
  maps = features.feature_maps(
    spec,
    projection,
    head_dim=head_dim,
    epsilon=_epsilon(favor),
    mean_square=mean_square,
    bandwidth=1.0 if favor.mix_bandwidth is None else favor.mix_bandwidth,
  )
  plain = favor.stabilizer == 'none'
  if plain:
    maps = features.FeatureMaps(*(features.exponentiated(m) for m in maps))
  count = favor.features if favor.projection else head_dim
  return form_lib.Form(
    maps.queries,
    maps.keys,
    form_lib.finisher(
      renormalize=favor.renormalize,
      signed=spec.signed,
      scale=spec.scale(count),
    ),
    features=count,
    log=spec.log and not plain,
    chunk=favor.chunk,
    dtype=precision.feature_dtype(favor.feature_dtype, jnp.dtype(dtype)),
  )


def _constant(projection: Projection, dtype: Any) -> Projection:
  """The projection without gradient, at least as wide as the inputs.

  What the forms compute from it (norms, an inverse, the matrix of a Hadamard
  projection) then has the precision of the inputs. Narrower, its last digit
  could differ between two programs that must agree.
  """

  def one(w: Array) -> Array:
    return jax.lax.stop_gradient(w).astype(jnp.promote_types(w.dtype, dtype))

  return jax.tree.map(one, projection)


def _epsilon(favor: options.Options) -> float:
  if kernels.get(favor.kernel).softmax:
    return 0.0
  return _EPSILON if favor.kernel_epsilon is None else favor.kernel_epsilon


def _state_form(
  favor: options.Options, x: Array, projection: Projection
) -> form_lib.Form:
  return form(favor, projection, head_dim=x.shape[3], dtype=x.dtype)


def _prepare(
  favor: options.Options,
  q: Array,
  k: Array,
  projection: Projection,
  key_mask: Array | None,
  mean_square: Array | None,
) -> tuple[Array, Array, form_lib.Form]:
  """Inputs and form; the reference rule computes features beforehand."""
  found = form(
    favor,
    projection,
    head_dim=q.shape[3],
    mean_square=mean_square,
    dtype=jnp.result_type(q, k),
  )
  if favor.stabilizer != 'reference':
    return q, k, found
  kernel = kernels.get(favor.kernel)
  projection = _constant(projection, q.dtype)
  q, k = reference_stabilizer.features(kernel, q, k, projection, key_mask)
  finish = form_lib.finisher(renormalize=True, signed=True, scale=1.0)
  ready = dataclasses.replace(
    found,
    featurize_queries=_ready,
    featurize_keys=_ready,
    finish=finish,
    log=False,
  )
  return q, k, ready


def _ready(features: Float[Array, 'b h l r']) -> kernels.Features:
  return kernels.Features(features, None)


@calls.compiled(calls.rows_spec)
def attend(
  how: tuple[options.Options, bool],
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  projection: Projection,
  key_mask: Bool[Array, 'b lk'] | None,
  segment_ids: Int[Array, 'b lk'] | None,
) -> Float[Array, 'b lq h v']:
  """Attention of whole sequences, given the options and whether it is causal."""
  favor, causal = how
  mean_square = None
  if favor.kernel == 'softmax_oprf' and not causal:
    mean_square = oprf.mean_square(q, k, key_mask)
  q, k, found = _prepare(favor, q, k, projection, key_mask, mean_square)
  rows = {'key_mask': key_mask, 'segment_ids': segment_ids}
  if causal:
    out, _ = linear.causal(found, q, k, v, **rows)
  else:
    out = linear.bidirectional(found, q, k, v, **rows)
  return out.astype(v.dtype)


@calls.compiled(calls.state_spec)
def summarize(
  favor: options.Options,
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  projection: Projection,
  key_mask: Bool[Array, 'b l'] | None,
) -> state_lib.State:
  """The sums over kept keys."""
  found = _state_form(favor, k, projection)
  return linear.summarize(found, k, v, key_mask=key_mask)


@calls.compiled(calls.values_spec)
def read(
  favor: options.Options,
  q: Float[Array, 'b l h d'],
  state: state_lib.State,
  projection: Projection,
) -> Float[Array, 'b l h v']:
  """Every query sees every key of a state."""
  return linear.read(_state_form(favor, q, projection), q, state)


@calls.compiled(calls.extended_spec)
def extend(
  favor: options.Options,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  projection: Projection,
  key_mask: Bool[Array, 'b l'] | None,
  segment_ids: Int[Array, 'b l'] | None,
  state: state_lib.State | None,
) -> tuple[Float[Array, 'b l h v'], state_lib.State]:
  """Causal attention that continues from a state, and the state after it."""
  found = _state_form(favor, q, projection)
  out, state = linear.causal(
    found, q, k, v, key_mask=key_mask, segment_ids=segment_ids, state=state
  )
  return out.astype(v.dtype), state
