"""One of several algorithms, so that one program runs them all.

Compiling takes longer than running, and most of its time goes into the
functions that the algorithms optimise. One program for all algorithms compiles
these functions once.
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float, Key, PyTree

from hpo.optformer.behaviours import cube as cube_lib
from hpo.optformer.behaviours import protocol

__all__ = ['OneOf']


@dataclasses.dataclass(frozen=True)
class OneOf:
  """The algorithm of a number; a `protocol.Behaviour`, made within a program.

  Attributes:
    behaviours: the choice.
    index: int32, which of them; the same for all studies of a batch, or every
      algorithm is computed for each.
    name: unused, since studies name the algorithm of the index.
  """

  behaviours: tuple[protocol.Behaviour, ...]
  index: Any
  name: str = ''

  def init(self, cube: cube_lib.Cube) -> tuple[PyTree, ...]:
    """See `Behaviour`; the memories of all."""
    return tuple(behaviour.init(cube) for behaviour in self.behaviours)

  def propose(
    self,
    key: Key[Array, ''],
    cube: cube_lib.Cube,
    history: protocol.History,
    memory: tuple[PyTree, ...],
  ) -> tuple[Float[Array, ' d'], tuple[PyTree, ...]]:
    """See `Behaviour`."""

    def branch(place: int, behaviour: protocol.Behaviour):  # noqa: ANN202
      def propose(memory: tuple[PyTree, ...]) -> tuple:
        point, own = behaviour.propose(key, cube, history, memory[place])
        return point, (*memory[:place], own, *memory[place + 1 :])

      return propose

    branches = [branch(*found) for found in enumerate(self.behaviours)]
    return jax.lax.switch(self.index, branches, memory)
