"""Sweeps over the chunks of a sequence.

Strategies differ in where the backward sweep finds the state before a chunk:
`full` has one chunk only, `checkpointed` stores all states or, in two levels,
every k-th. These are plain JAX, of any order and mode of differentiation. The
third way, `subtraction`, computes each state from the one after it, from the
last of all or from every k-th, which `forward` yields.

Letters: b batch, l positions, c positions of a chunk, n chunks.

Reference: arXiv:2012.11346, section 3; Chen et al., arXiv:1604.06174 (two
levels).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from performer.attention.sums import state as state_lib
from performer.slim import problem as problem_lib

__all__ = [
  'Totals',
  'checkpointed',
  'chunk_of',
  'cut',
  'forward',
  'forward_chunk',
  'full',
  'grouped',
  'join',
  'length_of',
  'like',
  'numbered',
  'over_runs',
  'start',
  'widened',
  'zeros',
]


class Totals(NamedTuple):
  """Values that a forward sweep carries.

  Attributes:
    state: after the last chunk.
    loss: sum over all positions so far.
    metrics: likewise.
  """

  state: PyTree
  loss: Float[Array, '']
  metrics: PyTree


def length_of(inputs: PyTree) -> int:
  """l, the same for all inputs."""
  return jax.tree.leaves(inputs)[0].shape[1]


def cut(inputs: PyTree, size: int) -> PyTree:
  """[b, l, ...] to chunks [n, b, c, ...], the last filled up with zeros."""

  def one(x: Array) -> Array:
    pad = [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, pad)
    return x.reshape(x.shape[0], -1, size, *x.shape[2:]).swapaxes(0, 1)

  return jax.tree.map(one, inputs)


def join(chunks: PyTree, length: int) -> PyTree:
  """Undoes `cut`."""

  def one(x: Array) -> Array:
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]

  return jax.tree.map(one, chunks)


def chunk_of(
  inputs: PyTree,
  constants: PyTree,
  index: Int[Array, ''] | int,
  length: Int[Array, ''] | int,
) -> problem_lib.Chunk:
  """Chunk `index` of a sequence, with inputs [b, c, ...]."""
  size = length_of(inputs)
  at = index * size + jnp.arange(size)
  positions = jnp.minimum(at, length - 1)
  return problem_lib.Chunk(inputs, positions, at < length, constants)


def forward_chunk(
  problem: problem_lib.Problem,
  params: PyTree,
  constants: PyTree,
  totals: Totals,
  index: Int[Array, ''] | int,
  inputs: PyTree,
  length: Int[Array, ''] | int,
) -> Totals:
  """Adds one chunk: inputs [b, c, ...] of the positions from index * c on."""
  chunk = chunk_of(inputs, constants, index, length)
  loss, state, metrics = problem.loss(
    problem.attention, params, totals.state, chunk
  )
  metrics = jax.tree.map(jnp.add, totals.metrics, metrics)
  return Totals(state, totals.loss + loss, metrics)


def start(
  problem: problem_lib.Problem,
  params: PyTree,
  constants: PyTree,
  state: PyTree,
  inputs: PyTree,
  length: int,
) -> Totals:
  """The totals of no chunk, for chunks like `inputs`, [b, c, ...]."""
  chunk = jax.eval_shape(lambda: chunk_of(inputs, constants, 0, length))
  loss, after, metrics = jax.eval_shape(
    lambda p, s, x: problem.loss(problem.attention, p, s, x),
    params,
    state,
    chunk,
  )
  _check(loss, state, after)
  return Totals(state, *zeros((loss, metrics)))


def _check(loss: Any, state: PyTree, after: PyTree) -> None:
  def shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)

  if loss.shape != ():
    raise ValueError(
      f'the loss of a chunk must be a sum, a scalar; got shape {loss.shape}'
    )
  if shapes(state) != shapes(after):
    raise ValueError(
      'a chunk must return its state as it got it, got '
      f'{shapes(after)} for {shapes(state)}'
    )


def full(
  problem: problem_lib.Problem,
  params: PyTree,
  constants: PyTree,
  state: PyTree,
  inputs: PyTree,
) -> Totals:
  """All positions at once."""
  length = length_of(inputs)
  totals = start(problem, params, constants, state, inputs, length)
  return forward_chunk(problem, params, constants, totals, 0, inputs, length)


def forward(
  problem: problem_lib.Problem,
  params: PyTree,
  constants: PyTree,
  state: PyTree,
  inputs: PyTree,
  size: int,
  run: int,
) -> tuple[Totals, PyTree]:
  """One chunk after the other.

  Returns:
    The totals, and the states before every `run` chunks, [runs, ...].
  """
  length = length_of(inputs)
  totals, chunks = _begin(problem, params, constants, state, inputs, size)

  def one(totals: Totals, x: tuple) -> tuple[Totals, None]:
    return forward_chunk(problem, params, constants, totals, *x, length), None

  def several(totals: Totals, x: tuple) -> tuple[Totals, PyTree]:
    return jax.lax.scan(one, totals, x)[0], totals.state

  return over_runs(several, totals, grouped(chunks, run))


def checkpointed(
  problem: problem_lib.Problem,
  params: PyTree,
  constants: PyTree,
  state: PyTree,
  inputs: PyTree,
  size: int,
  *,
  run: int = 1,
) -> Totals:
  """As `forward`; its derivative keeps the state before every `run` chunks.

  With run > 1 the backward pass sweeps each run forward once more, storing the
  states within it.
  """
  length = length_of(inputs)
  totals, chunks = _begin(problem, params, constants, state, inputs, size)
  # Gradients add up over chunks in the dtype of the differentiated leaf.
  wide = widened(params)

  def one(totals: Totals, x: tuple) -> tuple[Totals, None]:
    narrow = like(wide, params)
    return forward_chunk(problem, narrow, constants, totals, *x, length), None

  one = jax.checkpoint(one, prevent_cse=False)
  if run == 1:
    return jax.lax.scan(one, totals, chunks)[0]

  def several(totals: Totals, x: tuple) -> tuple[Totals, None]:
    return jax.lax.scan(one, totals, x)[0], None

  several = jax.checkpoint(several, prevent_cse=False)
  return jax.lax.scan(several, totals, grouped(chunks, run))[0]


def _begin(
  problem: problem_lib.Problem,
  params: PyTree,
  constants: PyTree,
  state: PyTree,
  inputs: PyTree,
  size: int,
) -> tuple[Totals, tuple[Int[Array, 'n'], PyTree]]:
  """The totals of no chunk, and the chunks with their numbers."""
  chunks = numbered(inputs, size)
  first = jax.tree.map(lambda x: x[0], chunks[1])
  length = length_of(inputs)
  totals = start(problem, params, constants, state, first, length)
  return totals, chunks


def over_runs(
  body: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
  carry: PyTree,
  runs: PyTree,
  *,
  reverse: bool = False,
) -> tuple[PyTree, PyTree]:
  """`jax.lax.scan`, but a single run is no loop: its state is not copied."""
  if jax.tree.leaves(runs)[0].shape[0] > 1:
    return jax.lax.scan(body, carry, runs, reverse=reverse)
  carry, found = body(carry, jax.tree.map(lambda x: x[0], runs))
  return carry, jax.tree.map(lambda x: x[None], found)


def numbered(inputs: PyTree, size: int) -> tuple[Int[Array, 'n'], PyTree]:
  """Chunks, as `cut`, and their numbers."""
  return jnp.arange(-(-length_of(inputs) // size)), cut(inputs, size)


def grouped(
  chunks: tuple[Int[Array, 'n'], PyTree], run: int
) -> tuple[Int[Array, 'm run'], PyTree]:
  """Runs of chunks; the last is filled up with chunks behind the end."""
  indices, arrays = chunks
  missing = -len(indices) % run

  def group(x: Array) -> Array:
    x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(-1, run, *x.shape[1:])

  indices = jnp.arange(len(indices) + missing).reshape(-1, run)
  return indices, jax.tree.map(group, arrays)


def widened(params: PyTree) -> PyTree:
  """Parameters in the dtype in which their gradients are summed."""

  def one(x: Array) -> Array:
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return state_lib.widen(x) if floating else x

  return jax.tree.map(one, params)


def like(wide: PyTree, params: PyTree) -> PyTree:
  """Arrays in the dtypes of the parameters."""
  return jax.tree.map(lambda x, p: x.astype(p.dtype), wide, params)


def zeros(tree: PyTree) -> PyTree:
  """Zeros of the shapes and dtypes of a tree."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
