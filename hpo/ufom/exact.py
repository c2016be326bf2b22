"""The exact gradient of M_r, in four trades of memory for time.

From the last inner step to the first,

    lambda_r = d_phi L_out,  g = d_theta L_out  (both at phi_r)
    g <- g - alpha_j (d_theta d_phi L_in(phi_{j-1}))^T lambda_j
    lambda_{j-1} = lambda_j - alpha_j d_phi d_phi L_in(phi_{j-1}) lambda_j
    grad M = g + (dV / dtheta)^T lambda_0

The modes differ in where phi_{j-1} comes from:

| mode        | memory in r                | gradients beside r + 1 and r products |
|-------------|----------------------------|---------------------------------------|
| `store`     | r (activations + phi)      | 0                                     |
| `store_phi` | r phi                      | 0                                     |
| `sqrt`      | 2 sqrt(r) phi              | about r                               |
| `recompute` | none                       | r (r - 1) / 2                         |

`store` leaves the recursion to JAX. Source: arXiv:2106.02487, Sections 2 and 3.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from hpo.ufom import dynamics as dynamics_lib
from hpo.ufom import problem as problem_lib

__all__ = ['MODES', 'Hypergradient', 'Mode', 'exact_grad']

Mode = Literal['store', 'store_phi', 'sqrt', 'recompute']
MODES: tuple[Mode, ...] = ('store', 'store_phi', 'sqrt', 'recompute')
Dynamics = dynamics_lib.Dynamics
Carry = tuple[PyTree, PyTree]  # Gradient in theta, cotangent of the state.
Pull = Callable[[Carry, PyTree, Any], Carry]


class Hypergradient(NamedTuple):
  """The result of one task: value, gradients and phi_r.

  Attributes:
    value: M_r.
    grad: an estimate of its gradient, like theta.
    first_order: g_FO, the gradient without second derivatives, like theta.
    phi: phi_r.
  """

  value: Any
  grad: PyTree
  first_order: PyTree
  phi: PyTree


def exact_grad(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  task: PyTree,
  r: int,
  alpha: problem_lib.Rates | optax.GradientTransformation,
  *,
  mode: Mode = 'recompute',
  products: dynamics_lib.Products = 'forward',
  clip_backward: float | None = None,
) -> Hypergradient:
  """The gradient of M_r(theta, task) in theta.

  Args:
    problem: the bi-level problem.
    theta: outer variable.
    task: argument of the losses.
    r: number of inner steps.
    alpha: learning rates as for `inner_gd`, or an optimiser of optax.
    mode: see the module.
    products: see `dynamics.Descent`; an inner optimiser is always reversed.
    clip_backward: bound on each element of lambda after each reverse step, as
      in the published code. The gradient is then not exact, nor is UFOM's
      unbiased. None: no bound.

  Returns:
    `grad` is exact; `first_order` comes along at no cost.

  Raises:
    ValueError: as `inner_gd`; an unknown mode; a bound that is not positive, or
      with mode 'store', whose recursion is JAX's own.
  """
  problem_lib.check(problem, theta, task, r)
  if mode not in MODES:
    raise ValueError(f'mode must be one of {MODES}, got {mode!r}')
  if clip_backward is not None and (clip_backward <= 0 or mode == 'store'):
    raise ValueError(
      'clip_backward must be positive and needs a mode other than '
      f"'store', got {clip_backward=} {mode=}"
    )
  dynamics = dynamics_lib.of(problem, task, r, alpha, products)
  end = lambda theta, state: problem.outer_loss(
    theta, dynamics.phi(state), task
  )

  def finish(state: PyTree) -> tuple[Any, Carry]:
    """M_r, g and lambda_r."""
    value, (g, slope) = jax.value_and_grad(
      lambda th, ph: problem.outer_loss(th, ph, task), argnums=(0, 1)
    )(theta, dynamics.phi(state))
    return value, (g, dynamics.lift(state, slope))

  def pull(carry: Carry, state: PyTree, j: Any) -> Carry:
    g, cotangent = carry
    more, cotangent = dynamics.pull(theta, state, j, cotangent)
    if clip_backward is not None:
      cotangent = optax.tree.clip(cotangent, -clip_backward, clip_backward)
    return jax.tree.map(jnp.add, g, more), cotangent

  def whole(carry: Carry) -> PyTree:
    g, cotangent = carry
    return jax.tree.map(jnp.add, g, dynamics.pull_start(theta, cotangent))

  if mode == 'store':
    state, grad = _store(dynamics, theta, r, end)
    value, last = finish(state)
    return Hypergradient(value, grad, whole(last), dynamics.phi(state))
  sweep = {'store_phi': _store_phi, 'sqrt': _sqrt, 'recompute': _recompute}
  state, back = sweep[mode](dynamics, theta, r, pull)
  value, last = finish(state)
  grad = whole(back(last))
  return Hypergradient(value, grad, whole(last), dynamics.phi(state))


def _roll(dynamics: Dynamics, theta: PyTree, state: PyTree, count: Any) -> Any:
  """The state after `count` steps from the first."""
  body = lambda j, state: dynamics.step(theta, state, j)
  return jax.lax.fori_loop(0, count, body, state)


def _states(
  dynamics: Dynamics, theta: PyTree, state: PyTree, steps: Any
) -> tuple[PyTree, PyTree]:
  """The state after some steps, and those before each of them, stacked."""

  def body(state: PyTree, j: Any) -> tuple[PyTree, PyTree]:
    return dynamics.step(theta, state, j), state

  return jax.lax.scan(body, state, steps)


def _sweep_back(pull: Pull, carry: Carry, states: PyTree, steps: Any) -> Carry:
  """Pulls through steps, the last first."""

  def body(carry: Carry, at: tuple[PyTree, Any]) -> tuple[Carry, None]:
    return pull(carry, *at), None

  return jax.lax.scan(body, carry, (states, steps), reverse=True)[0]


def _store(
  dynamics: Dynamics, theta: PyTree, r: int, end: Callable[..., Any]
) -> tuple[PyTree, PyTree]:
  """Differentiates through the loop, which keeps all activations."""

  def unrolled(theta: PyTree) -> tuple[Any, PyTree]:
    def body(state: PyTree, j: Any) -> tuple[PyTree, None]:
      return dynamics.step(theta, state, j), None

    state, _ = jax.lax.scan(body, dynamics.start(theta), jnp.arange(r))
    return end(theta, state), state

  grad, state = jax.grad(unrolled, has_aux=True)(theta)
  return state, grad


def _store_phi(
  dynamics: Dynamics, theta: PyTree, r: int, pull: Pull
) -> tuple[PyTree, Callable[[Carry], Carry]]:
  """Keeps the state before each step."""
  steps = jnp.arange(r)
  last, states = _states(dynamics, theta, dynamics.start(theta), steps)
  return last, lambda carry: _sweep_back(pull, carry, states, steps)


def _sqrt(
  dynamics: Dynamics, theta: PyTree, r: int, pull: Pull
) -> tuple[PyTree, Callable[[Carry], Carry]]:
  """Keeps the state before each of about sqrt(r) segments."""
  size = max(math.isqrt(r), 1)
  body_steps = jnp.arange(r - r % size).reshape(-1, size)
  tail = jnp.arange(r - r % size, r)

  def advance(state: PyTree, steps: Any) -> tuple[PyTree, PyTree]:
    run = lambda i, state: dynamics.step(theta, state, steps[i])
    return jax.lax.fori_loop(0, len(steps), run, state), state

  def back_segment(carry: Carry, at: tuple[PyTree, Any]) -> tuple[Carry, None]:
    start, steps = at
    _, states = _states(dynamics, theta, start, steps)
    return _sweep_back(pull, carry, states, steps), None

  middle, starts = jax.lax.scan(advance, dynamics.start(theta), body_steps)
  last = advance(middle, tail)[0] if tail.size else middle

  def back(carry: Carry) -> Carry:
    if tail.size:
      carry, _ = back_segment(carry, (middle, tail))
    return jax.lax.scan(
      back_segment, carry, (starts, body_steps), reverse=True
    )[0]

  return last, back


def _recompute(
  dynamics: Dynamics, theta: PyTree, r: int, pull: Pull
) -> tuple[PyTree, Callable[[Carry], Carry]]:
  """Keeps nothing: rolls from the start to the state before each step."""
  start = dynamics.start(theta)

  def back(carry: Carry) -> Carry:
    def body(i: Any, carry: Carry) -> Carry:
      j = r - 1 - i
      return pull(carry, _roll(dynamics, theta, start, j), j)

    return jax.lax.fori_loop(0, r, body, carry)

  return _roll(dynamics, theta, start, r), back
