"""One step of an inner loop, and its pull-back.

The gradient of M_r is a recursion from the last inner step to the first. A
dynamics defines the state, how a step changes the state, and how a step pulls a
cotangent of the state back.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from hpo.ufom import problem as problem_lib

__all__ = ['Descent', 'Dynamics', 'Optimised', 'Products', 'of']

Products = Literal['forward', 'reverse']
Step = problem_lib.Step


@runtime_checkable
class Dynamics(Protocol):
  """An inner loop on one task."""

  def start(self, theta: PyTree) -> PyTree:
    """The state before the first step."""

  def phi(self, state: PyTree) -> PyTree:
    """The inner variable of a state."""

  def step(self, theta: PyTree, state: PyTree, j: Step) -> PyTree:
    """The state after step j, from 0."""

  def lift(self, state: PyTree, cotangent: PyTree) -> PyTree:
    """A cotangent of a state's phi as one of the state."""

  def pull(
    self, theta: PyTree, state: PyTree, j: Step, cotangent: PyTree
  ) -> tuple[PyTree, PyTree]:
    """Pulls a cotangent back through step j to (theta, state before it)."""

  def pull_start(self, theta: PyTree, cotangent: PyTree) -> PyTree:
    """Pulls a cotangent of the first state back to theta."""


def of(
  problem: problem_lib.ABLOProblem,
  task: PyTree,
  r: int,
  alpha: problem_lib.Rates | optax.GradientTransformation,
  products: Products,
) -> Dynamics:
  """The dynamics of gradient descent with rates, or of an optimiser."""
  if products not in ('forward', 'reverse'):
    raise ValueError(
      f"products must be 'forward' or 'reverse', got {products!r}"
    )
  if isinstance(alpha, optax.GradientTransformation):
    return Optimised(problem, task, alpha)
  rate = problem_lib.rate_of(alpha, r)
  return Descent(problem, task, rate, products)


@dataclasses.dataclass(frozen=True)
class Descent:
  """Plain gradient descent; a state is phi.

  Attributes:
    problem: its V and inner loss.
    task: argument of both.
    rate: step -> learning rate.
    products: how both second-order products of a step are found at once:
      'forward' as the derivative of the gradient in (theta, phi) along the
      cotangent, about two gradients' work; 'reverse' by a vector-Jacobian
      product, about three, for losses with rules of their own that JAX can
      only reverse (`jax.custom_vjp`).
  """

  problem: problem_lib.ABLOProblem
  task: PyTree
  rate: Callable[[Step], Any]
  products: Products

  def start(self, theta: PyTree) -> PyTree:
    """V(theta)."""
    return self.problem.V(theta, self.task)

  def phi(self, state: PyTree) -> PyTree:
    """The state itself."""
    return state

  def step(self, theta: PyTree, state: PyTree, j: Step) -> PyTree:
    """A step down the gradient."""
    slope = self._slope(theta, state, j)
    a = self.rate(j)
    return jax.tree.map(lambda x, d: (x - a * d).astype(x.dtype), state, slope)

  def lift(self, state: PyTree, cotangent: PyTree) -> PyTree:
    """The cotangent itself."""
    del state
    return cotangent

  def pull(
    self, theta: PyTree, state: PyTree, j: Step, cotangent: PyTree
  ) -> tuple[PyTree, PyTree]:
    """The products: lambda - alpha H lambda, and -alpha (d_theta d_phi L_in)^T lambda."""
    if self.products == 'forward':
      # By symmetry of second derivatives, d/ds of the gradient in both
      # variables at phi + s lambda.
      gradient = jax.grad(
        lambda th, ph: self.problem.inner(th, ph, self.task, j), argnums=(0, 1)
      )
      _, (mixed, curved) = jax.jvp(
        lambda ph: gradient(theta, ph), (state,), (cotangent,)
      )
    else:
      _, pull = jax.vjp(lambda th, ph: self._slope(th, ph, j), theta, state)
      mixed, curved = pull(cotangent)
    a = self.rate(j)
    cast = lambda x, like: x.astype(like.dtype)
    return (
      jax.tree.map(lambda d: cast(-a * d, d), mixed),
      jax.tree.map(lambda c, d: cast(c - a * d, c), cotangent, curved),
    )

  def pull_start(self, theta: PyTree, cotangent: PyTree) -> PyTree:
    """(dV/dtheta)^T lambda."""
    return jax.vjp(self.start, theta)[1](cotangent)[0]

  def _slope(self, theta: PyTree, phi: PyTree, j: Step) -> PyTree:
    return jax.grad(self.problem.inner, argnums=1)(theta, phi, self.task, j)


@dataclasses.dataclass(frozen=True)
class Optimised:
  """Any optimiser of optax; a state is (phi, the optimiser's state).

  Cotangents are lists, of the floating leaves of a state.

  Attributes:
    problem: its V and inner loss.
    task: argument of both.
    optimizer: makes updates from gradients. Where a gradient is 0, the
      derivative of the update is the limit beside 0; see `_update`.
  """

  problem: problem_lib.ABLOProblem
  task: PyTree
  optimizer: optax.GradientTransformation

  def start(self, theta: PyTree) -> PyTree:
    """V(theta) and a fresh optimiser."""
    phi = self.problem.V(theta, self.task)
    return phi, self.optimizer.init(phi)

  def phi(self, state: PyTree) -> PyTree:
    """The first part."""
    return state[0]

  def step(self, theta: PyTree, state: PyTree, j: Step) -> PyTree:
    """A step of the optimiser."""
    phi, inside = state
    slope = jax.grad(self.problem.inner, argnums=1)(theta, phi, self.task, j)
    updates, inside = _update(self.optimizer, slope, inside, phi)
    return optax.apply_updates(phi, updates), inside

  def lift(self, state: PyTree, cotangent: PyTree) -> PyTree:
    """Zero for the optimiser's own state."""
    whole = (cotangent, jax.tree.map(jnp.zeros_like, state[1]))
    return _floating(whole)

  def pull(
    self, theta: PyTree, state: PyTree, j: Step, cotangent: PyTree
  ) -> tuple[PyTree, PyTree]:
    """By a vector-Jacobian product of the whole step."""

    def step(theta: PyTree, leaves: list) -> list:
      return _floating(self.step(theta, _with_floating(state, leaves), j))

    return jax.vjp(step, theta, _floating(state))[1](cotangent)

  def pull_start(self, theta: PyTree, cotangent: PyTree) -> PyTree:
    """(d start / dtheta)^T of the cotangent."""
    start = lambda theta: _floating(self.start(theta))
    return jax.vjp(start, theta)[1](cotangent)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _update(
  optimizer: optax.GradientTransformation, slope: PyTree, *rest: PyTree
) -> tuple[PyTree, PyTree]:
  """What the optimiser makes of a gradient, with derivatives at 0 too.

  Optimisers divide by square roots of averaged squares. Where a gradient has
  always been 0, such as behind a dead ReLU, JAX multiplies the infinite slope
  of the root by 0, and the derivative is NaN. The derivative is taken beside 0
  instead, at a gradient so small that the optimiser is linear up to it.
  """
  return optimizer.update(slope, *rest)


@_update.defjvp
def _update_beside_zero(
  optimizer: optax.GradientTransformation, primals: tuple, tangents: tuple
) -> tuple[Any, Any]:
  slope, *rest = primals
  beside = jax.tree.map(_beside_zero, slope), *rest
  _, tangent = jax.jvp(optimizer.update, beside, tangents)
  return _update(optimizer, *primals), tangent


def _beside_zero(x: Array) -> Array:
  # The square of the least number, 6e-16 in float32, must not underflow, nor
  # its share in an average. Adam's epsilon, up to which it is linear, is 1e-8.
  least = jnp.finfo(x.dtype).tiny ** 0.4
  return jnp.where(jnp.abs(x) < least, jnp.where(x < 0, -least, least), x)


def _is_floating(leaf: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _floating(tree: PyTree) -> list:
  return [leaf for leaf in jax.tree.leaves(tree) if _is_floating(leaf)]


def _with_floating(tree: PyTree, leaves: list) -> PyTree:
  """The tree with its floating leaves replaced, in their order."""
  new = iter(leaves)
  return jax.tree.map(lambda x: next(new) if _is_floating(x) else x, tree)
