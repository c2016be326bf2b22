"""The interface of population-based methods."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, Key, PyTree

from hpo import spaces

__all__ = ['Method', 'Step']


class Step(NamedTuple):
  """The population before its next round.

  Attributes:
    state: of the method; has `codes`.
    parents: int32 [n]; member i continues from the last state of this member,
      from its own where that is i.
  """

  state: PyTree
  parents: Int[Array, ' n']


@runtime_checkable
class Method(Protocol):
  """Chooses parents and settings between rounds; pure, jittable, hashable.

  Its state has an attribute `codes`, float32 [n, d]: the settings of the next
  round; see `traced`. With its member a method copies all: weights, optimiser,
  environments.
  """

  @property
  def space(self) -> spaces.Space:
    """Of the settings."""
    ...

  def init(self, key: Key[Array, ''], size: int, rounds: int) -> Any:
    """The state before the first round.

    Args:
      key: of the first settings.
      size: n, members.
      rounds: that there will be at most.
    """
    ...

  def step(
    self, state: Any, scores: Float[Array, ' n'], key: Key[Array, '']
  ) -> Step:
    """After a round: exploits good members, explores settings.

    Args:
      state: before the round.
      scores: of the members after it, maximised; NaN: the member has failed.
      key: of this step only.
    """
    ...
