"""Members that never copy: random search, as the baseline of populations."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hpo import spaces
from hpo.autorl import traced
from hpo.autorl.population import pbt, protocol

__all__ = ['Apart']


@dataclasses.dataclass(frozen=True)
class Apart:
  """Each member keeps the settings that it drew; a `protocol.Method`.

  Attributes:
    space: of the settings.
  """

  space: spaces.Space

  def init(self, key: Key[Array, ''], size: int, rounds: int) -> pbt.PBTState:
    """See `protocol.Method`: the first settings of `pbt.PBT`, for the same key."""
    del rounds
    return pbt.PBTState(traced.sample(self.space, key, (size,)))

  def step(
    self, state: pbt.PBTState, scores: Float[Array, ' n'], key: Key[Array, '']
  ) -> protocol.Step:
    """See `protocol.Method`."""
    del key
    return protocol.Step(state, jnp.arange(len(scores)))
