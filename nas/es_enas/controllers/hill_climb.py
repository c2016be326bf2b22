"""Hill climbing: mutations of the best architecture of the last generation."""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from nas.es_enas import space as space_lib
from nas.es_enas.controllers import population as population_lib
from rl import ranges

__all__ = ['HillClimb']


@flax.struct.dataclass
class State:
  """State of `HillClimb`.

  Attributes:
    architecture: the incumbent, int32 [D].
    told: whether there was a feedback, bool.
  """

  architecture: Any
  told: Any


@dataclasses.dataclass(frozen=True)
class HillClimb:
  """Mutates one decision of the incumbent; a `base.Controller`.

  The first generation is random. In every later one the incumbent is proposed
  again, once, and all other proposals are mutations of it. The best of a
  generation is the next incumbent, by the mean of its scores there; the old
  incumbent wins a tie. Scores of earlier generations do not count: they were
  those of other parameters theta, and the winner's flatter it under noise. This
  costs one evaluation of each generation.

  Attributes:
    space: what it proposes from.
  """

  space: space_lib.Space
  pure = True

  def init(self, key: Key[Array, ''], count: int) -> State:
    """See `base.Controller`.

    Raises:
      ValueError: if a generation has no place for a mutation.
    """
    ranges.check_counts(least=2, count=count)
    return State(self.space.sample(key), jnp.zeros((), bool))

  def propose(
    self, state: State, key: Key[Array, ''], count: int
  ) -> Int[Array, 'count D']:
    """See `base.Controller`; the incumbent comes first."""
    keys = jax.random.split(key, count)
    mutate = jax.vmap(self.space.mutate, in_axes=(0, None))
    return jax.lax.cond(
      state.told,
      lambda: mutate(keys, state.architecture).at[0].set(state.architecture),
      lambda: jax.vmap(self.space.sample)(keys),
    )

  def feedback(
    self,
    state: State,
    key: Key[Array, ''],
    architectures: Int[Array, 'n D'],
    scores: Float[Array, ' n'],
    valid: Bool[Array, ' n'],
  ) -> tuple[State, dict[str, Array]]:
    """See `base.Controller`."""
    del key
    same = population_lib.repeated(self.space, architectures) & valid
    total = jnp.sum(jnp.where(same, scores, 0), 1)
    means = total / jnp.maximum(jnp.sum(same, 1), 1)
    means = jnp.where(valid, means, -jnp.inf)
    first = jnp.argmax(means)
    some = valid[first]
    state = State(
      jnp.where(some, architectures[first], state.architecture),
      state.told | some,
    )
    return state, {}

  def best(self, state: State) -> Int[Array, ' D']:
    """The incumbent; a random architecture before the first feedback."""
    return state.architecture
