"""Forms of linear attention: bidirectional, causal by chunks, causal by steps.

Each form takes arrays as the model has them, [b, l, h, width], lays them out
once as chunks of [b, h, chunk, width] and scans over the chunks. Features
exist for one chunk at a time, in the forward and in the backward pass, so
memory is linear in the length with no [l, r] buffer.

Letters: b batch, l positions, h heads, d width of a key, v of a value, r
features, n chunks.

Reference: arXiv:2009.14794, Algorithm 1 and section B.1.
"""

import dataclasses
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention import direct_family, kernels, log_family
from performer.attention import state as state_lib

__all__ = ['Form', 'bidirectional', 'causal', 'causal_scan']

Featurize = Callable[[Float[Array, 'b h l d']], kernels.Features]
Finish = Callable[[state_lib.Readout, kernels.Features], Array]


@dataclasses.dataclass(frozen=True)
class Form:
  """What a linear form computes with.

  Attributes:
    featurize_queries: maps queries, [b, h, l, d], to their features.
    featurize_keys: the same for keys; most kernels have one map for both.
    finish: maps rows read, and their query features, to outputs
      [b, h, l, v].
    features: r.
    log: whether the features are logarithms.
    chunk: positions per chunk, a power of two.
    dtype: of the stabilised features; sums are float32.
  """

  featurize_queries: Featurize
  featurize_keys: Featurize
  finish: Finish
  features: int
  log: bool
  chunk: int
  dtype: jnp.dtype

  @property
  def family(self) -> types.ModuleType:
    """The module that sums and reads these features."""
    return log_family if self.log else direct_family

  def empty(self, v: Float[Array, 'b h l v']) -> state_lib.State:
    """The state of no keys, for values like v."""
    return state_lib.empty(
      v, self.features, v.shape[-1], self.family.PER_FEATURE
    )


def _chunk_size(length: int, chunk: int) -> int:
  """The chunk, or the power of two that holds a shorter sequence."""
  return min(chunk, 1 << (length - 1).bit_length())


def _to_chunks(
  x: Float[Array, 'b l h d'], chunk: int
) -> Float[Array, 'n b h chunk d']:
  b, length, h, d = x.shape
  x = jnp.pad(x, ((0, 0), (0, -length % chunk), (0, 0), (0, 0)))
  return x.reshape(b, -1, chunk, h, d).transpose(1, 0, 3, 2, 4)


def _from_chunks(
  x: Float[Array, 'n b h chunk v'], length: int
) -> Float[Array, 'b l h v']:
  n, b, h, chunk, width = x.shape
  x = x.transpose(1, 0, 3, 2, 4).reshape(b, n * chunk, h, width)
  return x[:, :length]


def _keys_to_chunks(
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  key_mask: Bool[Array, 'b l'] | None,
  chunk: int,
) -> tuple[Array, Array, Bool[Array, 'n #b chunk'] | None]:
  """Chunks keys, values and mask; what is masked is zero."""
  length = k.shape[1]
  if key_mask is not None:
    # Whatever stands there, inf included, must not reach a product: 0 * inf.
    keep = key_mask[:, :, None, None]
    k, v = jnp.where(keep, k, 0), jnp.where(keep, v, 0)
  elif length % chunk:
    key_mask = jnp.ones((1, length), bool)
  mask = None
  if key_mask is not None:
    mask = jnp.pad(key_mask, ((0, 0), (0, -length % chunk)))
    mask = mask.reshape(mask.shape[0], -1, chunk).transpose(1, 0, 2)
  return _to_chunks(k, chunk), _to_chunks(v, chunk), mask


def bidirectional(
  form: Form,
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  *,
  key_mask: Bool[Array, 'b lk'] | None = None,
) -> Float[Array, 'b lq h v']:
  """Every query sees every kept key.

  Args:
    form: features and chunking.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.

  Returns:
    Outputs, float32.

  Reference: arXiv:2009.14794, Algorithm 1 (bidirectional).
  """
  keys = _keys_to_chunks(k, v, key_mask, _chunk_size(k.shape[1], form.chunk))

  # The sum itself stays outside the checkpoint: it is linear, so the backward
  # pass needs no copy of the state per chunk.
  @jax.checkpoint
  def summarize(k: Array, v: Array, mask: Array | None) -> state_lib.State:
    return form.family.summarize(form.featurize_keys(k), v, mask, form.dtype)

  def absorb(
    state: state_lib.State, chunk: tuple
  ) -> tuple[state_lib.State, None]:
    return state_lib.merge(state, summarize(*chunk)), None

  state, _ = jax.lax.scan(absorb, form.empty(keys[1][0]), keys)

  @jax.checkpoint
  def read(state: state_lib.State, q: Array) -> Array:
    queries = form.featurize_queries(q)
    return form.finish(form.family.read(state, queries, form.dtype), queries)

  queries = _to_chunks(q, _chunk_size(q.shape[1], form.chunk))
  _, out = jax.lax.scan(lambda s, q: (s, read(s, q)), state, queries)
  return _from_chunks(out, q.shape[1])


def causal(
  form: Form,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *,
  key_mask: Bool[Array, 'b l'] | None = None,
  state: state_lib.State | None = None,
) -> tuple[Float[Array, 'b l h v'], state_lib.State]:
  """Query i sees kept keys 0..i, and those of the state given.

  Per chunk of C positions the work is three C x C and two C x r products; the
  backward pass keeps one state per chunk and computes the rest again.

  Args:
    form: features and chunking.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.
    state: sums over earlier keys; None for none.

  Returns:
    Outputs, float32, and the state after the last key.

  Reference: arXiv:2009.14794, section B.1.
  """
  chunk = _chunk_size(q.shape[1], form.chunk)
  keys = _keys_to_chunks(k, v, key_mask, chunk)

  @jax.checkpoint
  def step(
    state: state_lib.State, chunk: tuple
  ) -> tuple[state_lib.State, Array]:
    q, k, v, mask = chunk
    queries = form.featurize_queries(q)
    state, rows = form.family.causal_chunk(
      state, queries, form.featurize_keys(k), v, mask, form.dtype
    )
    return state, form.finish(rows, queries)

  if state is None:
    state = form.empty(keys[1][0])
  state, out = jax.lax.scan(step, state, (_to_chunks(q, chunk), *keys))
  return _from_chunks(out, q.shape[1]), state


def causal_scan(
  form: Form,
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *,
  key_mask: Bool[Array, 'b l'] | None = None,
  state: state_lib.State | None = None,
) -> tuple[Float[Array, 'b l h v'], state_lib.State]:
  """The same as `causal`, one position at a time.

  Slow, and its backward pass keeps a state per position: it is the meaning of
  `causal`, for tests and for single steps of decoding.

  Args:
    form: features; its chunk is not used.
    q: queries.
    k: keys.
    v: values.
    key_mask: True = keep.
    state: sums over earlier keys; None for none.

  Returns:
    Outputs, float32, and the state after the last key.
  """
  keys = _keys_to_chunks(k, v, key_mask, 1)

  def step(
    state: state_lib.State, position: tuple
  ) -> tuple[state_lib.State, Array]:
    q, k, v, mask = position
    summary = form.family.summarize(form.featurize_keys(k), v, mask, form.dtype)
    state = state_lib.merge(state, summary)
    queries = form.featurize_queries(q)
    rows = form.family.read(state, queries, form.dtype)
    return state, form.finish(rows, queries)

  if state is None:
    state = form.empty(keys[1][0])
  state, out = jax.lax.scan(step, state, (_to_chunks(q, 1), *keys))
  return _from_chunks(out, q.shape[1]), state
