"""Meta-gradients: of an outer loss, through inner updates, by their settings.

  theta_{j+1} = update(theta_j, eta, data_j),  j = 0..k-1
  d eta = d outer(theta_k, fresh data) / d eta

differentiated through all k updates, their optimiser included. Only the states
between updates are kept for the backward pass; values inside an update are
computed again.

Reference: Xu, van Hasselt and Silver (2018), arXiv:1805.09801.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, PyTree

__all__ = ['Outer', 'Update', 'meta_gradient', 'unrolled']

Update = Callable[[PyTree, PyTree, PyTree], PyTree]
Outer = Callable[[PyTree], Float[Array, '']]


def unrolled(
  update: Update, start: PyTree, eta: PyTree, batches: PyTree
) -> PyTree:
  """The state after one update for each batch.

  Args:
    update: (state, eta, batch) -> state.
    start: the first state; parameters and the state of their optimiser.
    eta: settings of the updates.
    batches: data, [k, ...] each.
  """

  @jax.checkpoint
  def step(state: PyTree, batch: PyTree) -> tuple[PyTree, None]:
    return update(state, eta, batch), None

  return jax.lax.scan(step, start, batches)[0]


def meta_gradient(
  update: Update, outer: Outer, start: PyTree, eta: PyTree, batches: PyTree
) -> tuple[Float[Array, ''], PyTree]:
  """The outer loss after the updates, and its gradient by eta.

  An optimiser that takes roots needs a constant under them (`eps_root` of
  `optax.scale_by_adam`): else the gradient is NaN at parameters that had none.

  Args:
    update: see `unrolled`, like `start`, `eta` and `batches`.
    outer: loss of the state after all updates.
    start: see above; a constant.
    eta: see above; differentiated by.
    batches: see above; constants.
  """
  loss = lambda eta: outer(unrolled(update, start, eta, batches))
  return jax.value_and_grad(loss)(eta)
