"""Packed sequences: which positions of a chunk belong together.

A segment is a run of equal ids. Linear attention keeps the sums of one segment
at a time, so a segment that is interrupted by another one starts anew.

Letters: b batch, l positions, n chunks, j positions of a chunk.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

__all__ = ['Segments', 'View', 'chunked', 'runs', 'same']


class Segments(NamedTuple):
  """The segments of one chunk (of all chunks, with n in front).

  Attributes:
    run: number of the segment.
    carried: whether it is the one that was open at the end of the chunk
      before.
    last: whether it is the one that is open at the end of this chunk.
    first: index in the chunk of the first kept key of the segment.
  """

  run: Int[Array, '*n b j']
  carried: Bool[Array, '*n b j']
  last: Bool[Array, '*n b j']
  first: Int[Array, '*n b j']


class View(NamedTuple):
  """Which keys of a chunk its rows see: the earlier ones of their segment.

  Attributes:
    keep: keys that count; None: all.
    inclusive: whether a row sees its own key.
    segments: of the chunk; None for one segment.
  """

  keep: Bool[Array, '#b j'] | None
  inclusive: bool = True
  segments: Segments | None = None


def runs(ids: Int[Array, 'b l']) -> Int[Array, 'b l']:
  """Numbers the runs of equal ids from 0."""
  changes = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)))
  return jnp.cumsum(changes, axis=1, dtype=jnp.int32)


def chunked(
  ids: Int[Array, 'b l'], key_mask: Bool[Array, '#b l'] | None, chunk: int
) -> Segments:
  """Cuts segment ids into chunks.

  Args:
    ids: of the positions; any integers.
    key_mask: keys to keep.
    chunk: positions per chunk; the last one is padded with its last segment.

  Returns:
    The segments of all chunks, [n, b, chunk].
  """
  ids = jnp.pad(ids, ((0, 0), (0, -ids.shape[1] % chunk)), mode='edge')
  run = runs(ids)
  run = run.reshape(ids.shape[0], -1, chunk).swapaxes(0, 1)
  before = jnp.concatenate([run[:1, :, 0], run[:-1, :, -1]])
  keep = jnp.ones_like(run, bool)
  if key_mask is not None:
    mask = jnp.broadcast_to(key_mask, (ids.shape[0], key_mask.shape[1]))
    mask = jnp.pad(mask, ((0, 0), (0, -mask.shape[1] % chunk)))
    keep = mask.reshape(ids.shape[0], -1, chunk).swapaxes(0, 1)
  return Segments(
    run,
    run == before[..., None],
    run == run[..., -1:],
    _first_kept(run, keep),
  )


def _first_kept(
  run: Int[Array, 'n b j'], keep: Bool[Array, 'n b j']
) -> Int[Array, 'n b j']:
  """Index of the first kept key of each position's run; its own if none."""
  mine = (run[..., :, None] == run[..., None, :]) & keep[..., None, :]
  own = jnp.arange(run.shape[-1], dtype=jnp.int32)
  first = jnp.argmax(mine, axis=-1).astype(jnp.int32)
  return jnp.where(jnp.any(mine, axis=-1), first, own)


def same(segments: Segments) -> Bool[Array, '#b 1 i j']:
  """Pairs (row, key) of one segment, with an axis for the heads."""
  run = segments.run
  return run[:, None, :, None] == run[:, None, None, :]
