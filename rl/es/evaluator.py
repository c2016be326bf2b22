"""The interface of evaluators, which run the rollouts."""

from typing import Any, Protocol, runtime_checkable

import flax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from rl import normalizer as normalizer_lib
from rl.es import population as population_lib

__all__ = ['Evaluation', 'Evaluator']


@flax.struct.dataclass
class Evaluation:
  """The results of p members, all of one side first.

  Attributes:
    returns: [p]; undiscounted, the mean over a member's episodes. Any value
      where not valid. With n rows of two sides: first the n of theta + sigma
      g_i, then the n of theta - sigma g_i, in the order of i.
    lengths: steps spent on the member, int32 [p], summed over its episodes.
    statistics: of all observations of the valid members, those at resets and
      at ends included; None if observations are not normalised.
    valid: bool [p]; False for members that were lost, or whose return is not
      finite: a simulation that broke says nothing, and must not break the
      others' update.
  """

  returns: Any
  lengths: Any
  statistics: Any
  valid: Any

  @classmethod
  def of(
    cls,
    returns: Float[Array | np.ndarray, ' p'],
    valid: Bool[Array | np.ndarray, ' p'] | None = None,
  ) -> 'Evaluation':
    """The evaluation of a plain function; each value counts as one step.

    Args:
      returns: to be maximised.
      valid: which of them came back; None: the finite ones.
    """
    returns = jnp.asarray(returns)
    valid = jnp.isfinite(returns) if valid is None else jnp.asarray(valid)
    return cls(returns, jnp.ones(returns.shape, jnp.int32), None, valid)


@runtime_checkable
class Evaluator(Protocol):
  """Runs episodes for members of a population.

  Attributes:
    pure: whether `evaluate` may be traced.
    observation_shape: of one observation.
  """

  pure: bool

  @property
  def observation_shape(self) -> tuple[int, ...]:
    """Shape of the observations that the normaliser counts."""
    ...

  def evaluate(
    self,
    population: population_lib.Population,
    keys: Key[Array, ' n'],
    normalizer: normalizer_lib.Statistics | None,
  ) -> Evaluation:
    """Runs all episodes.

    Args:
      population: of which the first n rows are evaluated.
      keys: of the environments, one per row. All members of a row get the same
        one (common random numbers): an even return gives a difference of
        exactly 0.
      normalizer: what observations are normalised with, unchanged during the
        evaluation; None: they are not.

    Returns:
      The returns, which depend neither on how many workers there are nor on
      which of them finished first.

    Raises:
      ValueError: if the population does not fit the policy or the keys.
    """
    ...

  def close(self) -> None:
    """Ends the workers, if there are any; the environment stays open."""
    ...
