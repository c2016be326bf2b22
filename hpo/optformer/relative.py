"""Softmax attention with T5's relative position bias, and its caches.

`Softmax` has the interface of the mechanisms of `performer.attention`: where
they take a random matrix, it takes a bias of its logits. Its state is a cache of
keys and values. `Branches` continues one history in many ways at once: candidates
share the cache of the history, which is neither copied nor read once for each.

T5 does not divide logits by sqrt(d): its queries are initialised so much smaller.

Reference: arXiv:1910.10683, Section 2.1 (buckets of distances).
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree

from performer.models import attention as attention_lib

__all__ = ['KV', 'Bias', 'Branches', 'Keys', 'Memory', 'Softmax']

# Added to logits of keys that are not to be seen: far below any other, and
# finite, so that a row without keys gives no NaN.
HIDDEN = -1e30


class KV(NamedTuple):
  """Keys and values: [b, c, h, d], or [b, n, c, h, d] of n branches."""

  k: Float[Array, '...']
  v: Float[Array, '...']


class Memory(NamedTuple):
  """Keys and values of an encoded source, and which of them are real."""

  k: Float[Array, 'b s h d']
  v: Float[Array, 'b s h d']
  mask: Bool[Array, 'b s'] | None


class Keys(NamedTuple):
  """What logits depend on besides queries and keys.

  Attributes:
    bias: added to the logits; of a cache it also hides the tokens that are not visible.
    start: place in the cache where a piece begins: [b], or () for branches.
    prefix: cache that branches share, read only.
    prefix_bias: as `bias`, for `prefix`.
  """

  bias: Float[Array, '#b h #q k']
  start: Int[Array, '...'] | None = None
  prefix: KV | None = None
  prefix_bias: Float[Array, 'b h #q p'] | None = None


@dataclasses.dataclass(frozen=True)
class Softmax:
  """Softmax attention without a scale; the logits may have a bias."""

  redraw_every: ClassVar[None] = None
  takes_bias: ClassVar[bool] = True

  def draw(self, key: Array, **sizes: int | Array) -> None:
    """Returns None: there is no random matrix."""
    del key, sizes

  def __call__(
    self,
    q: Float[Array, 'b q h d'],
    k: Float[Array, 'b k h d'],
    v: Float[Array, 'b k h d'],
    *,
    projection: Keys | None = None,
    causal: bool,
    key_mask: Bool[Array, 'b k'] | None = None,
  ) -> Float[Array, 'b q h d']:
    """Attends to whole sequences.

    Args:
      q: queries.
      k: keys.
      v: values.
      projection: with the bias; None: no bias.
      causal: whether row i sees keys 0..i only.
      key_mask: True = keep.

    Returns:
      Outputs in the dtype of v.
    """
    bias = jnp.zeros((1, 1, 1, 1)) if projection is None else projection.bias
    if causal:
      seen = np.tri(q.shape[1], k.shape[1], dtype=bool)
      bias = jnp.where(seen, bias, HIDDEN)
    if key_mask is not None:
      bias = jnp.where(key_mask[:, None, None], bias, HIDDEN)
    weights = jax.nn.softmax(_logits(q, k) + bias, axis=-1).astype(v.dtype)
    return jnp.einsum('bhqk,bkhd->bqhd', weights, v)

  def extend(
    self,
    q: Float[Array, 'b q h d'],
    k: Float[Array, 'b q h d'],
    v: Float[Array, 'b q h d'],
    *,
    projection: Keys,
    key_mask: None = None,
    state: KV,
  ) -> tuple[Float[Array, 'b q h d'], KV]:
    """Attends from a piece to a cache that the piece is written to first.

    Args:
      q: queries.
      k: keys.
      v: values.
      projection: with the bias, and `start` for each sequence.
      key_mask: None: the bias tells which tokens are visible.
      state: the cache; it must have room for the piece.

    Returns:
      Outputs in the dtype of v, and the cache.
    """
    write = jax.vmap(
      lambda cache, piece, start: jax.lax.dynamic_update_slice_in_dim(
        cache, piece.astype(cache.dtype), start, 0
      )
    )
    state = KV(
      write(state.k, k, projection.start), write(state.v, v, projection.start)
    )
    out = self(q, *state, projection=projection, causal=False)
    return out.astype(v.dtype), state

  def summarize(
    self,
    k: Float[Array, 'b s h d'],
    v: Float[Array, 'b s h d'],
    *,
    projection: None = None,
    key_mask: Bool[Array, 'b s'] | None = None,
  ) -> Memory:
    """The keys of a source, for any number of calls of `read`."""
    del projection
    return Memory(k, v, key_mask)

  def read(
    self,
    q: Float[Array, 'b q h d'],
    state: Memory,
    *,
    projection: None = None,
  ) -> Float[Array, 'b q h d']:
    """Attends to a source."""
    return self(
      q,
      state.k,
      state.v,
      projection=projection,
      causal=False,
      key_mask=state.mask,
    )


@dataclasses.dataclass(frozen=True)
class Branches:
  """Attention from n branches, one position each, of a history they share.

  The branches lie along the length axis of queries, keys and values.

  Attributes:
    attention: `Softmax`, or a mechanism with a state of constant size.
  """

  attention: attention_lib.AttentionFn
  redraw_every: ClassVar[None] = None

  @property
  def takes_bias(self) -> bool:
    """Whether the mechanism takes a bias."""
    return isinstance(self.attention, Softmax)

  def draw(self, key: Array, **sizes: int | Array) -> PyTree:
    """See the mechanism."""
    return self.attention.draw(key, **sizes)

  def __call__(self, *args: Any, **options: Any) -> Array:
    """See the mechanism."""
    return self.attention(*args, **options)

  def read(self, q: Array, state: PyTree, **options: Any) -> Array:
    """See the mechanism."""
    return self.attention.read(q, state, **options)

  def extend(
    self,
    q: Float[Array, 'b n h d'],
    k: Float[Array, 'b n h d'],
    v: Float[Array, 'b n h d'],
    *,
    projection: PyTree,
    key_mask: None = None,
    state: PyTree,
  ) -> tuple[Float[Array, 'b n h d'], PyTree]:
    """Attends from the next position of each branch.

    Args:
      q: queries of the branches.
      k: keys.
      v: values.
      projection: `Keys` with the shared cache; or the random matrix.
      key_mask: None: every branch has this position.
      state: of the branches: `KV`, or sums with leading axis b * n.

    Returns:
      Outputs in the dtype of v, and the state.
    """
    if not self.takes_bias:
      single = lambda x: x.reshape(-1, 1, *x.shape[2:])
      out, state = self.attention.extend(
        single(q), single(k), single(v), projection=projection, state=state
      )
      return out.reshape(v.shape), state
    write = lambda cache, piece: jax.lax.dynamic_update_slice_in_dim(
      cache, piece[:, :, None].astype(cache.dtype), projection.start, 2
    )
    state = KV(write(state.k, k), write(state.v, v))
    shared, own = projection.prefix, state
    to_shared = _logits(q, shared.k) + projection.prefix_bias
    to_own = jnp.einsum(
      'bnhd,bnchd->bhnc', q, own.k, preferred_element_type=jnp.float32
    )
    logits = jnp.concatenate([to_shared, to_own + projection.bias], axis=-1)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    length = shared.k.shape[1]
    out = jnp.einsum('bhnk,bkhd->bnhd', weights[..., :length], shared.v)
    out += jnp.einsum('bhnc,bnchd->bnhd', weights[..., length:], own.v)
    return out.astype(v.dtype), state


def _logits(
  q: Float[Array, 'b q h d'], k: Float[Array, 'b k h d']
) -> Float[Array, 'b h q k']:
  return jnp.einsum('bqhd,bkhd->bhqk', q, k, preferred_element_type=jnp.float32)


def buckets(
  num_buckets: int, max_distance: int, *, causal: bool
) -> tuple[Int[np.ndarray, ' r'], int]:
  """The bucket of each relative position, key minus query.

  Args:
    num_buckets: of all.
    max_distance: positions this far or farther share a bucket.
    causal: whether only earlier keys are told apart.

  Returns:
    int32 buckets of the positions -max_distance..max_distance, beyond which
    they do not change; and the place of position 0.
  """
  relative = np.arange(-max_distance, max_distance + 1)
  found = np.zeros(relative.shape, np.int32)
  count = num_buckets
  if causal:
    distance = np.maximum(-relative, 0)
  else:
    count //= 2
    found += (relative > 0) * count
    distance = np.abs(relative)
  exact = count // 2
  growth = np.log(np.maximum(distance, 1) / exact, dtype=np.float32)
  share = growth / np.float32(math.log(max_distance / exact))
  far = exact + (share * (count - exact)).astype(np.int32)
  found += np.where(distance < exact, distance, np.minimum(far, count - 1))
  return found.astype(np.int32), max_distance


class Bias(nn.Module):
  """A learned bias for each head and bucket of distances.

  Attributes:
    num_heads: h.
    causal: whether only earlier keys are told apart.
    num_buckets: of distances.
    max_distance: from here on all distances share a bucket.
  """

  num_heads: int
  causal: bool
  num_buckets: int = 32
  max_distance: int = 128

  def setup(self) -> None:
    """Makes the table."""
    init = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')
    self.table = self.param(
      'table',
      attention_lib.partitioned(init, 'position', 'heads'),
      (self.num_buckets, self.num_heads),
    )

  def _by_position(self) -> tuple[Float[Array, 'r h'], int]:
    places, middle = buckets(
      self.num_buckets, self.max_distance, causal=self.causal
    )
    return self.table[places], middle

  def __call__(self, length: int) -> Float[Array, '1 h l l']:
    """The bias of whole sequences."""
    by_position, middle = self._by_position()
    relative = np.arange(1 - length, length + 1)
    clipped = np.clip(relative, -middle, middle) + middle
    # Row i of the result is these values, shifted by i. Shifts by reshaping
    # have a gradient without a scatter over all pairs.
    values = jnp.tile(by_position[clipped].T, (1, length))
    rows = values[:, : length * (2 * length - 1)]
    rows = rows.reshape(-1, length, 2 * length - 1)
    return rows[None, :, :, length - 1 :]

  def at(
    self, queries: Int[Array, 'b q'], keys: Int[Array, '#b k']
  ) -> Float[Array, 'b h q k']:
    """The bias of some positions, which hides keys after the query."""
    by_position, middle = self._by_position()
    relative = keys[:, None] - queries[..., None]
    found = by_position[jnp.clip(relative, -middle, middle) + middle]
    found = jnp.moveaxis(found, -1, 1)
    return jnp.where((relative <= 0)[:, None], found, HIDDEN)
