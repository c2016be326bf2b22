"""The inner loop that is tuned: pure functions of a state and its settings.

The settings that a tuner varies, zeta, are traced arrays. One compiled program
therefore serves a whole population by `jax.vmap`, whatever its settings are.

Reference: arXiv:2201.03916, Sections 2 and 3: max_zeta f(zeta, theta*), subject to
theta* maximising J(theta; zeta).
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

__all__ = ['Inner', 'Update', 'Zeta', 'sound']

Zeta = Mapping[str, Array]  # Traced scalars by name.


class Update(NamedTuple):
  """The result of one update.

  Attributes:
    state: after it.
    score: what tuning maximises, such as the mean of recent returns; not
      finite: the run has failed.
    metrics: other finite scalars by name.
  """

  state: PyTree
  score: Float[Array, '']
  metrics: Mapping[str, Float[Array, '']]


@runtime_checkable
class Inner(Protocol):
  """A learner whose settings are tuned; a hashable dataclass.

  All that changes is in the state, optimiser and environments included: a copy
  of the state continues exactly as the original would.
  """

  @property
  def steps(self) -> int:
    """Environment steps of one update."""
    ...

  def init(self, key: Key[Array, '']) -> PyTree:
    """The state before the first update."""
    ...

  def update(self, state: PyTree, zeta: Zeta, key: Key[Array, '']) -> Update:
    """One update.

    Args:
      state: before.
      zeta: settings by name.
      key: of this update only.

    Raises:
      ValueError: a name is not that of a setting.
    """
    ...

  def evaluate(self, state: PyTree, key: Key[Array, '']) -> Float[Array, '']:
    """The score of a state in conditions that it did not learn in.

    Args:
      state: of a run.
      key: of the test.
    """
    ...


def sound(scores: Float[Array, '*n']) -> Float[Array, '*n']:
  """The scores, NaN where infinite: a return that overflows is a failure.

  Args:
    scores: of runs.
  """
  return jnp.where(jnp.isfinite(scores), scores, jnp.nan)
