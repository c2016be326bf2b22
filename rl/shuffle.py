"""Random orders, cheaper than `jax.random.permutation` where they are short."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

__all__ = ['permutations']

# Longer ones leave fewer than 22 random bits beside the place.
_SHORT = 1024


def permutations(
  key: Key[Array, ''], number: int, count: int
) -> Int[Array, 'number count']:
  """Independent random orders of 0..count-1, int32.

  Up to 1024, random bits and the place share a word, so that one array is
  sorted instead of two. Equal bits then keep their order: of two given places
  this happens once in 4 million.

  Args:
    key: of all of them.
    number: of orders.
    count: of things to order.
  """
  if count > _SHORT:
    keys = jax.random.split(key, number)
    return jax.vmap(lambda k: jax.random.permutation(k, count))(keys)
  mask = jnp.uint32((1 << (count - 1).bit_length()) - 1)
  bits = jax.random.bits(key, (number, count), jnp.uint32)
  words = (bits & ~mask) | jnp.arange(count, dtype=jnp.uint32)
  return (jnp.sort(words, -1) & mask).astype(jnp.int32)
