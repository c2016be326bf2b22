"""Random search: the control that every controller must beat."""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from nas.es_enas import space as space_lib

__all__ = ['Random']


@flax.struct.dataclass
class State:
  """State of `Random`; nothing is proposed from it.

  Attributes:
    architecture: with the best single score so far, int32 [D].
    score: of it; -inf before the first.
  """

  architecture: Any
  score: Any


@dataclasses.dataclass(frozen=True)
class Random:
  """Proposes uniformly, and learns nothing; a `base.Controller`.

  `best` has the best single score. Under noise, that score flatters it.

  Attributes:
    space: what it proposes from.
  """

  space: space_lib.Space
  pure = True

  def init(self, key: Key[Array, ''], count: int) -> State:
    """See `base.Controller`."""
    del count
    return State(self.space.sample(key), jnp.array(-jnp.inf))

  def propose(
    self, state: State, key: Key[Array, ''], count: int
  ) -> Int[Array, 'count D']:
    """See `base.Controller`."""
    del state
    return jax.vmap(self.space.sample)(jax.random.split(key, count))

  def feedback(
    self,
    state: State,
    key: Key[Array, ''],
    architectures: Int[Array, 'n D'],
    scores: Float[Array, ' n'],
    valid: Bool[Array, ' n'],
  ) -> tuple[State, dict[str, Array]]:
    """See `base.Controller`; reports the best score so far."""
    del key
    scores = jnp.where(valid, scores, -jnp.inf)
    first = jnp.argmax(scores)
    better = scores[first] > state.score
    state = State(
      jnp.where(better, architectures[first], state.architecture),
      jnp.where(better, scores[first], state.score),
    )
    return state, {'best_score': state.score}

  def best(self, state: State) -> Int[Array, ' D']:
    """The architecture of the best single score; a random one before any."""
    return state.architecture
