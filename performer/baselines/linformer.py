"""Linformer: exact attention to k random sums of all keys.

With R a k x L matrix of independent N(0, 1/k) entries, outputs are
softmax(q (R K)^T / sqrt(d)) (R V). R is drawn, not learned, and redrawn as the
matrices of fast attention are. Every sum mixes all positions, so that there is
no causal form.

The published baseline also has a constant delta = 1e-6, which the paper does not
define. There is none here: the softmax subtracts its maximum and needs nothing
added to its sums, and the keys and values keep their scale (theorem 2 would
multiply them by delta and exp(-delta)).

References: arXiv:2006.04768, theorem 2 (one R for keys and values);
arXiv:2009.14794, A.6 (k = 600, redrawn).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from performer import attention

__all__ = ['Linformer']


@dataclasses.dataclass(frozen=True)
class Linformer:
  """The mechanism, with the interface of `attention.Favor`.

  Attributes:
    max_length: positions that the matrix has; shorter sequences use its first
      columns.
    rows: k, number of sums.
    redraw_every: steps between new matrices; None: never.

  Raises:
    ValueError: if a number is below 1.
  """

  max_length: int
  rows: int = 600
  redraw_every: int | None = 1000

  def __post_init__(self) -> None:
    every = 1 if self.redraw_every is None else self.redraw_every
    if min(self.max_length, self.rows, every) < 1:
      raise ValueError(f'numbers must be at least 1, got {self}')

  def draw(
    self,
    key: Key[Array, ''],
    *,
    layer: int | Int[Array, ''],
    step: int | Int[Array, ''],
    num_heads: int,
    head_dim: int,
  ) -> Float[Array, 'k l']:
    """The matrix of a layer at a training step, shared by its heads.

    Args:
      key: the same during the whole run.
      layer: index of the layer.
      step: training step.
      num_heads: has no effect.
      head_dim: has no effect.

    Returns:
      R, float32.
    """
    del num_heads, head_dim
    epoch = 0 if self.redraw_every is None else step // self.redraw_every
    key = jax.random.fold_in(jax.random.fold_in(key, layer), epoch)
    shape = (self.rows, self.max_length)
    return jax.random.normal(key, shape) * self.rows**-0.5

  def __call__(
    self,
    q: Float[Array, 'b lq h d'],
    k: Float[Array, 'b lk h d'],
    v: Float[Array, 'b lk h v'],
    *,
    projection: Float[Array, 'k l'],
    causal: bool,
    key_mask: Bool[Array, 'b lk'] | None = None,
  ) -> Float[Array, 'b lq h v']:
    """Attends, bidirectionally, in time and memory O((lq + lk) k).

    Args:
      q: queries, unscaled.
      k: keys.
      v: values.
      projection: result of `draw`.
      causal: must be False.
      key_mask: True = keep. Keys masked out add nothing to the sums.

    Returns:
      Outputs in the dtype of v.

    Raises:
      ValueError: if it is asked to be causal, or there are too many keys.
    """
    if causal:
      raise ValueError(
        'Linformer sums all positions and has no causal form; set causal=False'
      )
    if k.shape[1] > self.max_length:
      raise ValueError(
        f'there must be at most {self.max_length} keys, got {k.shape[1]}'
      )
    rows = projection[:, : k.shape[1]]
    if key_mask is not None:
      keep = key_mask[..., None, None]
      k, v = jnp.where(keep, k, 0), jnp.where(keep, v, 0)

    def summed(x: Float[Array, 'b l h n']) -> Float[Array, 'b k h n']:
      sums = jnp.einsum(
        'kl,blhn->bkhn', rows, x, preferred_element_type=jnp.float32
      )
      return sums.astype(x.dtype)

    return attention.exact_attention(q, summed(k), summed(v), causal=False)
