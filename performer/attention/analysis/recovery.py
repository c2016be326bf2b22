"""Makes the attention matrix of a function visible.

Reference: arXiv:2009.14794, section C.4 (attention matrices).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention.kernels import structures

__all__ = ['recover_attention']

Attend = Callable[..., Float[Array, 'b lq h v']]


def recover_attention(
  attend: Attend,
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  *,
  projection: structures.Projection | None,
  causal: bool,
  key_mask: Bool[Array, 'b lk'] | None = None,
) -> Float[Array, 'b h lq lk']:
  """Recovers the implicit attention matrix by attending to V = I.

  Args:
    attend: a `Favor`, an `Exact`, or a function with their signature.
    q: queries, unscaled.
    k: keys.
    projection: W, or None where there is none.
    causal: whether row i sees keys 0..i only.
    key_mask: True = keep.

  Returns:
    The matrices, float32. Time and memory are O(lq lk): for analysis.
  """
  batch, length, heads, _ = k.shape
  identity = jnp.eye(length, dtype=jnp.float32)[None, :, None, :]
  identity = jnp.broadcast_to(identity, (batch, length, heads, length))
  out = attend(
    q, k, identity, projection=projection, causal=causal, key_mask=key_mask
  )
  return out.transpose(0, 2, 1, 3)
