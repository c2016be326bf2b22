"""Hill climbing: mutations of the best architecture so far."""

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
    score: mean over all its evaluations.
    evaluations: number of them, int32; 0 before the first feedback.
  """

  architecture: Any
  score: Any
  evaluations: Any


@dataclasses.dataclass(frozen=True)
class HillClimb:
  """Mutates one decision of the incumbent; a `base.Controller`.

  The architecture with the best mean score of a generation becomes the incumbent
  if its mean is greater than the incumbent's score: the mean of all evaluations
  of the incumbent. The first generation is random.

  Without `again` the incumbent is evaluated once, when it wins. That score is of
  the theta of that generation, and luck flatters it. So while theta improves the
  incumbent changes often; later it stays, and theta adapts to it. With `again`
  luck wears off and the score follows theta, but under noise the best of many
  mutations then wins in nearly every generation.

  Attributes:
    space: what it proposes from.
    again: whether the first proposal of each generation is the incumbent. It
      costs one evaluation of each generation.
  """

  space: space_lib.Space
  again: bool = False
  pure = True

  def init(self, key: Key[Array, ''], count: int) -> State:
    """See `base.Controller`.

    Raises:
      ValueError: if `again` leaves no place for a mutation.
    """
    if self.again:
      ranges.check_counts(least=2, **{'count with again': count})
    zero = jnp.zeros((), jnp.int32)
    return State(self.space.sample(key), jnp.array(-jnp.inf), zero)

  def propose(
    self, state: State, key: Key[Array, ''], count: int
  ) -> Int[Array, 'count D']:
    """See `base.Controller`."""
    keys = jax.random.split(key, count)

    def climbing() -> Int[Array, 'count D']:
      mutate = jax.vmap(self.space.mutate, in_axes=(0, None))
      found = mutate(keys, state.architecture)
      return found.at[0].set(state.architecture) if self.again else found

    return jax.lax.cond(
      state.evaluations > 0,
      climbing,
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
    """See `base.Controller`; reports the incumbent's score."""
    del key
    each = jax.vmap(self.space.distance, in_axes=(None, 0))
    again = each(state.architecture, architectures) == 0
    again &= valid & (state.evaluations > 0)
    incumbent = _remembered(state, scores, again)
    candidates = valid & ~again
    same = population_lib.repeated(self.space, architectures) & candidates
    counts = jnp.sum(same, 1).astype(jnp.int32)
    means = jnp.sum(jnp.where(same, scores, 0), 1) / jnp.maximum(counts, 1)
    first = jnp.argmax(jnp.where(candidates, means, -jnp.inf))
    found = State(architectures[first], means[first], counts[first])
    better = candidates[first] & (found.score > incumbent.score)
    state = jax.tree.map(
      lambda new, old: jnp.where(better, new, old), found, incumbent
    )
    return state, {'best_score': state.score}

  def best(self, state: State) -> Int[Array, ' D']:
    """The incumbent; a random architecture before the first feedback."""
    return state.architecture


def _remembered(
  state: State, scores: Float[Array, ' n'], again: Bool[Array, ' n']
) -> State:
  """Counts new evaluations of the incumbent into its mean."""
  total = state.evaluations + jnp.sum(again)
  added = jnp.sum(jnp.where(again, scores - state.score, 0))
  return state.replace(
    score=state.score + added / jnp.maximum(total, 1),
    evaluations=total.astype(jnp.int32),
  )
