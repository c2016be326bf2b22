"""Orthogonal parameters under any optimiser, by dynamic trivialisation.

An orthogonal W is B U((S - S^T) / 2): the optimiser sees S, a free matrix that
starts at 0, and its gradient. After `every` updates B becomes W, and S zero. What
the optimiser remembers stays, in coordinates that moved along. With `every` = 1
and plain gradient descent this is `manifolds.riemannian_update`.

Source: arXiv:1909.09501.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from rl import ranges
from rl.odetoode import manifolds, retractions

__all__ = ['TrivializedState', 'is_w0', 'trivialize']

_MAX_DEFECT = 0.1  # The first update's clean-up squares it.

IsOrthogonal = Callable[[tuple[Any, ...], Array], bool]


class TrivializedState(NamedTuple):
  """The state between updates.

  Attributes:
    bases: B of each leaf of the parameters, None where it is free.
    coordinates: S of each orthogonal leaf, None where it is free.
    inner: state of the optimiser.
    count: updates so far, int32.
  """

  bases: tuple[Array | None, ...]
  coordinates: tuple[Array | None, ...]
  inner: PyTree
  count: Array


def is_w0(path: tuple[Any, ...], leaf: Array) -> bool:
  """Whether a leaf is called `w0`, as in the models of this package."""
  del leaf
  return bool(path) and getattr(path[-1], 'key', None) == 'w0'


def trivialize(
  optimizer: optax.GradientTransformation,
  *,
  is_orthogonal: IsOrthogonal = is_w0,
  every: int = 1,
  retraction: retractions.Retraction = manifolds.MOVE,
) -> optax.GradientTransformation:
  """Keeps some parameters orthogonal under an optimiser.

  Args:
    optimizer: of the coordinates; weight decay pulls S, not W, to zero.
    is_orthogonal: tells such leaves, square and orthogonal at the start, by
      their path and value.
    every: updates between changes of the base.
    retraction: U.

  Returns:
    A transformation whose updates lead to orthogonal matrices; its `update`
    needs the parameters.

  Raises:
    ValueError: if `every` is not positive; by `init`, if an orthogonal leaf is
      not square or, where its value is known, not orthogonal.
  """
  ranges.check_counts(every=every)

  def point(base: Array, s: Array) -> Array:
    return manifolds.move_orthogonal(base, retractions.skew(s), retraction)

  def pull(base: Array, s: Array, gradient: Array) -> Array:
    return jax.vjp(lambda s: point(base, s), s)[1](gradient)[0]

  def init(params: PyTree) -> TrivializedState:
    paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    leaves = [leaf for _, leaf in paths]
    for path, leaf in paths:
      if is_orthogonal(path, leaf):
        name = jax.tree_util.keystr(path) or 'params'
        manifolds.check_orthogonal(_MAX_DEFECT, **{name: leaf})
    # Copies, so that parameters and state can be donated to one program.
    bases = tuple(
      jnp.copy(p) if is_orthogonal(path, p) else None for path, p in paths
    )
    starts = _each(bases, leaves, lambda b, p: jnp.zeros_like(b), _nothing)
    seen = _each(starts, leaves, lambda s, p: s, lambda p: p)
    inner = optimizer.init(treedef.unflatten(seen))
    return TrivializedState(bases, tuple(starts), inner, jnp.int32(0))

  def update(
    gradients: PyTree, state: TrivializedState, params: PyTree | None = None
  ) -> tuple[PyTree, TrivializedState]:
    if params is None:
      raise ValueError('trivialize needs the parameters, got None')
    leaves, treedef = jax.tree.flatten(params)
    bases = state.bases
    before = _each(state.coordinates, leaves, lambda s, p: s, lambda p: p)
    pairs = zip(before, treedef.flatten_up_to(gradients), strict=True)
    pulled = _each(bases, pairs, lambda b, x: pull(b, *x), lambda x: x[1])
    moves, inner = optimizer.update(
      treedef.unflatten(pulled), state.inner, treedef.unflatten(before)
    )
    after = optax.apply_updates(before, treedef.flatten_up_to(moves))
    points = _each(bases, after, point, lambda s: s)
    due = (state.count + 1) % every == 0
    state = TrivializedState(
      tuple(_each(bases, points, lambda b, w: jnp.where(due, w, b), _nothing)),
      tuple(_each(bases, after, lambda b, s: jnp.where(due, 0, s), _nothing)),
      inner,
      state.count + 1,
    )
    updates = [new - old for new, old in zip(points, leaves, strict=True)]
    return treedef.unflatten(updates), state

  return optax.GradientTransformation(init, update)


def _each(
  bases: Iterable[Array | None],
  values: Iterable[Any],
  orthogonal: Callable[[Array, Any], Any],
  free: Callable[[Any], Any],
) -> list[Any]:
  """One of the two functions for each leaf; None marks a free one."""
  return [
    free(value) if base is None else orthogonal(base, value)
    for base, value in zip(bases, values, strict=True)
  ]


def _nothing(value: Any) -> None:
  """A free leaf has no base and no coordinates."""
