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
from performer.attention.sums import chunks
from performer.attention.sums import state as state_lib

__all__ = ['Ending', 'Recovered', 'Reversed', 'is_state']


class Ending(NamedTuple):
  """The input of a mechanism that runs backward, in place of a state.

  Attributes:
    end: the state after the chunk.
    delta: S and z, zeros; their gradient is that of the state before the chunk.
    anchor: a known state, that before the first chunk of a run.
    first: whether this is the first chunk of the run.
    reach: how much the queries of the chunks after this one look at each
      feature: the largest phi(q)_r / (phi(q) . z), [b, h, r].
  """

  end: state_lib.State
  delta: tuple[Array, Array]
  anchor: state_lib.State
  first: Bool[Array, '...']
  reach: Float[Array, '...']


class Recovered(NamedTuple):
  """The output of a mechanism that runs backward, in place of a state.

  Attributes:
    after: the state after the chunk, as a function of what came before.
    before: the state before the chunk, recovered by subtraction.
    reach: of `Ending`, for the chunk before; 0 at the end of a run.
    drift: at the first chunk of a run, how wrong what the run has read is
      (`_misread`), else 0.
  """

  after: state_lib.State
  before: state_lib.State
  reach: Float[Array, 'b h r']
  drift: Float[Array, '']


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
    fixed = jax.lax.stop_gradient((q, *chunks.clean(k, v, key_mask)))
    added = self.attention.summarize(
      *fixed[1:], projection=projection, key_mask=key_mask
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
    moved = known._replace(
      S=known.S + state.delta[0], z=known.z + state.delta[1]
    )
    out, after = self.attention.extend(
      q, k, v, projection=projection, key_mask=key_mask, state=moved
    )
    looked_at = self._looked_at(*fixed[:2], known, projection, key_mask)
    reach = jnp.where(state.first, 0, jnp.maximum(state.reach, looked_at))
    drift = _misread(state, jax.lax.stop_gradient(after), fixed[2])
    drift = jnp.where(state.first, drift, 0)
    return out, Recovered(after, before, reach, drift)

  def _looked_at(
    self,
    q: Float[Array, 'b l h d'],
    k: Float[Array, 'b l h d'],
    before: state_lib.State,
    projection: PyTree,
    key_mask: Bool[Array, 'b l'] | None,
  ) -> Float[Array, 'b h r']:
    """phi(q)_r / (phi(q) . z), the largest over the positions of a chunk.

    z has the keys before the chunk and that of the position itself.
    """
    form = self.attention.form(projection, head_dim=q.shape[3], dtype=q.dtype)
    # As many positions as features are computed for at a time.
    stride = -(-q.shape[1] // form.chunk)
    q, k = (x[:, ::stride].swapaxes(1, 2) for x in (q, k))
    phi = form.featurize_queries(q).values
    normaliser = state_lib.dot('bhlr,bhr->bhl', phi, before.z)
    own = jnp.sum(phi * form.featurize_keys(k).values, axis=-1)
    if key_mask is not None:
      own = jnp.where(key_mask[:, None, ::stride], own, 0)
    normaliser = jnp.abs(normaliser + own)[..., None]
    share = jnp.abs(phi) / jnp.where(normaliser > 0, normaliser, jnp.inf)
    return jnp.max(share, axis=2).astype(before.z.dtype)


def _misread(
  state: Ending, known: state_lib.State, v: Float[Array, 'b l h v']
) -> Float[Array, '']:
  """The largest error of what the queries of a run read from its first state.

  Small entries of a state count as much as large ones where queries look at
  them, so errors are judged as read: of z relative to the normaliser
  phi(q) . z, of S relative to that and to the largest value of the head.

  Args:
    state: recovered, after the first chunk of the run.
    known: the same state, computed from the anchor.
    v: values of the chunk, 0 where masked.

  Returns:
    The largest over batch, heads and features.
  """
  largest = jnp.max(jnp.abs(v), axis=(1, 3))[..., None]
  error_z = jnp.abs(state.end.z - known.z)
  error_s = jnp.max(jnp.abs(state.end.S - known.S), axis=2)
  error_s /= jnp.where(largest > 0, largest, 1).astype(error_s.dtype)
  return jnp.max(state.reach * jnp.maximum(error_z, error_s))
