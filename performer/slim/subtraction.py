"""The backward sweep that recovers states.

From the last chunk to the first, the state before a chunk is recovered from the
one after it (`reversal`), and the gradient in the latter becomes the gradient in
the former: memory does not grow with the number of chunks. Errors of what is
recovered pass on to the chunks before, up to the next known state, an anchor:
the state before the first position, and those before every run of chunks if the
forward sweep stored them. The first chunk of a run is computed from its anchor,
so there the state after that chunk is known too, and the recovered one is
compared with it: it has the errors of the whole run.

Reference: arXiv:2012.11346, section 3.
"""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from performer.slim import problem as problem_lib
from performer.slim import reversal, sweeps

__all__ = [
  'Backward',
  'Pulled',
  'backward',
  'begin',
  'end',
  'moved',
  'step',
  'sums',
]


class Backward(NamedTuple):
  """Values that the sweep carries from a chunk to the chunk before it.

  Attributes:
    state: before the chunks done so far, as recovered.
    pull: gradient in its sums.
    grads: gradient in the parameters, of the chunks done so far.
    reach: of each feature, by the queries of the run's chunks done so far; see
      `reversal.Ending`.
    drift: so far; see `Pulled`.
  """

  state: PyTree
  pull: PyTree
  grads: PyTree
  reach: PyTree
  drift: PyTree


class Pulled(NamedTuple):
  """Gradients, and how well the sweep went.

  Attributes:
    params: gradient in the parameters, in their dtypes.
    state: in S and z of the state before the first position.
    inputs: in the floating inputs, [b, l, ...]; None in the place of others.
    drift: per layer, in the structure of the states: the largest error of what
      the queries of a run read from its first state, recovered instead of known
      (`reversal.Recovered`); the largest of all runs.
  """

  params: PyTree
  state: PyTree
  inputs: PyTree
  drift: PyTree


def sums(states: PyTree) -> PyTree:
  """S and z of every state of a tree."""
  return _map(lambda x: (x.S, x.z), states)


def _map(f: Any, states: PyTree, *rest: PyTree) -> PyTree:
  return jax.tree.map(f, states, *rest, is_leaf=reversal.is_state)


def moved(states: PyTree, deltas: PyTree) -> PyTree:
  """States with something added to their S and z."""

  def one(state: Any, delta: tuple[Array, Array]) -> Any:
    return state._replace(S=state.S + delta[0], z=state.z + delta[1])

  return _map(one, states, deltas)


def begin(params: PyTree, state: PyTree, pull: PyTree) -> Backward:
  """The carry after the last chunk: its state, and the gradient in it."""
  drift = _map(lambda x: jnp.zeros(x.S.shape[:-4], x.S.dtype), state)
  reach = _map(lambda x: jnp.zeros_like(x.z), state)
  grads = sweeps.zeros(sweeps.widened(params))
  return Backward(state, pull, grads, reach, drift)


def step(
  problem: problem_lib.Problem,
  params: PyTree,
  constants: PyTree,
  anchor: PyTree,
  first: Bool[Array, ''],
  carry: Backward,
  index: Int[Array, ''] | int,
  inputs: PyTree,
  length: int | Int[Array, ''],
  weight: Float[Array, ''],
) -> tuple[Backward, PyTree]:
  """Takes one chunk back.

  Args:
    problem: the model.
    params: its parameters.
    constants: of every chunk.
    anchor: the state before the first chunk of the run.
    first: whether this is that chunk.
    carry: from the chunk after this one.
    index: of this chunk.
    inputs: of this chunk, [b, c, ...].
    length: l.
    weight: gradient in the loss.

  Returns:
    The carry for the chunk before, and the gradient in the floating inputs.
  """
  chunk = sweeps.chunk_of(inputs, constants, index, length)
  leaves, tree = jax.tree.flatten(inputs)
  floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

  def run(params: PyTree, deltas: PyTree, smooth: list) -> tuple:
    smooth = iter(smooth)
    mixed = [
      next(smooth) if f else x for x, f in zip(leaves, floating, strict=True)
    ]
    read = chunk._replace(inputs=tree.unflatten(mixed))
    endings = _endings(carry, deltas, anchor, first)
    mechanism = reversal.Reversed(problem.attention)
    loss, ends, _ = problem.loss(mechanism, params, endings, read)
    found = _split(ends, carry.state)
    return (loss, sums(found.after)), found

  smooth = [x for x, f in zip(leaves, floating, strict=True) if f]
  primals = (params, sweeps.zeros(sums(carry.state)), smooth)
  (loss, _), pull, found = jax.vjp(run, *primals, has_aux=True)
  grads, delta, smooth = pull((weight.astype(loss.dtype), carry.pull))
  smooth = iter(smooth)
  inputs = tree.unflatten([next(smooth) if f else None for f in floating])
  return (
    Backward(
      found.before,
      delta,
      jax.tree.map(lambda total, g: total + g, carry.grads, grads),
      found.reach,
      jax.tree.map(jnp.maximum, carry.drift, found.drift),
    ),
    inputs,
  )


def _endings(
  carry: Backward, deltas: PyTree, anchor: PyTree, first: Bool[Array, '']
) -> PyTree:
  def one(state: Any, delta: tuple, anchor: Any, reach: Array) -> Any:
    # An axis of layers, if there is one, is scanned over.
    of_layers = jnp.broadcast_to(first, state.S.shape[:-4])
    return reversal.Ending(state, delta, anchor, of_layers, reach)

  return _map(one, carry.state, deltas, anchor, carry.reach)


def _split(ends: PyTree, states: PyTree) -> reversal.Recovered:
  """A tree of what the mechanism returned for each state, per field."""

  def recovered(x: Any) -> bool:
    return isinstance(x, reversal.Recovered)

  found = [recovered(x) for x in jax.tree.leaves(ends, is_leaf=recovered)]
  expected = len(jax.tree.leaves(states, is_leaf=reversal.is_state))
  if found != [True] * expected:
    raise ValueError(
      'every state must pass through `mechanism.extend` once, and be returned '
      f'as it comes from there; {expected} states went in, '
      f'{sum(found)} of {len(found)} came out'
    )
  return reversal.Recovered(
    *(
      jax.tree.map(operator.itemgetter(i), ends, is_leaf=recovered)
      for i in range(len(reversal.Recovered._fields))
    )
  )


def end(params: PyTree, carry: Backward) -> tuple[PyTree, PyTree, PyTree]:
  """Gradients in parameters and first state, and the drift."""
  return sweeps.like(carry.grads, params), carry.pull, carry.drift


def backward(
  problem: problem_lib.Problem,
  params: PyTree,
  constants: PyTree,
  anchors: PyTree,
  inputs: PyTree,
  size: int,
  run: int,
  last: PyTree,
  weight: Float[Array, ''],
  pull: PyTree,
) -> Pulled:
  """The whole sweep.

  Args:
    problem: the model.
    params: its parameters.
    constants: of every chunk.
    anchors: of `sweeps.forward`, the states before every run, [runs, ...].
    inputs: [b, l, ...].
    size: positions of a chunk.
    run: chunks of a run.
    last: the state after the last position.
    weight: gradient in the loss.
    pull: gradient in the sums of the last state.

  Returns:
    The gradients.
  """
  length = sweeps.length_of(inputs)

  def several(carry: Backward, x: tuple) -> tuple[Backward, PyTree]:
    anchor, chunks = x

    def one(carry: Backward, x: tuple) -> tuple[Backward, PyTree]:
      first = jnp.equal(x[0] % run, 0)
      where = (constants, anchor, first)
      return step(problem, params, *where, carry, *x, length, weight)

    carry, pulled = jax.lax.scan(one, carry, chunks, reverse=True)
    # What is known takes the place of what was recovered.
    return carry._replace(state=anchor), pulled

  runs = (anchors, sweeps.grouped(sweeps.numbered(inputs, size), run))
  carry = begin(params, last, pull)
  carry, pulled = sweeps.over_runs(several, carry, runs, reverse=True)
  chunks = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), pulled)
  grads, state, drift = end(params, carry)
  return Pulled(grads, state, sweeps.join(chunks, length), drift)
