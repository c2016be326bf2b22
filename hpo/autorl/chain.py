"""A chain in which the best discount is known: a small reward now, or a large one.

Reference: the idea of the chains in arXiv:1805.09801, Section 4.1.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rl import ranges
from rl.envs import protocol, spaces

__all__ = ['Chain', 'ChainState']


class ChainState(NamedTuple):
  """The place in the chain, from 0 on."""

  place: Int[Array, '']


@dataclasses.dataclass(frozen=True)
class Chain:
  """One choice: `near` at once, or `far` after walking to the end.

  In the first state, action 0 pays `near` and terminates. Action 1, and any
  action afterwards, walks on; the step out of the last state pays `far` and
  terminates. With a discount above `threshold` it is better to walk.

  Attributes:
    length: number of states.
    near: reward of leaving at once.
    far: reward at the end.
    noise: deviation of a normal number that is added to either reward.

  Raises:
    ValueError: if the chain is shorter than 2, or rewards are not ordered as
      0 < near < far.
  """

  length: int = 10
  near: float = 1.0
  far: float = 2.0
  noise: float = 0.0

  def __post_init__(self) -> None:
    ranges.check_counts(least=2, length=self.length)
    ranges.check_not_negative(noise=self.noise)
    if not 0 < self.near < self.far:
      raise ValueError(
        f'rewards must be 0 < near < far, got {self.near=} {self.far=}'
      )

  @property
  def threshold(self) -> float:
    """The discount at which both choices are worth the same."""
    return (self.near / self.far) ** (1 / (self.length - 1))

  @property
  def max_steps(self) -> int:
    """An episode ends by itself."""
    return self.length

  @property
  def observation_space(self) -> spaces.Space:
    """The state, one of `length`."""
    return spaces.Box((self.length,), 0.0, 1.0)

  @property
  def action_space(self) -> spaces.Space:
    """Leave, or walk."""
    return spaces.Discrete(2)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[ChainState, Float[Array, ' length']]:
    """The first state; draws nothing."""
    del key
    state = ChainState(jnp.int32(0))
    return state, self._observe(state)

  def _observe(self, state: ChainState) -> Float[Array, ' length']:
    return jax.nn.one_hot(state.place, self.length)

  def step(
    self, state: ChainState, action: Int[Array, ''], key: Key[Array, '']
  ) -> tuple[ChainState, protocol.Step]:
    """See the class."""
    leaves = (state.place == 0) & (action == 0)
    arrives = state.place == self.length - 1
    ends = leaves | arrives
    reward = jnp.where(leaves, self.near, jnp.where(arrives, self.far, 0.0))
    reward += jnp.where(ends, self.noise * jax.random.normal(key), 0)
    state = ChainState(jnp.minimum(state.place + 1, self.length - 1))
    step = protocol.Step(
      self._observe(state), reward.astype(jnp.float32), ends, {}
    )
    return state, step
