"""A causal model as SLiM sees it: the loss of a chunk, given a state.

Everything in such a model works on positions one by one, except attention,
which a state carries from chunk to chunk. So the model is one function of a
chunk, and it says what attention does with a state by calling a mechanism:

  out, state = attention.extend(q, k, v, projection=w, state=state, ...)

SLiM hands in that mechanism: the model's own one going forward, and one that
takes keys out of the state again going backward (`reversal`).

Letters: b batch, l positions, c positions of a chunk.

Reference: arXiv:2012.11346.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float, Int, PyTree

from performer import attention as attention_lib

__all__ = ['Chunk', 'ChunkLoss', 'Mechanism', 'Problem']


class Chunk(NamedTuple):
  """The part of a sequence that a model reads at a time.

  Attributes:
    inputs: the inputs of these positions; each leaf is [b, c, ...]. Behind the
      end of the sequence they are zeros.
    positions: absolute. Behind the end they repeat the last one.
    valid: False behind the end: such a position must add nothing to the loss
      and must not be attended to.
    constants: arrays that every chunk gets whole and that have no gradient,
      such as random matrices or keys.
  """

  inputs: PyTree
  positions: Int[Array, 'c']
  valid: Bool[Array, 'c']
  constants: PyTree


@runtime_checkable
class Mechanism(Protocol):
  """The attention that a model may use: `attention.Favor.extend`."""

  def extend(
    self,
    q: Float[Array, 'b c h d'],
    k: Float[Array, 'b c h d'],
    v: Float[Array, 'b c h v'],
    *,
    projection: PyTree,
    key_mask: Bool[Array, 'b c'] | None = None,
    state: PyTree,
  ) -> tuple[Float[Array, 'b c h v'], PyTree]:
    """Attends to the keys of the state and of the chunk; the state after."""


# (mechanism, parameters, state, chunk) -> (loss, state, metrics).
ChunkLoss = Callable[
  [Mechanism, PyTree, PyTree, Chunk],
  tuple[Float[Array, ''], PyTree, PyTree],
]


@dataclasses.dataclass(frozen=True)
class Problem:
  """A causal model and its loss; hashable.

  Make it once: what was compiled for a problem serves equal ones, and a new
  function makes a problem that is equal to none before.

  Attributes:
    loss: the function of a chunk: (mechanism, parameters, state, chunk) to
      (sum of the losses of its positions, state after it, metrics). The state
      is any tree of the states of the mechanism, one per layer or stacked; each
      passes through `mechanism.extend` once. Metrics are any tree of arrays
      that add up over chunks. Arrays that it needs besides belong into the
      constants: it must not close over traced ones.
    attention: the mechanism.
    empty: maps a batch size to the state before the first position.
  """

  loss: ChunkLoss
  attention: attention_lib.Favor
  empty: Callable[[int], PyTree]

  def empty_like(self, inputs: PyTree) -> PyTree:
    """The state before the first position of these inputs."""
    return self.empty(jax.tree.leaves(inputs)[0].shape[0])
