"""Sequences cut into chunks, in the layout that the loops read fastest.

Letters: b batch, l positions, h heads, d width of a key, v of a value, n
chunks; rows: all positions of one chunk, b * chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

__all__ = [
  'Cut',
  'clean',
  'cut',
  'cut_inputs',
  'join',
  'rows',
  'size',
  'stack',
  'vary_like',
]


class Cut(NamedTuple):
  """Inputs in chunks.

  Attributes:
    q: queries; None where they are not needed.
    k: keys, zero where masked.
    v: values, zero where masked.
    mask: keys to keep, without the padding; None: all.
  """

  q: Float[Array, 'n rows h d'] | None
  k: Float[Array, 'n rows h d']
  v: Float[Array, 'n rows h v']
  mask: Bool[Array, 'n #b chunk'] | None


def size(length: int, chunk: int) -> int:
  """The chunk, or the power of two that holds a shorter sequence."""
  return min(chunk, 1 << (length - 1).bit_length())


def cut(x: Float[Array, 'b l h d'], chunk: int) -> Float[Array, 'n rows h d']:
  """Pads the tail with zeros and puts the chunks in front.

  For one sequence this is a view. The batch has no axis of its own, because
  XLA copies what a loop reads through an axis of size 1.
  """
  b, length, h, d = x.shape
  x = jnp.pad(x, ((0, 0), (0, -length % chunk), (0, 0), (0, 0)))
  x = x.reshape(b, -1, chunk, h, d).swapaxes(0, 1)
  return x.reshape(-1, b * chunk, h, d)


def cut_inputs(
  q: Float[Array, 'b l h d'] | None,
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  key_mask: Bool[Array, 'b l'] | None,
  chunk: int,
) -> Cut:
  """Cuts the inputs of a loop.

  Args:
    q: queries, as many as keys; None.
    k: keys.
    v: values.
    key_mask: True = keep.
    chunk: positions of a chunk; of a shorter sequence, its `size`.
  """
  length = k.shape[1]
  chunk = size(length, chunk)
  k, v = clean(k, v, key_mask)
  q, k, v = (None if x is None else cut(x, chunk) for x in (q, k, v))
  return Cut(q, k, v, _cut_mask(key_mask, length, chunk))


def join(
  x: Float[Array, 'n rows h v'], batch: int, length: int
) -> Float[Array, 'b l h v']:
  """Undoes `cut`."""
  n, count, h, width = x.shape
  x = x.reshape(n, batch, count // batch, h, width).swapaxes(0, 1)
  return x.reshape(batch, -1, h, width)[:, :length]


def rows(arrays: PyTree[Array], batch: int) -> PyTree[Array]:
  """One chunk of arrays [rows, h, d], heads first: [b, h, chunk, d]."""

  def one(x: Array) -> Array:
    return x.reshape(batch, -1, *x.shape[1:]).swapaxes(1, 2)

  return jax.tree.map(one, arrays)


def stack(arrays: PyTree[Array]) -> PyTree[Array]:
  """Undoes `rows`."""

  def one(x: Array) -> Array:
    x = x.swapaxes(1, 2)
    return x.reshape(-1, *x.shape[2:])

  return jax.tree.map(one, arrays)


def clean(
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  key_mask: Bool[Array, 'b l'] | None,
) -> tuple[Float[Array, 'b l h d'], Float[Array, 'b l h v']]:
  """Zeroes masked values: inf there must not reach a product, 0 * inf."""
  if key_mask is None:
    return k, v
  keep = key_mask[:, :, None, None]
  return jnp.where(keep, k, 0), jnp.where(keep, v, 0)


def _cut_mask(
  key_mask: Bool[Array, 'b l'] | None, length: int, chunk: int
) -> Bool[Array, 'n #b chunk'] | None:
  """The mask of each chunk, its padding included; None if all is kept."""
  if key_mask is None:
    if length % chunk == 0:
      return None
    key_mask = jnp.ones((1, length), bool)
  mask = jnp.pad(key_mask, ((0, 0), (0, -length % chunk)))
  return mask.reshape(mask.shape[0], -1, chunk).swapaxes(0, 1)


def vary_like(tree: PyTree[Array], x: Float[Array, '...']) -> PyTree[Array]:
  """Marks floats as varying over the mesh axes that x varies over.

  Inside `jax.shard_map` a loop's carry must vary as its body's result does, and
  the gradient of what is equal on all devices is a sum over them.
  """
  zero = jnp.full_like(x, 0, shape=())
  return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), tree)
