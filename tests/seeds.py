"""Random inputs: the same in every run, others with `--fresh-seed`."""

import jax
import numpy as np

# What `--fresh-seed` gives, or None; conftest.py sets it before tests load.
FRESH = None


def seed(number):
  """The seed that stands for a number in this run."""
  if FRESH is None:
    return number
  return int(np.random.SeedSequence((FRESH, number)).generate_state(1)[0])


def rng(number):
  """numpy's generator of `seed(number)`."""
  return np.random.default_rng(seed(number))


def key(number):
  """JAX's key of `seed(number)`."""
  return jax.random.key(seed(number))
