"""Approximate bi-level optimisation: the problem and its inner loop.

An outer variable theta is judged by where r steps of gradient descent on an
inner loss lead the inner variable phi:

    phi_0 = V(theta, T)
    phi_j = phi_{j-1} - alpha_j d_phi L_in(theta, phi_{j-1}, T),  j = 1..r
    M_r(theta, T) = L_out(theta, phi_r, T)

The objective is the mean of M_r over tasks T. Both variables are any trees of
floating arrays, the task is any tree of arrays.

Source: arXiv:2106.02487, Section 2.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, PyTree

__all__ = ['ABLOProblem', 'Rates', 'check', 'inner_gd', 'rate_of']

Step = int | Integer[Array, '']
Rates = float | int | Float[Array | np.ndarray, '*r'] | Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class ABLOProblem:
  """A bi-level problem.

  Attributes:
    V: (theta, task) -> phi_0.
    inner_loss: (theta, phi, task) -> scalar, or with the number of the step as
      a fourth argument if `stepped`. It must give the same value whenever it
      is called with the same arguments: some modes compute steps again.
    outer_loss: (theta, phi, task) -> scalar.
    stepped: whether `inner_loss` takes the step, from 0; for dropout (fold the
      step into a key of the task) and for batches in an order of their own.
  """

  V: Callable[[PyTree, PyTree], PyTree]
  inner_loss: Callable[..., Any]
  outer_loss: Callable[[PyTree, PyTree, PyTree], Any]
  stepped: bool = False

  def inner(self, theta: PyTree, phi: PyTree, task: PyTree, step: Step) -> Any:
    """The inner loss at a step."""
    if self.stepped:
      return self.inner_loss(theta, phi, task, step)
    return self.inner_loss(theta, phi, task)


def rate_of(
  alpha: Rates | optax.GradientTransformation, r: int
) -> Callable[[Step], Any]:
  """The learning rate as a function of the step.

  Args:
    alpha: a number, one per step [r], or a function of the step, such as an
      optax schedule.
    r: number of steps.

  Raises:
    ValueError: the array has another shape, or alpha is an optimiser.
  """
  if isinstance(alpha, optax.GradientTransformation):
    raise ValueError(
      'an inner optimiser needs exact_grad: first-order gradients and UFOM '
      f'are for plain gradient descent, got {alpha=}'
    )
  if callable(alpha):
    return alpha
  if jnp.shape(alpha) not in {(), (r,)}:
    raise ValueError(
      f'alpha must be a number or one per step, got {jnp.shape(alpha)=} {r=}'
    )
  values = jnp.asarray(alpha)
  if values.ndim == 0 or r == 0:  # Nobody asks for the rate of no step.
    return lambda step: values
  return lambda step: values[step]


def check(problem: ABLOProblem, theta: PyTree, task: PyTree, r: int) -> None:
  """Raises ValueError if the parts of a problem do not fit each other."""
  if not isinstance(r, int) or isinstance(r, bool) or r < 0:
    raise ValueError(f'r must be an integer of at least 0, got {r=}')
  phi = jax.eval_shape(problem.V, theta, task)
  for name, tree in (('theta', theta), ('phi', phi)):
    others = {
      jax.tree_util.keystr(path): str(jnp.result_type(leaf))
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
      if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    }
    if others:
      raise ValueError(f'{name} must have floating leaves only, got {others}')
  losses = {
    'inner_loss': lambda *x: problem.inner(*x, 0),
    'outer_loss': problem.outer_loss,
  }
  for name, loss in losses.items():
    shape = jnp.shape(jax.eval_shape(loss, theta, phi, task))
    if shape != ():
      raise ValueError(f'{name} must be a scalar, got shape {shape}')


def inner_gd(
  problem: ABLOProblem, theta: PyTree, task: PyTree, r: int, alpha: Rates
) -> PyTree:
  """Runs the inner loop and stores no states on the way.

  Args:
    problem: V and the inner loss.
    theta: outer variable.
    task: argument of the losses.
    r: number of steps.
    alpha: see `rate_of`.

  Returns:
    phi_r, in the structure of phi_0.

  Raises:
    ValueError: r is negative, alpha does not fit it, a leaf is not floating or
      a loss not a scalar.
  """
  check(problem, theta, task, r)
  rate = rate_of(alpha, r)
  gradient = jax.grad(problem.inner, argnums=1)

  def step(j: Step, phi: PyTree) -> PyTree:
    slope = gradient(theta, phi, task, j)
    a = rate(j)
    return jax.tree.map(lambda x, d: (x - a * d).astype(x.dtype), phi, slope)

  return jax.lax.fori_loop(0, r, step, problem.V(theta, task))
