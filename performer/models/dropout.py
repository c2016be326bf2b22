"""Dropout whose masks do not depend on how sequences are cut into pieces.

`flax.linen.Dropout` draws one mask for the array that it is given, so pieces of
a sequence get other masks than the whole. Here a mask is a function of the rng,
the site in the model, the row of the batch and the position in the sequence.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import random
from jaxtyping import Array, Float, Int, UInt16

__all__ = ['PositionalDropout', 'make']

# Masks compare 16 random bits with the rate: half the random numbers.
_LEVELS = 1 << 16


class PositionalDropout(nn.Module):
  """Dropout keyed by (rng 'dropout', site, row, absolute position).

  A site is a module and a call of it, and layers of `nn.scan` whose rngs are
  split are sites of their own. Cut a batch along its positions in any way: the
  pieces get the masks of the whole. The gradient is masked alike. Rows are
  counted in the array given: inside `jax.shard_map`, where that is one device's
  share, fold the device into the rng.

  Attributes:
    rate: probability of 0, in [0, 1); rounded to a multiple of 2^-16.
    deterministic: whether to return inputs as they are.

  Raises:
    ValueError: if the rate is out of range.
  """

  rate: float
  deterministic: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b l d'], positions: Int[Array, 'b l']
  ) -> Float[Array, 'b l d']:
    """Zeroes entries at random, and scales the others to keep the mean.

    Args:
      x: activations.
      positions: of the rows of x in their sequences, >= 0.

    Returns:
      Activations of the same dtype.
    """
    if not 0 <= self.rate < 1:
      raise ValueError(f'rate must be in [0, 1), got {self.rate=}')
    if self.deterministic or self.rate == 0:
      return x
    kept = max(1, round((1 - self.rate) * _LEVELS))
    mask = _bits(self.make_rng('dropout'), positions, x.shape[-1]) < kept
    # In at least float32: bfloat16 would round the factor, and so the mean.
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.where(mask, wide * (_LEVELS / kept), 0).astype(x.dtype)


def _bits(
  key: Array, positions: Int[Array, 'b l'], width: int
) -> UInt16[Array, 'b l d']:
  """Random numbers for every entry, by one counter for each four of a row.

  The counter is (position, row and quarter), under the key of the site.
  Threefry, whatever the rng is: its numbers belong to counters and not arrays.
  """
  seed = jax.random.key_data(key)
  if seed.shape != (2,):  # Not a key of Threefry.
    seed = jax.random.bits(key, (2,), jnp.uint32)
  quarters = -(-width // 4)
  rows = jnp.arange(positions.shape[0], dtype=jnp.uint32)[:, None, None]
  second = rows * quarters + jnp.arange(quarters, dtype=jnp.uint32)
  first = positions[..., None].astype(jnp.uint32)
  counters = jnp.broadcast_arrays(first, second)
  words = jnp.stack(random.threefry2x32_p.bind(*seed, *counters), axis=-1)
  halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
  return halves.reshape(*positions.shape, -1)[..., :width]


def make(
  rate: float, *, train: bool, positions: Int[Array, 'b l'] | None
) -> Callable[[Float[Array, 'b l d']], Float[Array, 'b l d']]:
  """The dropout of a module's compact method.

  Args:
    rate: probability of 0.
    train: False: identity.
    positions: of the activations; None: sequences are whole, and masks are
      those of `flax.linen.Dropout`.

  Returns:
    A function of activations; each call of it is a site of its own.
  """
  if positions is None:
    return nn.Dropout(rate, deterministic=not train)
  drop = PositionalDropout(rate, deterministic=not train)
  return lambda x: drop(x, positions)
