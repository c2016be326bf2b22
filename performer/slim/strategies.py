"""Names of the strategies, and what every one of them asks of a request."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

__all__ = ['STRATEGIES', 'check_request', 'run_length']

STRATEGIES = ('full', 'subtract', 'checkpoint', 'checkpoint2')


def run_length(length: int, size: int) -> int:
  """Chunks per stored state of `checkpoint2`: the square root of all."""
  return max(1, math.isqrt(-(-length // size)))


def check_request(inputs: PyTree, chunk: int, strategy: str) -> int:
  """Checks what a sweep is asked to do.

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
