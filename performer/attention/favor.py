"""FAVOR+: attention by random features, in time and memory linear in length.

Letters: b batch, l positions, h heads, d width of a key, v of a value, m rows
of the projection, r features.

Reference: arXiv:2009.14794 (FAVOR+), arXiv:2006.03555 (FAVOR).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from performer.attention import calls, checks, fused, options
from performer.attention.fused import choice as fused_choice
from performer.attention.kernels import projections, reference, structures
from performer.attention.sums import features as features_lib
from performer.attention.sums import form as form_lib
from performer.attention.sums import linear
from performer.attention.sums import state as state_lib

__all__ = ['Favor']

_Projection = structures.Projection | None


@checks.named_options
@dataclasses.dataclass(frozen=True)
class Favor(options.Options):
  """Random-feature attention: its projection and its computation.

  The options, their defaults and the errors of contradictory ones are those of
  `options.Options`. An unknown option is a TypeError that names the nearest.
  """

  def __call__(
    self,
    q: Float[Array, 'b lq h d'],
    k: Float[Array, 'b lk h d'],
    v: Float[Array, 'b lk h v'],
    *,
    projection: _Projection,
    causal: bool,
    key_mask: Bool[Array, 'b lk'] | None = None,
    segment_ids: Int[Array, 'b lk'] | None = None,
  ) -> Float[Array, 'b lq h v']:
    """Attends.

    Args:
      q: queries, unscaled.
      k: keys.
      v: values.
      projection: W of `draw`, whose gradient is 0; None without one.
      causal: whether row i sees keys 0..i only (i included).
      key_mask: True = keep. Keys masked out have no effect and no gradient,
        whatever they contain.
      segment_ids: packed sequences: positions attend within runs of equal
        ids. An id that comes again after another one starts a new segment.

    Returns:
      Outputs in the dtype of v. A row that sees no key is 0, with gradient 0.

    Raises:
      ValueError: if ranks, shapes or dtypes disagree, if segments meet what
        needs all keys at once (the reference stabiliser, or the mean square
        that softmax_oprf measures), or if the fused kernels are asked for and
        cannot compute the call.
    """
    calls.check_inputs(
      q, k, v, causal=causal, key_mask=key_mask, segment_ids=segment_ids
    )
    self.check_projection(projection, q)
    if segment_ids is not None:
      self.check_separable()
    # Asked only where some device is listed, or they are wanted everywhere.
    if (self.implementation == 'fused' or fused.FASTER_ON) and (
      fused_choice.taken(
        self, q, k, v, projection, segmented=segment_ids is not None
      )
    ):
      return self._fused(q, k, v, projection, causal, key_mask)
    how = self, bool(causal)
    return _attend(how, q, k, v, projection, key_mask, segment_ids)

  def _fused(
    self,
    q: Array,
    k: Array,
    v: Array,
    projection: Array,
    causal: bool,
    key_mask: Array | None,
  ) -> Float[Array, 'b lq h v']:
    xla = dataclasses.replace(self, implementation='xla')

    def fallback(
      q: Array, k: Array, v: Array, projection: Array, key_mask: Array | None
    ) -> Float[Array, 'b l h v']:
      return xla(q, k, v, projection=projection, causal=True, key_mask=key_mask)

    return fused_choice.attend(
      self,
      q,
      k,
      v,
      projection,
      causal=causal,
      key_mask=key_mask,
      fallback=fallback,
    )

  def summarize(
    self,
    k: Float[Array, 'b l h d'],
    v: Float[Array, 'b l h v'],
    *,
    projection: _Projection,
    key_mask: Bool[Array, 'b l'] | None = None,
  ) -> state_lib.State:
    """Sums a source once, for any number of calls of `read`.

    Args:
      k: keys.
      v: values.
      projection: W of `draw`, whose gradient is 0; None without one.
      key_mask: True = keep.

    Returns:
      The state of the kept keys, O(r v) per head whatever the length.

    Raises:
      ValueError: if shapes disagree, or with what needs queries and keys at
        once: the reference stabiliser, softmax_oprf without a mean square.
    """
    calls.check_inputs(k, k, v, causal=False, key_mask=key_mask)
    self.check_has_state()
    self.check_projection(projection, k)
    return _summarize(self, k, v, projection, key_mask)

  def read(
    self,
    q: Float[Array, 'b l h d'],
    state: state_lib.State,
    *,
    projection: _Projection,
  ) -> Float[Array, 'b l h v']:
    """Attends bidirectionally to the keys of a state (cross-attention).

    Args:
      q: queries, unscaled.
      state: of `summarize` or `extend`.
      projection: the W that made the state; its gradient is 0.

    Returns:
      Outputs, float32; equal to the call on the keys themselves.

    Raises:
      ValueError: if shapes disagree, or as `summarize`.
    """
    calls.check_inputs(q, q, q, causal=False, key_mask=None)
    self.check_projection(projection, q)
    # Any width of values.
    width = jnp.shape(getattr(state, 'S', None))[2:3] or (None,)
    self._check_state(state, q, *width)
    return _read(self, q, state, projection)

  def _check_state(
    self, state: state_lib.State, q: Array, width: int | None
  ) -> None:
    empty = functools.partial(
      self.empty_state,
      batch=q.shape[0],
      num_heads=q.shape[2],
      head_dim=q.shape[3],
      value_dim=width,
    )
    state_lib.check(state, jax.eval_shape(empty))

  def extend(
    self,
    q: Float[Array, 'b l h d'],
    k: Float[Array, 'b l h d'],
    v: Float[Array, 'b l h v'],
    *,
    projection: _Projection,
    key_mask: Bool[Array, 'b l'] | None = None,
    segment_ids: Int[Array, 'b l'] | None = None,
    state: state_lib.State | None = None,
  ) -> tuple[Float[Array, 'b l h v'], state_lib.State]:
    """Attends causally, continuing from the keys that a state stands for.

    Calls on consecutive pieces of a sequence give what one call on the whole
    gives (to rounding); a piece may be one position.

    Args:
      q: queries, unscaled.
      k: keys.
      v: values.
      projection: the W that made the state; its gradient is 0.
      key_mask: True = keep.
      segment_ids: packed sequences, as in a call; the state belongs to the
        segment of the first position, so where that begins a new one, pass
        the state through `sums.state.forget`.
      state: result of the previous piece; None before the first.

    Returns:
      Outputs in the dtype of v, and the state after the last key (of its
      segment).

    Raises:
      ValueError: if shapes disagree, or with the reference stabiliser, which
        needs all keys at once.
    """
    calls.check_inputs(
      q, k, v, causal=True, key_mask=key_mask, segment_ids=segment_ids
    )
    self.check_has_state()
    if segment_ids is not None:
      self.check_separable()
    self.check_projection(projection, q)
    if state is not None:
      self._check_state(state, q, v.shape[3])
    return _extend(self, q, k, v, projection, key_mask, segment_ids, state)

  def form(
    self,
    projection: _Projection,
    *,
    head_dim: int,
    mean_square: Float[Array, 'b h'] | None = None,
    dtype: Any = jnp.float32,
  ) -> form_lib.Form:
    """The linear form that computes this attention with the online rule.

    Args:
      projection: result of `draw`, a constant: its gradient is 0; None
        without one.
      head_dim: d.
      mean_square: for softmax_oprf without `oprf_mean_square`, the mean of
        |x + y|^2 over what the form will see (`kernels.oprf.mean_square`).
      dtype: of queries and keys.

    Returns:
      A form for the functions of `sums.linear`.

    Raises:
      ValueError: if softmax_oprf has neither mean square.
    """
    spec = self.spec
    if mean_square is not None:
      spec = spec.made_for(mean_square)
    dtype, narrow = jnp.dtype(dtype), jnp.dtype(self.feature_dtype)
    if dtype == jnp.float64 and narrow == jnp.float32:
      narrow = dtype  # 'float32' means not rounded.
    plain = self.stabilizer == 'none'
    maps = spec.maps(_constant(projection, dtype), head_dim)
    if plain:
      maps = map(features_lib.exponentiated, maps)
    count = self.features if self.projection else head_dim
    finish = form_lib.signed_ratio if spec.signed else form_lib.ratio
    if not self.renormalize:
      scale = spec.scale(count)
      finish = functools.partial(form_lib.unnormalized, scale=scale)
    return form_lib.Form(
      *maps,
      finish,
      features=count,
      log=spec.log and not plain,
      chunk=self.chunk,
      dtype=narrow,
    )

  def check_projection(self, projection: _Projection, q: Array) -> None:
    """Refuses a projection that does not fit these queries, [b, l, h, d].

    Raises:
      ValueError: naming what is missing, superfluous or misshapen.
    """
    expected = None
    if self.projection:
      expected = (q.shape[2], self.rows, q.shape[3])
    projections.check(
      projection,
      expected=expected,
      structure=self.spec.structure,
      parts=self.spec.parts,
    )


def _constant(projection: _Projection, dtype: Any) -> _Projection:
  """The projection without gradient, at least as wide as the inputs.

  What the forms compute from it (norms, an inverse, the matrix of a Hadamard
  projection) then has the precision of the inputs. Narrower, its last digit
  could differ between two programs that must agree.
  """

  def one(w: Array) -> Array:
    return jax.lax.stop_gradient(w).astype(jnp.promote_types(w.dtype, dtype))

  return jax.tree.map(one, projection)


@calls.compiled(calls.rows_spec)
def _attend(
  how: tuple[Favor, bool],
  q: Array,
  k: Array,
  v: Array,
  projection: _Projection,
  key_mask: Array | None,
  segment_ids: Array | None,
) -> Float[Array, 'b lq h v']:
  """Attention of whole sequences, by a mechanism that is causal or not."""
  favor, causal = how
  square = None
  if favor.spec.needs_all and not causal:
    square = favor.spec.measure(q, k, key_mask)
  form = favor.form(
    projection,
    head_dim=q.shape[3],
    mean_square=square,
    dtype=jnp.result_type(q, k),
  )
  if favor.stabilizer == 'reference':
    projection = _constant(projection, q.dtype)
    q, k = reference.features(favor.spec, q, k, projection, key_mask)
    form = reference.ready(form)
  rows = {'key_mask': key_mask, 'segment_ids': segment_ids}
  if causal:
    out, _ = linear.causal(form, q, k, v, **rows)
  else:
    out = linear.bidirectional(form, q, k, v, **rows)
  return out.astype(v.dtype)


def _form(favor: Favor, x: Array, projection: _Projection) -> form_lib.Form:
  return favor.form(projection, head_dim=x.shape[3], dtype=x.dtype)


@calls.compiled(calls.state_spec)
def _summarize(
  favor: Favor,
  k: Array,
  v: Array,
  projection: _Projection,
  key_mask: Array | None,
) -> state_lib.State:
  form = _form(favor, k, projection)
  return linear.summarize(form, k, v, key_mask=key_mask)


@calls.compiled(calls.values_spec)
def _read(
  favor: Favor, q: Array, state: state_lib.State, projection: _Projection
) -> Float[Array, 'b l h v']:
  return linear.read(_form(favor, q, projection), q, state)


@calls.compiled(calls.extended_spec)
def _extend(
  favor: Favor,
  q: Array,
  k: Array,
  v: Array,
  projection: _Projection,
  key_mask: Array | None,
  segment_ids: Array | None,
  state: state_lib.State | None,
) -> tuple[Float[Array, 'b l h v'], state_lib.State]:
  form = _form(favor, q, projection)
  out, state = linear.causal(
    form, q, k, v, key_mask=key_mask, segment_ids=segment_ids, state=state
  )
  return out.astype(v.dtype), state
