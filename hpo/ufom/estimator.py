"""UFOM: unbiased first-order gradients of M_r.

    G = g_FO + (xi / q) (grad M - g_FO),  xi ~ Bernoulli(q)

E G = grad M for any q in (0, 1]; q = 0 is FOM and q = 1 exact. The correction is
skipped where xi = 0, not multiplied by zero, so a task costs r + 1 gradients,
and with probability q those of an exact mode too.

Source: arXiv:2106.02487, Section 3.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from hpo.ufom import dynamics as dynamics_lib
from hpo.ufom import exact, first_order
from hpo.ufom import problem as problem_lib

__all__ = [
  'Estimate',
  'Inner',
  'Probability',
  'check_probability',
  'corrected',
  'draw',
  'estimate',
  'is_certain',
  'squared_norm',
  'ufom_grad',
  'undecided',
  'without',
]

Probability = float | int | Float[Array, '']


@dataclasses.dataclass(frozen=True)
class Inner:
  """How the inner loop runs, and how exact gradients are found.

  Attributes:
    r: number of inner steps.
    alpha: learning rates, see `problem.inner_gd`.
    mode: of exact gradients, see `exact`.
    products: see `dynamics.Descent`.
    clip_backward: see `exact.exact_grad`; it makes UFOM biased.
  """

  r: int
  alpha: problem_lib.Rates
  mode: exact.Mode = 'recompute'
  products: dynamics_lib.Products = 'forward'
  clip_backward: float | None = None

  def fom(
    self, problem: problem_lib.ABLOProblem, theta: PyTree, task: PyTree
  ) -> exact.Hypergradient:
    """The first-order gradient of a task."""
    return first_order.fom_grad(problem, theta, task, self.r, self.alpha)

  def exact(
    self, problem: problem_lib.ABLOProblem, theta: PyTree, task: PyTree
  ) -> exact.Hypergradient:
    """The exact gradient of a task."""
    return exact.exact_grad(
      problem,
      theta,
      task,
      self.r,
      self.alpha,
      mode=self.mode,
      products=self.products,
      clip_backward=self.clip_backward,
    )


class Estimate(NamedTuple):
  """UFOM's gradient of one task.

  Attributes:
    value: M_r.
    grad: G, like theta.
    xi: whether the exact gradient was computed, bool.
    exact_norm2: ||grad M||^2, float32; 0 unless xi.
    gap_norm2: ||grad M - g_FO||^2, float32; 0 unless xi.
  """

  value: Any
  grad: PyTree
  xi: Any
  exact_norm2: Any
  gap_norm2: Any


def squared_norm(tree: PyTree) -> Float[Array, '']:
  """Sum of squares of all leaves, accumulated in float32 or wider."""

  def of_leaf(x: Any) -> Any:
    return jnp.sum(jnp.square(x.astype(jnp.promote_types(x.dtype, np.float32))))

  return sum(map(of_leaf, jax.tree.leaves(tree)), jnp.float32(0))


def ufom_grad(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  task: PyTree,
  key: Key[Array, ''] | None,
  q: Probability,
  inner: Inner,
  *,
  xi: bool | Bool[Array, ''] | None = None,
) -> Estimate:
  """UFOM's gradient of one task.

  Under `jax.vmap` both branches run; `batches.ufom_batch` is for batches.

  Args:
    problem: the bi-level problem.
    theta: outer variable.
    task: argument of the losses.
    key: key of xi alone: do not draw the task from it. A given xi needs no key.
    q: probability of the exact gradient. A Python number of 0 or 1 leaves the
      other branch out of the program.
    inner: the inner loop.
    xi: whether to add the correction, in place of a draw from the key; for
      common random numbers, stratified draws or both values in turn. A Python
      boolean leaves the other branch out of the program.

  Returns:
    The estimate, and the xi that it was made with.

  Raises:
    ValueError: q is a number outside [0, 1], key and xi are both None, xi is
      given for q = 0, or as `inner_gd`.
  """
  check_probability(q)
  if xi is None:
    xi = draw(key, q)
  else:
    q = undecided(q)
  return estimate(problem, theta, task, xi, q, inner)


def check_probability(q: Probability) -> None:
  """Raises ValueError if q is a number outside [0, 1]."""
  if isinstance(q, int | float) and not 0 <= q <= 1:
    raise ValueError(f'q must lie in [0, 1], got {q=}')


def undecided(q: Probability) -> Probability:
  """The probability beside a given xi: a q of 1 must not choose the branch.

  Raises:
    ValueError: q is the number 0, by which a correction cannot be divided.
  """
  if not is_certain(q):
    return q
  if q == 0:
    raise ValueError(
      'a given xi needs q > 0, because the correction is divided by q, '
      f'got {q=}'
    )
  return jnp.float32(1)


def draw(key: Key[Array, ''] | None, q: Probability) -> Bool[Array, '']:
  """Draws xi.

  Raises:
    ValueError: there is no key.
  """
  if key is None:
    raise ValueError('xi is drawn from key: give a key or xi, got neither')
  return jax.random.bernoulli(key, jnp.asarray(q, jnp.float32))


def estimate(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  task: PyTree,
  xi: bool | Bool[Array, ''],
  q: Probability,
  inner: Inner,
) -> Estimate:
  """The estimate for an xi: one of two branches."""
  skipped = lambda theta, task: without(problem, theta, task, inner)
  added = lambda theta, task: corrected(problem, theta, task, q, inner)
  if is_certain(q):
    xi = bool(q)
  if isinstance(xi, bool):
    return (added if xi else skipped)(theta, task)
  return jax.lax.cond(xi, added, skipped, theta, task)


def is_certain(q: Probability) -> bool:
  """Whether one branch is known to be never taken."""
  return isinstance(q, int | float) and q in (0, 1)


def without(
  problem: problem_lib.ABLOProblem, theta: PyTree, task: PyTree, inner: Inner
) -> Estimate:
  """The estimate of xi = 0."""
  found = inner.fom(problem, theta, task)
  nothing = jnp.zeros_like(squared_norm(found.grad))
  xi = jnp.zeros((), bool)
  return Estimate(found.value, found.grad, xi, nothing, nothing)


def corrected(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  task: PyTree,
  q: Probability,
  inner: Inner,
) -> Estimate:
  """The estimate of xi = 1."""
  found = inner.exact(problem, theta, task)
  gap = jax.tree.map(jnp.subtract, found.grad, found.first_order)
  return Estimate(
    found.value,
    _combine(found.grad, found.first_order, q),
    jnp.ones((), bool),
    squared_norm(found.grad),
    squared_norm(gap),
  )


def _combine(whole: PyTree, first: PyTree, q: Probability) -> PyTree:
  """g_FO + (grad M - g_FO) / q; of q = 1 exactly grad M."""
  if isinstance(q, int | float):
    if q == 1:
      return whole
    return jax.tree.map(lambda m, f: f + (m - f) / q, whole, first)
  return jax.tree.map(
    lambda m, f: jnp.where(q >= 1, m, f + (m - f) / q.astype(m.dtype)),
    whole,
    first,
  )
