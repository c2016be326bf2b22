"""Chooses the calls of `favor.Favor` that fused kernels can compute.

Letters: b batch, l positions, h heads, d width of a key, v of a value, m rows
of the projection.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention import fused, options
from performer.attention.kernels import structures

__all__ = ['CHUNK', 'attend', 'obstacle', 'plan', 'supports', 'taken']

_DTYPES = ('float32', 'bfloat16')
_KERNELS = (
  *('softmax_pos', 'softmax_hyp'),
  *('softmax_pos_reg', 'softmax_hyp_reg'),
)
# Matrix units take 16 rows or columns and more; features of wider heads do not
# fit into a GPU's registers, nor do those of more positions at a time than CHUNK.
_LEAST = 16
_MOST_WIDTH = 128
_MOST_ROWS = 256
# Bytes of one matrix [m, d] or [m, v]. Beyond, what Triton keeps of it exceeds
# the 227 KB of shared memory of sm_90; at it, at most 168 KB are taken.
_MOST_BYTES = 32768
CHUNK = 32


def obstacle(
  favor: options.Options,
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  projection: structures.Projection | None,
  *,
  segmented: bool = False,
  backend: str = 'gpu',
) -> str | None:
  """Why the fused kernels cannot compute a call.

  Args:
    favor: the options.
    q: queries, or anything with their shape and dtype.
    k: keys.
    v: values.
    projection: W.
    segmented: whether the call has segments.
    backend: on which the call will run, as `jax.default_backend()` says.

  Returns:
    The first reason; None if they can.
  """
  if backend != 'gpu':
    return f'the kernels need a GPU, got {backend=}'
  if favor.kernel not in _KERNELS:
    return f'the kernels are those of {_KERNELS}, got {favor.kernel=}'
  if favor.stabilizer != 'online' or not favor.renormalize:
    return (
      "the kernels need stabilizer='online' and renormalize=True, got "
      f'{favor.stabilizer=} {favor.renormalize=}'
    )
  if favor.feature_dtype not in _DTYPES:
    return f'features must be of {_DTYPES}, got {favor.feature_dtype=}'
  if segmented:
    return 'the kernels have no segments, got segment_ids'
  if getattr(projection, 'ndim', None) != 2:
    return (
      'the kernels need one matrix [m, d] for all heads, got '
      f'{favor.ortho=} {favor.per_head=}'
    )
  if q.dtype != k.dtype or not {q.dtype, v.dtype} <= set(
    map(jnp.dtype, _DTYPES)
  ):
    return (
      f'q and k must have one dtype of {_DTYPES} and v one of them, got '
      f'{q.dtype}, {k.dtype}, {v.dtype}'
    )
  item = max(q.dtype.itemsize, jnp.dtype(favor.feature_dtype).itemsize)
  return _size_obstacle(
    favor, q.shape[3], v.shape[3], projection.shape[0], item
  )


def _size_obstacle(
  favor: options.Options, d: int, width: int, m: int, item: int
) -> str | None:
  for name, size, most in (
    ('d', d, _MOST_WIDTH),
    ('v', width, _MOST_WIDTH),
    ('m', m, _MOST_ROWS),
  ):
    if size & (size - 1) or not _LEAST <= size <= most:
      return (
        f'{name} must be a power of two between {_LEAST} and {most}, got {size}'
      )
  if m * max(d, width) * item > _MOST_BYTES:
    return (
      f'm * max(d, v) must be at most {_MOST_BYTES // item} to fit into shared '
      f'memory, got {m=} {d=} v={width}'
    )
  if favor.chunk < _LEAST:
    return f'chunk must be at least {_LEAST}, got {favor.chunk=}'
  return None


def supports(
  favor: options.Options,
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  projection: structures.Projection | None,
  *,
  segmented: bool = False,
  backend: str = 'gpu',
) -> bool:
  """Whether the fused kernels can compute a call; arguments of `obstacle`."""
  reason = obstacle(
    favor, q, k, v, projection, segmented=segmented, backend=backend
  )
  return reason is None


def taken(
  favor: options.Options,
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  projection: structures.Projection | None,
  *,
  segmented: bool,
) -> bool:
  """Whether a call takes the fused kernels.

  Args:
    favor: the options; 'xla' never takes them, 'fused' always, and 'auto' on
      the devices of `fused.FASTER_ON` where they can compute the call.
    q: queries.
    k: keys.
    v: values.
    projection: W.
    segmented: whether the call has segments.

  Returns:
    Whether it does.

  Raises:
    ValueError: if it must and cannot, with the reason.
  """
  if favor.implementation == 'xla':
    return False
  backend = jax.default_backend()
  if favor.implementation == 'auto':
    kind = jax.local_devices()[0].device_kind
    if kind not in fused.FASTER_ON:
      return False
  reason = obstacle(
    favor, q, k, v, projection, segmented=segmented, backend=backend
  )
  if favor.implementation == 'fused' and reason is not None:
    raise ValueError(f"implementation='fused': {reason}")
  return reason is None


def plan(
  favor: options.Options, length: int, *, interpret: bool = False
) -> fused.Plan:
  """Constants of the kernels.

  Args:
    favor: the options.
    length: of the longer of queries and keys.
    interpret: whether Pallas interprets the kernels, which any device can.

  Returns:
    Chunks of the largest power of two up to `favor.chunk` and `CHUNK`, in groups of at most `fused.GROUP`.
  """
  chunk = 1 << (min(favor.chunk, CHUNK).bit_length() - 1)
  group = max(chunk, min(fused.GROUP, 1 << (length - 1).bit_length()))
  return fused.Plan(
    signs=favor.spec.copies,
    chunk=chunk,
    group=group,
    dtype=jnp.dtype(favor.feature_dtype),
    interpret=interpret,
  )


def attend(
  favor: options.Options,
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  projection: Float[Array, 'm d'],
  *,
  causal: bool,
  key_mask: Bool[Array, 'b lk'] | None,
  fallback: fused.Fallback,
  interpret: bool = False,
) -> Float[Array, 'b lq h v']:
  """Attends by the fused kernels.

  Args:
    favor: the options.
    q: queries.
    k: keys.
    v: values.
    projection: W, whose gradient is 0.
    causal: whether row i sees keys 0..i only.
    key_mask: True = keep.
    fallback: as in `fused.causal`.
    interpret: as in `plan`.

  Returns:
    Outputs in the dtype of v.
  """
  length = max(q.shape[1], k.shape[1])
  constants = plan(favor, length, interpret=interpret)
  if not causal:
    return fused.bidirectional(
      constants, q, k, v, projection, key_mask=key_mask
    )
  return fused.causal(
    constants, q, k, v, projection, fallback=fallback, key_mask=key_mask
  )
