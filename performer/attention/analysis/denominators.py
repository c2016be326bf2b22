"""Rows of signed features whose denominators are no sums of weights.

Reference: arXiv:2009.14794, section 2.2 (the instability of trigonometric
features).
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention import calls
from performer.attention import favor as favor_lib
from performer.attention.kernels import structures
from performer.attention.sums import linear

__all__ = ['bad_denominator_fraction']


def bad_denominator_fraction(
  favor: favor_lib.Favor,
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  *,
  projection: structures.Projection | None,
  causal: bool,
  key_mask: Bool[Array, 'b lk'] | None = None,
) -> Float[Array, '']:
  """Fraction of rows whose denominator is not positive.

  Zero for positive kernels; for signed ones it tells how many outputs are not
  averages of values. Rows that see no key are left out.

  Args:
    favor: the attention, with the online stabiliser.
    q: queries, unscaled.
    k: keys.
    projection: W, or None where there is none.
    causal: whether row i sees keys 0..i only.
    key_mask: True = keep.

  Returns:
    A float32 scalar in [0, 1].

  Raises:
    ValueError: if shapes disagree or the stabiliser is not the online one.
  """
  calls.check_inputs(q, k, k, causal=causal, key_mask=key_mask)
  if favor.stabilizer != 'online':
    raise ValueError(f'needs the online rule, got {favor.stabilizer=}')
  favor.check_projection(projection, q)
  form = dataclasses.replace(
    favor.form(projection, head_dim=q.shape[-1]),
    finish=lambda rows, queries: rows.denominator[..., None],
  )
  v = jnp.ones((*k.shape[:3], 1), jnp.float32)
  if causal:
    denominator, _ = linear.causal(form, q, k, v, key_mask=key_mask)
  else:
    denominator = linear.bidirectional(form, q, k, v, key_mask=key_mask)
  seen = jnp.ones(k.shape[:2], bool) if key_mask is None else key_mask
  seen = (
    jnp.cumsum(seen, axis=1) > 0 if causal else jnp.any(seen, axis=1)[:, None]
  )
  bad = (denominator[..., 0] <= 0) & seen[..., None]
  rows = jnp.sum(jnp.broadcast_to(seen[..., None], bad.shape))
  return jnp.sum(bad) / jnp.maximum(rows, 1).astype(jnp.float32)
