"""The range of seeds: one rule for flags, gin files, tuners and data."""

import numbers

__all__ = ['LARGEST', 'check']

LARGEST = 2**32 - 1  # JAX takes 32 bits: larger ones would repeat.


def check(seed: int) -> None:
  """Raises ValueError unless a seed is one that every random stream takes."""
  if not isinstance(seed, numbers.Integral) or not 0 <= seed <= LARGEST:
    raise ValueError(f'seed must be a whole number in 0..2**32-1, got {seed=}')
