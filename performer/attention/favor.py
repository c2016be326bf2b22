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
from jaxtyping import Array, Bool, Float, Int, Key

from performer.attention import (
  checks,
  computation,
  kernels,
  options,
  projections,
  structures,
)
from performer.attention import form as form_lib
from performer.attention import state as state_lib
from performer.attention.fused import choice as fused_choice

__all__ = ['Favor', 'favor_attention']


@checks.named_options
@dataclasses.dataclass(frozen=True)
class Favor(options.Options):
  """Random-feature attention: its projection and its computation.

  The options, their defaults and the errors of contradictory ones are those of
  `options.Options`. An unknown option is a TypeError that names the nearest.
  """

  @property
  def plain_sums(self) -> bool:
    """Whether states are plain sums, without a running maximum as unit."""
    return self.stabilizer == 'none' or self.spec.activation is not None

  def draw(
    self,
    key: Key[Array, ''],
    *,
    layer: int | Int[Array, ''],
    step: int | Int[Array, ''],
    num_heads: int,
    head_dim: int,
  ) -> structures.Projection | None:
    """Draws the projection of a layer at a step.

    A pure function of its arguments, hence the same on every replica and after
    a restart; it changes when step // redraw_every does. Layer and step may be
    traced (under vmap, lax.cond). For evaluation and decoding pass the last
    training step.

    Args:
      key: the run's key for projections.
      layer: index of the layer; layers draw independently.
      step: training step, >= 0.
      num_heads: h.
      head_dim: d.

    Returns:
      W, float32, [m, d] or (per_head) [h, m, d]; a pytree of `structures` for
      'horf', hybrids and softmax_general; None without a projection.

    Raises:
      ValueError: if a number is negative, or a size not positive.

    Reference: arXiv:2009.14794, sections 4.3 and D.2.
    """
    checks.check_least(0, layer=layer, step=step)
    checks.check_least(1, num_heads=num_heads, head_dim=head_dim)
    if not self.projection:
      return None
    epoch = 0 if self.redraw_every is None else step // self.redraw_every
    key = jax.random.fold_in(jax.random.fold_in(key, layer), epoch)
    if not self.per_head:
      return self._draw(key, head_dim)
    keys = jax.random.split(key, num_heads)
    return jax.vmap(lambda key: self._draw(key, head_dim))(keys)

  def _draw(self, key: Array, size: int) -> structures.Projection:
    """Draws one projection, independent of layer and step."""
    draw = functools.partial(
      projections.draw, size=size, ortho=self.ortho, norm=self._norm
    )
    spec = self.spec
    if spec.structure == 'matrix':
      return draw(key, self.rows)
    if spec.structure == 'general':
      return structures.General(
        draw(key, self.rows), jnp.ones(size, jnp.float32)
      )
    key_omega, key_second, key_tau = jax.random.split(key, 3)
    second = None if self.mix_shared else draw(key_second, self.rows)
    # Few rows: the structured matrices have nothing to save here.
    ortho = 'iid' if self.ortho == 'iid' else 'rorf'
    tau = draw(key_tau, self.coefficient_rows, ortho=ortho)
    return structures.Mixture(draw(key_omega, self.rows), tau, second)

  @property
  def _norm(self) -> str:
    implied = 'sqrt_d' if kernels.get(self.kernel).regularized else 'chi'
    return self.norm or implied

  def __call__(
    self,
    q: Float[Array, 'b lq h d'],
    k: Float[Array, 'b lk h d'],
    v: Float[Array, 'b lk h v'],
    *,
    projection: structures.Projection | None,
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
    checks.check_inputs(q, k, v, causal=causal, key_mask=key_mask)
    checks.check_segments(q, k, segment_ids)
    self.check_projection(projection, q)
    self._check_separable(segment_ids)
    if fused_choice.taken(
      self, q, k, v, projection, segmented=segment_ids is not None
    ):
      return self._fused(q, k, v, projection, causal, key_mask)
    how = self, bool(causal)
    return computation.attend(how, q, k, v, projection, key_mask, segment_ids)

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

  def _check_separable(self, segment_ids: Array | None) -> None:
    if segment_ids is None:
      return
    if self.stabilizer == 'reference':
      raise ValueError(
        "stabilizer='reference' excludes segment_ids, because its maximum "
        'couples segments'
      )
    if self.kernel == 'softmax_oprf' and self.oprf_mean_square is None:
      raise ValueError(
        'segment_ids need a number as oprf_mean_square, because a mean square '
        'measured over a row couples its sequences, got '
        f'{self.oprf_mean_square=}'
      )

  def summarize(
    self,
    k: Float[Array, 'b l h d'],
    v: Float[Array, 'b l h v'],
    *,
    projection: structures.Projection | None,
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
    checks.check_inputs(k, k, v, causal=False, key_mask=key_mask)
    self._check_has_state()
    self.check_projection(projection, k)
    return computation.summarize(self, k, v, projection, key_mask)

  def read(
    self,
    q: Float[Array, 'b l h d'],
    state: state_lib.State,
    *,
    projection: structures.Projection | None,
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
    checks.check_inputs(q, q, q, causal=False, key_mask=None)
    self.check_projection(projection, q)
    # Any width of values.
    width = jnp.shape(getattr(state, 'S', None))[2:3] or (None,)
    self._check_state(state, q, *width)
    return computation.read(self, q, state, projection)

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
    checks.check_state(state, jax.eval_shape(empty))

  def _check_has_state(self) -> None:
    if self.stabilizer == 'reference':
      raise ValueError(
        "stabilizer='reference' needs all keys at once, so it has no state"
      )

  def extend(
    self,
    q: Float[Array, 'b l h d'],
    k: Float[Array, 'b l h d'],
    v: Float[Array, 'b l h v'],
    *,
    projection: structures.Projection | None,
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
        the state through `state.forget`.
      state: result of the previous piece; None before the first.

    Returns:
      Outputs in the dtype of v, and the state after the last key (of its
      segment).

    Raises:
      ValueError: if shapes disagree, or with the reference stabiliser, which
        needs all keys at once.
    """
    checks.check_inputs(q, k, v, causal=True, key_mask=key_mask)
    checks.check_segments(q, k, segment_ids)
    self._check_has_state()
    self._check_separable(segment_ids)
    self.check_projection(projection, q)
    if state is not None:
      self._check_state(state, q, v.shape[3])
    return computation.extend(
      self, q, k, v, projection, key_mask, segment_ids, state
    )

  def form(
    self,
    projection: structures.Projection | None,
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
        |x + y|^2 over what the form will see (`oprf.mean_square`).
      dtype: of queries and keys.

    Returns:
      A form for the functions of `linear` and `causal_forms`.

    Raises:
      ValueError: if softmax_oprf has neither mean square.
    """
    return computation.form(
      self,
      projection,
      head_dim=head_dim,
      mean_square=mean_square,
      dtype=dtype,
    )

  def empty_state(
    self,
    *,
    batch: int,
    num_heads: int,
    head_dim: int,
    value_dim: int | None = None,
    dtype: Any = jnp.float32,
  ) -> state_lib.State:
    """The state of no keys, which `extend` takes for None.

    Args:
      batch: b.
      num_heads: h.
      head_dim: d, width of a query or key.
      value_dim: v, width of a value; None: d.
      dtype: of the inputs; the state is float32, or float64 for float64.

    Returns:
      A state with sums of zero, [b, h, v, r] and [b, h, r].

    Raises:
      ValueError: with the reference stabiliser, which has no state.
    """
    self._check_has_state()
    like = jnp.zeros((batch, num_heads, value_dim or head_dim), dtype)
    log = self.spec.log and self.stabilizer == 'online'
    family = form_lib.family(log=log)
    count = self.features if self.projection else head_dim
    state = state_lib.empty(like, count, like.shape[-1], family.PER_FEATURE)
    if not self.plain_sums:
      return state
    # In the unit that all its keys will have, so that it has a gradient.
    return state._replace(c=jnp.zeros_like(state.c))

  def check_projection(
    self, projection: structures.Projection | None, q: Array
  ) -> None:
    """Refuses a projection that does not fit these queries, [b, l, h, d].

    Raises:
      ValueError: naming what is missing, superfluous or misshapen.
    """
    expected = None
    if self.projection:
      expected = (q.shape[2], self.rows, q.shape[3])
    checks.check_projection(
      projection,
      expected=expected,
      structure=self.spec.structure,
      mix_rows=self.coefficient_rows,
    )


def favor_attention(
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  projection: Float[Array, '... m d'],
  *,
  kernel: str = 'softmax_hyp',
  causal: bool,
  key_mask: Bool[Array, 'b lk'] | None = None,
  chunk: int = 64,
) -> Float[Array, 'b lq h v']:
  """Attends with a given projection: `Favor` as a plain function.

  Args:
    q: queries, unscaled.
    k: keys.
    v: values.
    projection: W, [m, d] or [h, m, d]; its gradient is 0.
    kernel: a name in `kernels.KERNELS`.
    causal: whether row i sees keys 0..i only (i included).
    key_mask: True = keep.
    chunk: positions per chunk.

  Returns:
    Outputs in the dtype of v.

  Raises:
    ValueError: as `Favor` and its call.
  """
  if projection is None or jnp.ndim(projection) not in (2, 3):
    raise ValueError(
      'projection must be [m, d] or [h, m, d], '
      f'got {None if projection is None else jnp.shape(projection)}'
    )
  features = projection.shape[-2] * kernels.get(kernel).copies
  favor = Favor(kernel=kernel, features=features, chunk=chunk)
  return favor(q, k, v, projection=projection, causal=causal, key_mask=key_mask)
