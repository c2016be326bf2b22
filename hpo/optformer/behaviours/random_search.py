"""Random search: every point is uniform in the unit cube."""

import dataclasses

from jaxtyping import Array, Float, Key

from hpo.optformer.behaviours import cube as cube_lib
from hpo.optformer.behaviours import protocol

__all__ = ['RandomSearch']


@dataclasses.dataclass(frozen=True)
class RandomSearch(protocol.Stateless):
  """See the module; a `protocol.Behaviour`."""

  name: str = 'designer_random_search'

  def point(
    self, key: Key[Array, ''], cube: cube_lib.Cube, history: protocol.History
  ) -> Float[Array, ' d']:
    """See `Stateless`."""
    return cube.uniform(key)
