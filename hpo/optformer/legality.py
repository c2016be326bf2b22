"""Which tokens are legal for a parameter, as one number.

A code n in 1..Q stands for the tokens 0..n - 1: indices of a list, or all bins. The
code Q + k stands for the bins on which k whole numbers fall, from 2 on. Bins between
them would be rounded to one of these numbers; a model that gives them a share tells
less than it knows.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from hpo import spaces
from hpo.optformer import quantizing

__all__ = ['codes', 'is_legal', 'reflected']


def codes(
  parameters: tuple[spaces.Parameter, ...],
  bins: int = quantizing.NUM_BINS,
  *,
  exact: bool = False,
) -> Int[np.ndarray, ' d']:
  """Codes of parameters.

  Args:
    parameters: of a space.
    bins: Q.
    exact: whether whole numbers on a linear scale have only the bins on which
      they fall, if those are fewer than Q; published: all.

  Raises:
    ValueError: a parameter lists more values than there are bins.
  """
  found = quantizing.legal_counts(parameters, bins)
  for i, p in enumerate(parameters):
    if exact and isinstance(p, spaces.Int) and p.scale == 'LINEAR':
      count = int(p.high - p.low + 1)
      if 2 <= count <= bins:
        found[i] += count
  return found


def is_legal(
  codes: Int[Array, '*b'], bins: int = quantizing.NUM_BINS
) -> Bool[Array, '*b q']:
  """Which of the Q tokens are legal; none for the code 0.

  Args:
    codes: see the module.
    bins: Q.
  """
  code, token = codes[..., None], jnp.arange(bins)
  gaps = jnp.maximum(code - bins - 1, 1)
  index = _index(token, gaps, bins)
  falls = (_bin(index, gaps, bins) == token) & (index <= gaps)
  return jnp.where(code > bins, falls, token < code)


def reflected(
  code: int, bins: int = quantizing.NUM_BINS
) -> Int[np.ndarray, ' n']:
  """By token, that of the reflected value: the last one for the first.

  Args:
    code: see the module.
    bins: Q.

  Returns:
    As many as there are tokens, or Q; of those that are not legal, what is
    legal nearby.
  """
  if code <= bins:
    return np.arange(code, dtype=np.int32)[::-1]
  gaps = code - bins - 1
  index = gaps - _index(jnp.arange(bins), gaps, bins)
  return np.asarray(_bin(index, gaps, bins), np.int32)


def _bin(index: Array, gaps: Array | int, bins: int) -> Array:
  """The bin of a whole number, counted from 0, of gaps + 1 of them."""
  return jnp.minimum(index * bins // gaps, bins - 1)


def _index(token: Array, gaps: Array | int, bins: int) -> Array:
  """The first whole number that is not below a bin."""
  return -(-token * gaps // bins)
