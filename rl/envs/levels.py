"""Numbered levels, so that training and test levels can be kept apart."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

__all__ = ['check_levels', 'draw_level', 'draw_on_host', 'level_key']

_LAST = np.iinfo(np.int32).max


def check_levels(num_levels: int, start_level: int) -> None:
  """Rejects a range of levels that does not exist.

  Raises:
    ValueError: if a number is negative or the last level beyond 2^31 - 2.
  """
  if num_levels < 0 or start_level < 0 or start_level + num_levels > _LAST:
    raise ValueError(
      'num_levels and start_level must not be negative, and their sum must be '
      f'below 2^31, got {num_levels=} {start_level=}'
    )


def draw_level(
  key: Key[Array, ''], num_levels: int, start_level: int
) -> Int[Array, '']:
  """Draws one of `num_levels` levels from `start_level` on, uniformly.

  With num_levels = 0 there is no last level: all of start_level, ...,
  2^31 - 2. (Procgen ignores start_level then; with 0 both agree. A start
  beyond the training levels makes an unlimited test set without them.)
  """
  last = start_level + num_levels if num_levels else _LAST
  return jax.random.randint(key, (), start_level, last, jnp.int32)


def draw_on_host(
  random: np.random.Generator, num_levels: int, start_level: int
) -> int:
  """Like `draw_level`, by NumPy."""
  last = start_level + num_levels if num_levels else _LAST
  return int(random.integers(start_level, last))


def level_key(level: Int[Array, ''], purpose: int) -> Key[Array, '']:
  """The key from which everything in a level is drawn.

  Args:
    level: its number.
    purpose: a constant of the caller, so that two uses of one number differ.
  """
  return jax.random.fold_in(jax.random.key(purpose), level)
