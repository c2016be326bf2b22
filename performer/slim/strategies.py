"""Names of the strategies, and the checks that all of them share."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

__all__ = ['STRATEGIES', 'SUBTRACTING', 'check_request', 'run_length']

STRATEGIES = ('full', 'subtract', 'anchored', 'checkpoint', 'checkpoint2')
# Strategies that recover states, and need sums that can be undone.
SUBTRACTING = ('subtract', 'anchored')


def run_length(length: int, size: int) -> int:
  """Chunks per stored state of `checkpoint2` and `anchored`.

  About the square root of their number. The last run is filled up with empty
  chunks, which cost as much as others: of the lengths nearby the one with the
  least product of states and chunks, so that 32 chunks are 8 runs of 4 and not
  7 of 5.

  Args:
    length: l.
    size: positions of a chunk.

  Returns:
    A number from 1 to that of all chunks.
  """
  count = -(-length // size)
  root = math.isqrt(count)

  def cost(run: int) -> tuple[int, int]:
    runs = -(-count // run)
    states = run + runs
    return states * (run * runs), states

  return min(range(max(1, root // 2), min(count, 2 * root) + 1), key=cost)


def check_request(inputs: PyTree, chunk: int, strategy: str) -> int:
  """Checks the arguments of a sweep.

  Args:
    inputs: [b, l, ...].
    chunk: positions of a chunk.
    strategy: a member of `STRATEGIES`.

  Returns:
    Positions of a chunk, at most l.

  Raises:
    ValueError: if the strategy is unknown, the chunk is not positive, or inputs
      disagree about batch and length or are empty.
  """
  if strategy not in STRATEGIES:
    raise ValueError(f'strategy must be one of {STRATEGIES}, got {strategy!r}')
  if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
    raise ValueError(f'chunk must be a positive integer, got {chunk=!r}')
  shapes = {jnp.shape(x)[:2] for x in jax.tree.leaves(inputs)}
  if len(shapes) != 1 or len(min(shapes)) != 2 or 0 in min(shapes):
    raise ValueError(
      'inputs must all be [b, l, ...] with the same b and l, neither of them 0, '
      f'got {sorted(shapes)}'
    )
  return min(chunk, min(shapes)[1])
