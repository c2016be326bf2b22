"""Gradients of architectures, and optimisers that tell them from weights.

References: Liu et al. (2018), arXiv:1806.09055, Eqs. 6 and 7; arXiv:2106.02229.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from nas.rl_darts import genotype, probabilities, spaces
from rl import ranges

__all__ = [
  'alpha_gradient',
  'alpha_optimizer',
  'annealed',
  'partitioned',
  'settled',
]

Loss = Callable[[PyTree], tuple[Float[Array, ''], Any]]


def alpha_gradient(
  inner: Loss,
  outer: Loss,
  params: PyTree,
  rate: Float[Array, ''] | float | None = None,
) -> tuple[PyTree, Any]:
  """The gradient by which the logits move.

  First order: grad_alpha of the outer loss at the present weights w. Second
  order: of the outer loss at w' = w - rate grad_w inner(w, alpha),

    grad_alpha outer(w', alpha) - rate d^2 inner / (d alpha d w) grad_w' outer

  The last product is a forward derivative of a backward one; no matrix is built.

  Args:
    inner: (loss, anything) of parameters, on the data of the weights.
    outer: the same on the data of the logits.
    params: weights and logits, as `probabilities.split` tells them apart.
    rate: of the step of the weights; None: first order.

  Returns:
    A tree like `params` with None for weights; what the outer loss gave beside
    its value.
  """
  weights, alpha = probabilities.split(params)

  def at(loss: Loss) -> Callable[[PyTree, PyTree], tuple]:
    return lambda weights, alpha: loss(probabilities.merge(weights, alpha))

  if rate is None:
    return jax.grad(at(outer), 1, has_aux=True)(weights, alpha)
  step, _ = jax.grad(at(inner), 0, has_aux=True)(weights, alpha)
  ahead = jax.tree.map(lambda w, g: w - rate * g, weights, step)
  (along, direct), aux = jax.grad(at(outer), (0, 1), has_aux=True)(ahead, alpha)
  by_alpha = lambda w: jax.grad(at(inner), 1, has_aux=True)(w, alpha)[0]
  _, mixed = jax.jvp(by_alpha, (weights,), (along,))
  return jax.tree.map(lambda d, m: d - rate * m, direct, mixed), aux


def partitioned(
  weights: optax.GradientTransformation, alpha: optax.GradientTransformation
) -> optax.GradientTransformation:
  """One optimiser for weights and another for logits, anywhere in a tree.

  Args:
    weights: of all that is not named 'alpha'.
    alpha: of the logits; `optax.set_to_zero()` freezes them.
  """
  return optax.multi_transform(
    {probabilities.WEIGHTS: weights, probabilities.ALPHA: alpha},
    probabilities.labels,
  )


def alpha_optimizer(
  learning_rate: float | optax.Schedule,
  *,
  b1: float = 0.5,
  b2: float = 0.999,
  weight_decay: float = 0.0,
  warmup: int = 0,
  entropy_cost: float = 0.0,
) -> optax.GradientTransformation:
  """Adam for logits, as DARTS has it, with guards that are off by default.

  Args:
    learning_rate: 3e-4 in DARTS; Adam's steps have about this size.
    b1: decay of the first moment.
    b2: of the second.
    weight_decay: added to the gradient as the logits times it, as DARTS does.
    warmup: updates before the logits move, while weights learn.
    entropy_cost: factor on the entropy of softmax(alpha), nats, that is added
      to the loss for each edge: positive ones sharpen.

  Raises:
    ValueError: if a number is out of range.
  """
  ranges.check_not_negative(
    learning_rate=learning_rate, weight_decay=weight_decay
  )
  ranges.check_counts(least=0, warmup=warmup)
  parts = []
  if entropy_cost:
    parts.append(_entropy(entropy_cost))
  if weight_decay:
    parts.append(optax.add_decayed_weights(weight_decay))
  adam = optax.adam(learning_rate, b1, b2)
  if warmup:
    started = lambda count: (count >= warmup) * 1.0
    adam = optax.chain(adam, optax.scale_by_schedule(started))
  return optax.chain(*parts, adam)


def _entropy(cost: float) -> optax.GradientTransformation:
  """Adds the gradient of the entropies of all edges."""

  def total(alpha: PyTree) -> Float[Array, '']:
    # Of logits as they are, whatever the temperature at which cells are mixed.
    logs = jax.tree.map(lambda x: jax.nn.log_softmax(x, axis=-1), alpha)
    parts = jax.tree.map(lambda x: -(jnp.exp(x) * x).sum(), logs)
    return sum(jax.tree.leaves(parts))

  def update(grads: PyTree, state: Any, params: PyTree) -> tuple[PyTree, Any]:
    more = jax.grad(total)(params)
    return jax.tree.map(lambda g, m: g + cost * m, grads, more), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class AnnealedState(NamedTuple):
  """Updates so far, and the state of the optimiser inside."""

  count: Any
  inner: Any


def annealed(
  optimizer: optax.GradientTransformation, temperature: optax.Schedule
) -> optax.GradientTransformation:
  """An optimiser of logits under a temperature T that changes with the updates.

  The network computes softmax(b) of its parameters b = alpha / T. The optimiser
  inside sees alpha = T b and its gradient, and after each update b is divided by
  the next temperature. So the forward pass, entropies, snapshots and genotypes
  all have one temperature, and need not know it.

  Args:
    optimizer: of alpha.
    temperature: T > 0 by the number of updates, 1 at first, such as
      `optax.exponential_decay(1.0, 1000, 0.5, end_value=0.2)`.
  """

  def init(params: PyTree) -> AnnealedState:
    return AnnealedState(jnp.zeros((), jnp.int32), optimizer.init(params))

  def update(
    grads: PyTree, state: AnnealedState, params: PyTree
  ) -> tuple[PyTree, AnnealedState]:
    now, later = temperature(state.count), temperature(state.count + 1)
    alpha = jax.tree.map(lambda b: now * b, params)
    grads = jax.tree.map(lambda g: g / now, grads)
    change, inner = optimizer.update(grads, state.inner, alpha)
    change = jax.tree.map(
      lambda a, c, b: (a + c) / later - b, alpha, change, params
    )
    return change, AnnealedState(state.count + 1, inner)

  return optax.GradientTransformation(init, update)


class SettledState(NamedTuple):
  """Genotypes so far, and the state of the optimiser inside.

  Attributes:
    labels: of edges, by encoder and cell type, at the last update.
    unchanged: updates in a row that found the same labels.
    inner: of the optimiser.
  """

  labels: Any
  unchanged: Any
  inner: Any


def settled(
  optimizer: optax.GradientTransformation,
  space: spaces.CellSpace,
  patience: int,
  max_skips: int | None = None,
) -> optax.GradientTransformation:
  """An optimiser of logits that stops when the derived cells stay the same.

  A search that goes on for long tends to skip connections. The weights learn on.

  Args:
    optimizer: of the logits.
    space: of all cells, at the temperature 1.
    patience: updates in a row without a change of any edge, after which the
      logits never move again.
    max_skips: of the derived cells; see `genotype.edge_labels`.

  Raises:
    ValueError: if the patience is not positive, or `max_skips` is negative.
  """
  ranges.check_counts(patience=patience)
  ranges.check_counts(least=0, max_skips=max_skips)

  def derived(params: PyTree) -> PyTree:
    return {
      network: {
        kind: genotype.edge_labels(
          probabilities.probabilities(logits)['edges'], space, max_skips
        )
        for kind, logits in kinds.items()
      }
      for network, kinds in probabilities.alphas(params).items()
    }

  def init(params: PyTree) -> SettledState:
    zero = jnp.zeros((), jnp.int32)
    return SettledState(derived(params), zero, optimizer.init(params))

  def update(
    grads: PyTree, state: SettledState, params: PyTree
  ) -> tuple[PyTree, SettledState]:
    labels = derived(params)
    same = jax.tree.map(jnp.array_equal, labels, state.labels)
    same = jnp.stack(jax.tree.leaves(same)).all()
    unchanged = jnp.where(same, state.unchanged + 1, 0)
    change, inner = optimizer.update(grads, state.inner, params)
    # Logits that do not move do not change their cells: this lasts.
    change = jax.tree.map(
      lambda x: jnp.where(unchanged >= patience, 0, x), change
    )
    return change, SettledState(labels, unchanged, inner)

  return optax.GradientTransformation(init, update)
