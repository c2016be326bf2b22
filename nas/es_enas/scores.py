"""Scores, made of returns and costs: the search maximises them.

  Product       S = (r + shift) (c / T)^w, w = w_under where c <= T, else w_over
  Constrained   S = r where c <= T, else the penalty
  Mixed         S = b r + (1 - b) sparsity, b from 1 to its last value

Letters: n members, r their returns, c their costs, T the target.

Source: arXiv:2101.07415; arXiv:1907.06511 for the mix with sparsity.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rl import ranges

__all__ = ['Constrained', 'Mixed', 'Product', 'Score']


@runtime_checkable
class Score(Protocol):
  """Makes scores of returns; hashable settings."""

  def __call__(
    self,
    returns: Float[Array | np.ndarray, ' n'],
    costs: Mapping[str, Array | np.ndarray],
    generation: Int[Array, ''] | int,
  ) -> Float[Array, ' n']:
    """One score for every member.

    Args:
      returns: of the members; NaN stays NaN.
      costs: by name, [n] each, as of `SharedPolicy.costs` and `sparsity`.
      generation: number of generations before; may be traced.

    Returns:
      Scores, to be maximised.

    Raises:
      ValueError: if a cost is missing.
    """
    ...


def _cost(
  costs: Mapping[str, Array | np.ndarray], name: str
) -> Float[Array, ' n']:
  if name not in costs:
    raise ValueError(f'costs must have {name!r}, got {sorted(costs)}')
  return jnp.asarray(costs[name], jnp.float32)


@dataclasses.dataclass(frozen=True)
class Product:
  """The weighted product of the return and a cost.

  Where r + shift is negative it is divided by (c / T)^w instead, as multiplying
  would reward a larger cost: so the score grows with r everywhere, and falls
  with c wherever w is negative. Ratios c / T below 1e-6 count as 1e-6.

  Attributes:
    cost: name of c.
    target: T.
    shift: added to returns, such as the negative of the least plausible one.
    w_under: w up to the target, not above 0; 0 ignores lower costs.
    w_over: w above the target, not above 0.

  Raises:
    ValueError: if T is not positive or a w is.
  """

  cost: str = 'multiplications'
  target: float | int = 64
  shift: float | int = 1000
  w_under: float = 0.0
  w_over: float = -1.0

  def __post_init__(self) -> None:
    ranges.check_positive(target=self.target)
    for name in ('w_under', 'w_over'):
      if getattr(self, name) > 0:
        raise ValueError(
          f'{name} must not be positive, got {name}={getattr(self, name)}'
        )

  def __call__(
    self,
    returns: Float[Array | np.ndarray, ' n'],
    costs: Mapping[str, Array | np.ndarray],
    generation: Int[Array, ''] | int,
  ) -> Float[Array, ' n']:
    """See `Score`."""
    del generation
    ratio = jnp.maximum(_cost(costs, self.cost) / self.target, 1e-6)
    factor = ratio ** jnp.where(ratio <= 1, self.w_under, self.w_over)
    shifted = returns + self.shift
    return jnp.where(shifted < 0, shifted / factor, shifted * factor)


@dataclasses.dataclass(frozen=True)
class Constrained:
  """The return, of members that cost no more than the target.

  Attributes:
    penalty: score of a member that costs the target; of one that costs more,
      c / T - 1 less. To be set below all plausible returns.
    cost: name of c.
    target: T.

  Raises:
    ValueError: if T is not positive.
  """

  penalty: float | int
  cost: str = 'multiplications'
  target: float | int = 64

  def __post_init__(self) -> None:
    ranges.check_positive(target=self.target)

  def __call__(
    self,
    returns: Float[Array | np.ndarray, ' n'],
    costs: Mapping[str, Array | np.ndarray],
    generation: Int[Array, ''] | int,
  ) -> Float[Array, ' n']:
    """See `Score`."""
    del generation
    excess = _cost(costs, self.cost) / self.target - 1
    lost = jnp.where(jnp.isnan(returns), jnp.nan, self.penalty - excess)
    return jnp.where(excess <= 0, returns, lost)


@dataclasses.dataclass(frozen=True)
class Mixed:
  """The return and the sparsity of learned masks, `edges.Masked`.

  Attributes:
    generations: number of generations in which b falls from 1 to `last`,
      linearly; then it stays.
    last: the last b.
    unit: return that counts as much as a sparsity of 1, where b is 1/2.

  Raises:
    ValueError: if a number is out of range.
  """

  generations: int
  last: float = 0.5
  unit: float | int = 1

  def __post_init__(self) -> None:
    ranges.check_counts(generations=self.generations)
    ranges.check_shares(last=self.last)
    ranges.check_positive(unit=self.unit)

  def __call__(
    self,
    returns: Float[Array | np.ndarray, ' n'],
    costs: Mapping[str, Array | np.ndarray],
    generation: Int[Array, ''] | int,
  ) -> Float[Array, ' n']:
    """See `Score`."""
    progress = jnp.minimum(generation / self.generations, 1)
    b = 1 - (1 - self.last) * progress
    return b * returns / self.unit + (1 - b) * _cost(costs, 'sparsity')
