"""Hill climbing: one parameter of the best point is drawn anew.

Reference: arXiv:2205.13320, Appendix B.1.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hpo.optformer.behaviours import cube as cube_lib
from hpo.optformer.behaviours import mutation, protocol

__all__ = ['HillClimb']


@dataclasses.dataclass(frozen=True)
class HillClimb(protocol.Stateless):
  """See the module; the first point is uniform; a `protocol.Behaviour`."""

  name: str = 'designer_hill_climb'

  def point(
    self, key: Key[Array, ''], cube: cube_lib.Cube, history: protocol.History
  ) -> Float[Array, ' d']:
    """See `Stateless`."""
    moved = mutation.resample_one(key, cube, history.best)
    return jnp.where(history.count, moved, cube.uniform(key))
