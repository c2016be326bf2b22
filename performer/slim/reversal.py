"""Attention that starts from where it ended: states by subtraction.

Going backward, the state before a chunk is the state after it less what the
chunk added. That difference is a value only; what the chunk computes from it
is differentiated as usual, in a variable of value zero (`Ending.delta`) that
stands for the state before the chunk.

Letters: b batch, l positions, h heads, d width of a key, v of a value.

Reference: arXiv:2012.11346, section 3.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from performer import attention as attention_lib
from performer.attention import state as state_lib

__all__ = ['Ending', 'Recovered', 'Reversed', 'is_state']


class Ending(NamedTuple):
  """The input of a mechanism that runs backward, in place of a state.

  Attributes:
    end: the state after the chunk.
    delta: S and z, zeros; their gradient is that of the state before the chunk.
    anchor: a known state, that before the first chunk of a run.
    first: whether this is the first chunk of the run.
  """

  end: state_lib.State
  delta: tuple[Array, Array]
  anchor: state_lib.State
  first: Bool[Array, '...']


class Recovered(NamedTuple):
  """The output of a mechanism that runs backward, in place of a state.

  Attributes:
    after: the state after the chunk, as a function of what came before.
    before: the state before the chunk, recovered by subtraction.
  """

  after: state_lib.State
  before: state_lib.State


def is_state(x: PyTree) -> bool:
  """Whether a node of a tree is the state of a mechanism."""
  return isinstance(x, state_lib.State)


@dataclasses.dataclass(frozen=True)
class Reversed:
  """A mechanism whose states are `Ending`s and `Recovered`s.

  Attributes:
    attention: the mechanism that went forward.

  Raises:
    ValueError: if its states are no plain sums, so that nothing can be taken
      out of them.
  """

  attention: attention_lib.Favor

  def __post_init__(self) -> None:
    if not self.attention.plain_sums:
      raise ValueError(
        'a running maximum cannot be undone, so subtraction needs states that '
        "are plain sums: a generalised kernel, or stabilizer='none'; or take "
        f"strategy='checkpoint'. Got {self.attention.kernel=} "
        f'{self.attention.stabilizer=}'
      )

  @property
  def redraw_every(self) -> int | None:
    """See the mechanism."""
    return self.attention.redraw_every

  def draw(self, key: Array, **kwargs: int | Array) -> PyTree:
    """See the mechanism."""
    return self.attention.draw(key, **kwargs)

  def __call__(
    self, q: Array, k: Array, v: Array, **kwargs: Any
  ) -> Float[Array, 'b l h v']:
    """See the mechanism; without a state there is nothing to subtract."""
    return self.attention(q, k, v, **kwargs)

  def extend(
    self,
    q: Float[Array, 'b l h d'],
    k: Float[Array, 'b l h d'],
    v: Float[Array, 'b l h v'],
    *,
    projection: PyTree,
    key_mask: Bool[Array, 'b l'] | None = None,
    state: Ending,
  ) -> tuple[Float[Array, 'b l h v'], Recovered]:
    """Attends as `Favor.extend` did, from the state after the chunk."""
    cut = jax.lax.stop_gradient((k, v))
    added = self.attention.summarize(
      *cut, projection=jax.lax.stop_gradient(projection), key_mask=key_mask
    )
    before = state.end._replace(
      S=state.end.S - added.S, z=state.end.z - added.z
    )
    known = jax.tree.map(
      lambda given, found: jnp.where(state.first, given, found),
      state.anchor,
      before,
    )
    known = jax.lax.stop_gradient(known)
    known = known._replace(
      S=known.S + state.delta[0], z=known.z + state.delta[1]
    )
    out, after = self.attention.extend(
      q, k, v, projection=projection, key_mask=key_mask, state=known
    )
    return out, Recovered(after, before)
