"""Codes of the place of each token in its trial.

Not of the paper, whose model has to count tokens back to the last `|` to know
which parameter it reads: a small model learns in a few hundred steps with these
codes what takes it many thousands without them.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from hpo.optformer import blocks, tokens
from performer.models import attention as attention_lib

__all__ = ['Places', 'legal_counts']

_PARAMETERS = 32  # That are told apart.
_SLOTS = _PARAMETERS + 4  # And `*`, the objective, `|`, and what stands before.
_BITS = 32  # Buckets of numbers of legal tokens: their bit lengths.


class Places(nn.Module):
  """The sum of four codes, to be added to the embedding of a token.

  They are of the slot of the token in its trial, of the number of legal tokens
  there and in the next slot, and of the number of the trial, as sinusoids.

  Attributes:
    width: of the codes.
    start: tokens before the first trial.
  """

  width: int
  start: int

  def setup(self) -> None:
    """Makes the tables."""
    table = lambda name, rows: self.param(
      name,
      attention_lib.partitioned(
        nn.initializers.normal(1.0), 'position', 'embed'
      ),
      (rows, self.width),
    )
    self.slots = table('slots', _SLOTS)
    self.own = table('own', _BITS)
    self.following = table('following', _BITS)

  def __call__(
    self, positions: Int[Array, 'a l'], legal: Int[Array, 'b d']
  ) -> Float[Array, 'b l e']:
    """The codes of tokens at some positions of their sequences.

    Args:
      positions: from 0 on, `start` included.
      legal: numbers of legal tokens of the parameters, 0 beyond them.
    """
    count = (legal > 0).sum(axis=1, keepdims=True)
    place = positions - self.start
    trial, slot = jnp.divmod(place, count + 3)

    def bits(slot: Array) -> Array:
      column = jnp.minimum(slot, legal.shape[1] - 1)
      found = jnp.take_along_axis(legal, column, axis=1)
      return _BITS - jax.lax.clz(jnp.where(slot < count, found, 0))

    kind = jnp.where(
      slot < count,
      jnp.minimum(slot, _PARAMETERS - 1),
      _PARAMETERS + slot - count,
    )
    kind = jnp.where(place < 0, _SLOTS - 1, kind)
    return (
      self.slots[kind]
      + self.own[bits(jnp.where(place < 0, count, slot))]
      + self.following[bits((place + 1) % (count + 3))]
      + blocks.sinusoids(trial, self.width)
    )


def legal_counts(batch: Mapping[str, Any], start: int) -> Int[Array, 'b d']:
  """Numbers of legal tokens of the parameters, 0 beyond them.

  Args:
    batch: of examples; see `tokens`.
    start: tokens before the first trial.
  """
  slots = batch['slots'][:, start - 1 :]
  is_first = jnp.cumsum(slots == tokens.STAR, axis=1) == 0
  is_first &= slots == tokens.PARAMETER
  return jnp.where(is_first, batch['legal'][:, start - 1 :], 0)
