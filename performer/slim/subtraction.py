"""The backward sweep that recovers states.

From the last chunk to the first, the state before a chunk is recovered from the
one after it (`reversal`), and the gradient in the latter becomes the gradient in
the former: memory does not grow with the number of chunks. Errors of what is
recovered pass on to the chunks before, up to the next known state, an anchor:
the state before the first position, and those before every run of chunks if the
forward sweep stored them. There it is seen how large errors have become.

Reference: arXiv:2012.11346, section 3.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from performer.slim import problem as problem_lib
from performer.slim import reversal, sweeps

__all__ = [
  'Backward',
  'Pulled',
  'arrive',
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
    scale: largest entry of S after the last chunk done, per layer.
    drift: so far; see `Pulled`.
  """

  state: PyTree
  pull: PyTree
  grads: PyTree
  scale: PyTree
  drift: PyTree


class Pulled(NamedTuple):
  """Gradients, and how well the sweep went.

  Attributes:
    params: gradient in the parameters, in their dtypes.
    state: in S and z of the state before the first position.
    inputs: in the floating inputs, [b, l, ...]; None in the place of others.
    drift: per layer, in the structure of the states: how far the S
      before the first chunk of a run, recovered, is from what it was, in units
      of the largest entry of S after that chunk; the largest of all runs.
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
  # Two arrays: steps give their carry's memory away.
  scale, drift = (
    _map(lambda x: jnp.zeros(x.S.shape[:-4], x.S.dtype), state)
    for _ in range(2)
  )
  grads = sweeps.zeros(sweeps.widened(params))
  return Backward(state, pull, grads, scale, drift)


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
    endings = _endings(carry.state, deltas, anchor, first)
    mechanism = reversal.Reversed(problem.attention)
    loss, ends, _ = problem.loss(mechanism, params, endings, read)
    after, before = _split(ends, carry.state)
    return (loss, sums(after)), before

  smooth = [x for x, f in zip(leaves, floating, strict=True) if f]
  primals = (params, sweeps.zeros(sums(carry.state)), smooth)
  (loss, _), pull, before = jax.vjp(run, *primals, has_aux=True)
  grads, delta, smooth = pull((weight.astype(loss.dtype), carry.pull))
  smooth = iter(smooth)
  inputs = tree.unflatten([next(smooth) if f else None for f in floating])
  return (
    Backward(
      before,
      delta,
      jax.tree.map(lambda total, g: total + g, carry.grads, grads),
      _map(lambda x: _largest(x.S), carry.state),
      carry.drift,
    ),
    inputs,
  )


def _endings(
  states: PyTree, deltas: PyTree, anchor: PyTree, first: Bool[Array, '']
) -> PyTree:
  def one(state: Any, delta: tuple, anchor: Any) -> reversal.Ending:
    # An axis of layers, if there is one, is scanned over.
    of_layers = jnp.broadcast_to(first, state.S.shape[:-4])
    return reversal.Ending(state, delta, anchor, of_layers)

  return _map(one, states, deltas, anchor)


def _split(ends: PyTree, states: PyTree) -> tuple[PyTree, PyTree]:
  """States after and before the chunk."""

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
  return (
    jax.tree.map(lambda x: x.after, ends, is_leaf=recovered),
    jax.tree.map(lambda x: x.before, ends, is_leaf=recovered),
  )


def _largest(x: Float[Array, '... b h v r']) -> Float[Array, '...']:
  return jnp.max(jnp.abs(x), axis=(-4, -3, -2, -1))


def arrive(carry: Backward, anchor: PyTree) -> Backward:
  """At the first chunk of a run, the known state replaces the recovered one."""

  def drift(found: Any, known: Any, scale: Array, before: Array) -> Array:
    apart = _largest(found.S - known.S) / jnp.where(scale > 0, scale, 1.0)
    return jnp.maximum(before, apart)

  drifts = _map(drift, carry.state, anchor, carry.scale, carry.drift)
  return carry._replace(state=anchor, drift=drifts)


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
    return arrive(carry, anchor), pulled

  runs = (anchors, sweeps.grouped(sweeps.numbered(inputs, size), run))
  carry = begin(params, last, pull)
  carry, pulled = sweeps.over_runs(several, carry, runs, reverse=True)
  chunks = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), pulled)
  grads, state, drift = end(params, carry)
  return Pulled(grads, state, sweeps.join(chunks, length), drift)
