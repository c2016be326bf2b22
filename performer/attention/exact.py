"""Exact softmax attention, with the interface of `favor.Favor`.

Reference: arXiv:2009.14794, Eq. 1 and 2.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from performer.attention import calls
from performer.attention.kernels import projections
from performer.attention.sums import segments
from performer.attention.sums import state as state_lib

__all__ = ['Exact', 'exact_attention']


def exact_attention(
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  *,
  causal: bool,
  key_mask: Bool[Array, 'b lk'] | None = None,
  segment_ids: Int[Array, 'b lk'] | None = None,
) -> Float[Array, 'b lq h v']:
  """Computes softmax(q k^T / sqrt(d)) v in time and memory O(lq lk).

  Args:
    q: queries, unscaled.
    k: keys.
    v: values.
    causal: whether row i sees keys 0..i only (i included).
    key_mask: True = keep. Keys masked out have no effect and no gradient,
      whatever they contain.
    segment_ids: packed sequences: positions attend within runs of equal ids,
      as in `favor.Favor`.

  Returns:
    Outputs in the dtype of v; the softmax is float32. A row that sees no key
    is 0, with gradient 0.

  Raises:
    ValueError: if ranks, shapes or dtypes disagree.
  """
  calls.check_inputs(
    q, k, v, causal=causal, key_mask=key_mask, segment_ids=segment_ids
  )
  visible = None
  if causal:
    visible = jnp.tri(q.shape[1], dtype=bool)
  if segment_ids is not None:
    run = segments.runs(segment_ids)
    same = (run[:, :, None] == run[:, None, :])[:, None]
    visible = same if visible is None else visible & same
  if key_mask is not None:
    keep = key_mask[:, :, None, None]
    k, v = jnp.where(keep, k, 0), jnp.where(keep, v, 0)
    columns = key_mask[:, None, None, :]
    visible = columns if visible is None else visible & columns
  logits = state_lib.dot('bihd,bjhd->bhij', q, k)
  logits *= q.shape[-1] ** -0.5
  if visible is not None:
    logits = jnp.where(visible, logits, -jnp.inf)
  # A finite lower bound, so that a row of -inf gives exp(-inf) and not NaN.
  shift = jax.lax.stop_gradient(
    jnp.max(logits, axis=-1, keepdims=True, initial=-1e30)
  )
  weights = jnp.exp(logits - shift)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights /= jnp.where(total > 0, total, 1.0)
  out = state_lib.dot('bhij,bjhv->bihv', weights, v)
  return out.astype(v.dtype)


@dataclasses.dataclass(frozen=True)
class Exact:
  """Softmax attention; no options, no random matrix.

  Attributes:
    redraw_every: None, as there is nothing to redraw.
  """

  redraw_every: ClassVar[None] = None

  def draw(
    self,
    key: Key[Array, ''],
    *,
    layer: int | Int[Array, ''],
    step: int | Int[Array, ''],
    num_heads: int,
    head_dim: int,
  ) -> None:
    """Returns None: exact attention needs no projection."""
    del key, layer, step, num_heads, head_dim

  def __call__(
    self,
    q: Float[Array, 'b lq h d'],
    k: Float[Array, 'b lk h d'],
    v: Float[Array, 'b lk h v'],
    *,
    projection: None = None,
    causal: bool,
    key_mask: Bool[Array, 'b lk'] | None = None,
    segment_ids: Int[Array, 'b lk'] | None = None,
  ) -> Float[Array, 'b lq h v']:
    """Attends; see `exact_attention`. The projection must be None.

    Args:
      q: queries, unscaled.
      k: keys.
      v: values.
      projection: None.
      causal: whether row i sees keys 0..i only.
      key_mask: True = keep.
      segment_ids: packed sequences.

    Returns:
      Outputs in the dtype of v.

    Raises:
      ValueError: if a projection is given or shapes disagree.
    """
    projections.check(projection, expected=None)
    return exact_attention(
      q, k, v, causal=causal, key_mask=key_mask, segment_ids=segment_ids
    )
