"""Embeddings that know where in its trial each token stands.

Not of the paper, whose model has to find out by attention which tokens make up a
trial and which of them is which parameter. It takes a small model many thousands
of steps to learn that.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from hpo.optformer import blocks, tokens
from performer.models import attention as attention_lib

__all__ = ['Places', 'legal_codes', 'running_sums']

_PARAMETERS = 32  # That are told apart.
_SLOTS = _PARAMETERS + 4  # And `*`, the objective, `|`, and what stands before.
_BITS = 32  # Buckets of numbers of legal tokens: their bit lengths.


class Places(nn.Module):
  """Adds facts about the place of a token to its embedding.

  Each token of a trial gets the sum over the parameters of its trial so far, itself
  included. In the sum each embedding is multiplied by the signs of its slot, so
  that the sum still says which parameter has which value. Four codes are added: of
  the slot of the token in its trial, of the number of legal tokens there and in the
  next slot, and of the number of the trial, as sinusoids.

  Attributes:
    width: of the embeddings.
    start: tokens before the first trial.
  """

  width: int
  start: int

  def setup(self) -> None:
    """Makes the tables."""
    table = lambda name, rows, init: self.param(
      name,
      attention_lib.partitioned(init, 'position', 'embed'),
      (rows, self.width),
    )
    normal = nn.initializers.normal(1.0)
    self.slots = table('slots', _SLOTS, normal)
    self.own = table('own', _BITS, normal)
    self.following = table('following', _BITS, normal)
    self.signs = table('signs', _SLOTS, _signs)

  def __call__(
    self,
    x: Float[Array, '*b l e'],
    positions: Int[Array, '*#b l'],
    legal: Int[Array, '*#b d'],
    opened: Float[Array, '*b e'] | None = None,
  ) -> tuple[Float[Array, '*b l e'], Float[Array, '*b l e']]:
    """Embeddings of neighbouring tokens of sequences.

    Args:
      x: embeddings of the tokens alone.
      positions: from 0 on, `start` included.
      legal: numbers of legal tokens of the parameters, 0 beyond them.
      opened: the sum over the trial that the first of these tokens goes on with;
        not read if that is the first of a trial; None: zeros.

    Returns:
      Embeddings with places; and the sums, the last of which is `opened` of the
      token that follows.
    """
    count = (legal > 0).sum(axis=-1, keepdims=True)
    place = positions - self.start
    trial, slot = jnp.divmod(place, count + 3)

    def bits(slot: Array) -> Array:
      column = jnp.minimum(slot, legal.shape[-1] - 1)
      found = jnp.take_along_axis(legal, column, axis=-1)
      return _BITS - jax.lax.clz(jnp.where(slot < count, found, 0))

    kind = jnp.where(
      slot < count,
      jnp.minimum(slot, _PARAMETERS - 1),
      _PARAMETERS + slot - count,
    )
    kind = jnp.where(place < 0, _SLOTS - 1, kind)
    codes = (
      self.slots[kind]
      + self.own[bits(jnp.where(place < 0, count, slot))]
      + self.following[bits((place + 1) % (count + 3))]
      + blocks.sinusoids(trial, self.width)
    )
    parts = x * self.signs[kind].astype(x.dtype)
    parts = jnp.where((kind < _PARAMETERS)[..., None], parts, 0)
    sums = running_sums(parts, slot == 0, opened)
    return x + sums + codes.astype(x.dtype), sums


def _signs(key: Array, shape: tuple[int, int]) -> Float[Array, 's e']:
  return jax.random.rademacher(key, shape, jnp.float32)


def running_sums(
  parts: Float[Array, '*b l e'],
  begins: Bool[Array, '*#b l'],
  opened: Float[Array, '*b e'] | None = None,
) -> Float[Array, '*b l e']:
  """Sums from the last beginning on, without the rounding of differences.

  Args:
    parts: to be summed.
    begins: where a sum begins anew.
    opened: the sum that goes on, unless the first part begins one; None: zeros.
  """
  begins = jnp.broadcast_to(begins, parts.shape[:-1])[..., None]
  if opened is not None:
    goes_on = jnp.where(begins[..., 0, :], 0, opened)
    parts = parts.at[..., 0, :].add(goes_on)

  def join(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple:
    return jnp.where(b[1], b[0], a[0] + b[0]), a[1] | b[1]

  return jax.lax.associative_scan(join, (parts, begins), axis=parts.ndim - 2)[0]


def legal_codes(batch: Mapping[str, Any], start: int) -> Int[Array, 'b d']:
  """Codes of the legal tokens of the parameters, 0 beyond them; see `legality`.

  Args:
    batch: of examples; see `tokens`.
    start: tokens before the first trial.
  """
  slots = batch['slots'][:, start - 1 :]
  is_first = jnp.cumsum(slots == tokens.STAR, axis=1) == 0
  is_first &= slots == tokens.PARAMETER
  return jnp.where(is_first, batch['legal'][:, start - 1 :], 0)
