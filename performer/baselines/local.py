"""Some heads attend exactly to near positions, the others linearly to all.

A head within a window sees the keys less than `window` positions away, before
it and, unless causal, after it. Time and memory are O(l window).

References: arXiv:2004.05150, section 3.1 (windows); arXiv:2003.05997, section 4
(heads of two kinds).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from performer import attention

__all__ = ['LocalHeads', 'windowed_attention']


def windowed_attention(
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *,
  window: int,
  causal: bool,
  key_mask: Bool[Array, 'b l'] | None = None,
) -> Float[Array, 'b l h v']:
  """Softmax attention to keys j with |i - j| < window.

  Positions are cut into blocks of `window`; each block attends to itself and
  its neighbours.

  Args:
    q: queries, unscaled.
    k: keys.
    v: values.
    window: reach, at least 1; a window of 1 sees the position itself.
    causal: whether row i sees no key after i.
    key_mask: True = keep.

  Returns:
    Outputs in the dtype of v; the softmax is float32. A row that sees no key is
    0.

  Raises:
    ValueError: if the window is empty or there are not as many keys as queries.
  """
  if window < 1 or q.shape[1] != k.shape[1]:
    raise ValueError(
      'a window is at least 1 and needs as many keys as queries, '
      f'got {window=} {q.shape=} {k.shape=}'
    )
  length = q.shape[1]
  window = min(window, max(length, 1))  # A longer one would be all padding.
  if key_mask is None:
    key_mask = jnp.ones(k.shape[:2], bool)
  k, v = (jnp.where(key_mask[..., None, None], x, 0) for x in (k, v))
  q, k, v, keep = (_blocks(x, window) for x in (q, k, v, key_mask))
  k, v, keep = (_with_neighbours(x, causal=causal) for x in (k, v, keep))
  wide = jnp.promote_types(q.dtype, jnp.float32)
  logits = jnp.einsum('bnihd,bnjhd->bnhij', q, k, preferred_element_type=wide)
  logits *= q.shape[-1] ** -0.5
  distance = jnp.arange(window)[:, None] + window - jnp.arange(k.shape[2])
  near = (distance < window) & (distance > (-1 if causal else -window))
  seen = near & keep[:, :, None, None, :]
  logits = jnp.where(seen, logits, -jnp.inf)
  # A finite bound: a row that sees nothing gives exp(-inf), not NaN.
  top = jnp.max(logits, -1, keepdims=True, initial=-1e30)
  weights = jnp.exp(logits - jax.lax.stop_gradient(top))
  total = jnp.sum(weights, -1, keepdims=True)
  weights /= jnp.where(total > 0, total, 1)
  out = jnp.einsum('bnhij,bnjhv->bnihv', weights, v.astype(wide))
  out = out.reshape(out.shape[0], -1, *out.shape[3:])
  return out[:, :length].astype(v.dtype)


def _blocks(x: Array, size: int) -> Array:
  """[b, l, ...] as [b, n, size, ...], with zeros at the end."""
  spare = -x.shape[1] % size
  x = jnp.pad(x, [(0, 0), (0, spare)] + [(0, 0)] * (x.ndim - 2))
  return x.reshape(x.shape[0], -1, size, *x.shape[2:])


def _with_neighbours(x: Array, *, causal: bool) -> Array:
  """Each block with the one before it, and unless causal the one after."""
  padded = jnp.pad(x, [(0, 0), (1, 1)] + [(0, 0)] * (x.ndim - 2))
  parts = [padded[:, :-2], x] + ([] if causal else [padded[:, 2:]])
  return jnp.concatenate(parts, axis=2)


@dataclasses.dataclass(frozen=True)
class LocalHeads:
  """The mechanism, with the interface of `attention.Favor`.

  Attributes:
    linear: mechanism of the other heads.
    num_heads: heads of the model. Devices cannot share them, as they differ.
    local_heads: number of heads within the window, the first ones.
    window: see `windowed_attention`.

  Raises:
    ValueError: if a number is out of range.
  """

  linear: attention.Favor
  num_heads: int
  local_heads: int
  window: int

  def __post_init__(self) -> None:
    if not 0 < self.local_heads < self.num_heads or self.window < 1:
      raise ValueError(
        'some heads must be local and some not, and the window at least 1, '
        f'got {self.local_heads=} {self.num_heads=} {self.window=}'
      )

  @property
  def redraw_every(self) -> int | None:
    """See the linear mechanism."""
    return self.linear.redraw_every

  def draw(
    self,
    key: Key[Array, ''],
    *,
    layer: int | Int[Array, ''],
    step: int | Int[Array, ''],
    num_heads: int,
    head_dim: int,
  ) -> PyTree:
    """The random matrix of the linear heads; see `attention.Favor.draw`."""
    return self.linear.draw(
      key,
      layer=layer,
      step=step,
      num_heads=num_heads - self.local_heads,
      head_dim=head_dim,
    )

  def __call__(
    self,
    q: Float[Array, 'b l h d'],
    k: Float[Array, 'b l h d'],
    v: Float[Array, 'b l h v'],
    *,
    projection: PyTree,
    causal: bool,
    key_mask: Bool[Array, 'b l'] | None = None,
  ) -> Float[Array, 'b l h v']:
    """Attends; see `attention.Favor`.

    Raises:
      ValueError: if there are other than `num_heads` heads.
    """
    if q.shape[2] != self.num_heads:
      raise ValueError(
        f'there must be num_heads={self.num_heads} heads, on one device, '
        f'got {q.shape[2]}'
      )
    options = {'causal': causal, 'key_mask': key_mask}
    near, far = (
      [x[:, :, part] for x in (q, k, v)]
      for part in (slice(self.local_heads), slice(self.local_heads, None))
    )
    return jnp.concatenate(
      [
        windowed_attention(*near, window=self.window, **options),
        self.linear(*far, projection=projection, **options),
      ],
      axis=2,
    )
