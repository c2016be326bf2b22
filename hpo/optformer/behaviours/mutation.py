"""The mutation that evolution and hill climbing share."""

import jax
from jaxtyping import Array, Float, Key

from hpo.optformer.behaviours import cube as cube_lib

__all__ = ['resample_one']


def resample_one(
  key: Key[Array, ''], cube: cube_lib.Cube, parent: Float[Array, ' d']
) -> Float[Array, ' d']:
  """A point with one parameter, chosen uniformly, drawn uniformly anew."""
  first, second = jax.random.split(key)
  place = jax.random.randint(first, (), 0, parent.shape[0])
  return parent.at[place].set(cube.uniform(second)[place])
