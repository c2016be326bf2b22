"""The rate at which lanes act at random, over the steps of training."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ['Epsilon', 'Linear', 'Powers']


@runtime_checkable
class Epsilon(Protocol):
  """A schedule; hashable."""

  def __call__(
    self, steps: Int[Array, ''], num_lanes: int
  ) -> Float[Array, ' n']:
    """The probability of a random action in each lane.

    Args:
      steps: of all lanes together so far.
      num_lanes: n.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Linear:
  """From one value to another, the same in every lane.

  Attributes:
    first: at the start.
    last: after `steps`, and from then on.
    steps: of all lanes together.

  Raises:
    ValueError: if a number is out of range.
  """

  first: float = 1.0
  last: float = 0.05
  steps: int = 10_000

  def __post_init__(self) -> None:
    if not (0 <= self.last <= 1 and 0 <= self.first <= 1 and self.steps >= 1):
      raise ValueError(
        'probabilities must be in [0, 1] and steps positive, got '
        f'{self.first=} {self.last=} {self.steps=}'
      )

  def __call__(
    self, steps: Int[Array, ''], num_lanes: int
  ) -> Float[Array, ' n']:
    """See `Epsilon`."""
    share = jnp.minimum(steps / self.steps, 1)
    value = self.first + share * (self.last - self.first)
    return jnp.full(num_lanes, value)


@dataclasses.dataclass(frozen=True)
class Powers:
  """eps_k^(1 + growth min(t / steps, 1)) with eps_k = base^u_k.

  The u_k are evenly spaced over the lanes, as in Ape-X (arXiv:1803.00933,
  section 4.1, where growth is 0).

  Attributes:
    base: in (0, 1).
    low: u of the first lane.
    high: u of the last lane.
    growth: growth of the exponent.
    steps: of all lanes together, until it is grown.

  Raises:
    ValueError: if a number is out of range.
  """

  base: float = 0.4
  low: float = 1.0
  high: float = 8.0
  growth: float = 7.0
  steps: int = 25_000_000

  def __post_init__(self) -> None:
    if not (0 < self.base < 1 and 0 < self.low <= self.high):
      raise ValueError(
        'base must be in (0, 1) and 0 < low <= high, got '
        f'{self.base=} {self.low=} {self.high=}'
      )
    if self.growth < 0 or self.steps < 1:
      raise ValueError(
        'growth must not be negative and steps must be positive, got '
        f'{self.growth=} {self.steps=}'
      )

  def __call__(
    self, steps: Int[Array, ''], num_lanes: int
  ) -> Float[Array, ' n']:
    """See `Epsilon`."""
    lanes = jnp.linspace(self.low, self.high, num_lanes)
    grown = 1 + self.growth * jnp.minimum(steps / self.steps, 1)
    return self.base ** (lanes * grown)
