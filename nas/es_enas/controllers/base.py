"""The interface of controllers, which propose architectures.

  state = controller.init(key, count)
  while ...:
    architectures = controller.propose(state, key, count)
    state, metrics = controller.feedback(state, key, architectures, scores, valid)

The state is a pytree of arrays of bounded size: a checkpoint holds all of it.
`propose` and `feedback` are functions of their arguments; the caller folds the
number of the generation into the keys.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from nas.es_enas import space as space_lib

__all__ = ['Controller']


@runtime_checkable
class Controller(Protocol):
  """Proposes architectures and learns from their scores; hashable settings.

  Attributes:
    space: what it proposes from.
    pure: whether its functions may be traced.
  """

  space: space_lib.Space
  pure: bool

  def init(self, key: Key[Array, ''], count: int) -> PyTree:
    """The state before the first proposal.

    Args:
      key: of first draws.
      count: number of architectures that each `feedback` will bring; the size
        of a population that is not set otherwise.
    """
    ...

  def propose(
    self, state: PyTree, key: Key[Array, ''], count: int
  ) -> Int[Array, 'count D']:
    """Draws architectures; they do not change the state.

    Args:
      state: of the controller.
      key: of these draws.
      count: static; any, such as the number of pairs of a generation.
    """
    ...

  def feedback(
    self,
    state: PyTree,
    key: Key[Array, ''],
    architectures: Int[Array, 'n D'],
    scores: Float[Array, ' n'],
    valid: Bool[Array, ' n'],
  ) -> tuple[PyTree, dict[str, Array]]:
    """Learns from a generation.

    Args:
      state: of the controller.
      key: of draws within the update, such as minibatches.
      architectures: that were evaluated, of `propose`; repetitions are allowed.
      scores: to be maximised; finite where valid, else of any value.
      valid: False for evaluations that were lost; they must not change the
        state. Where none is valid, the state stays as it is.

    Returns:
      The new state and metrics, scalars by name.
    """
    ...

  def best(self, state: PyTree) -> Int[Array, ' D']:
    """The architecture that the controller holds for the best now."""
    ...
