"""FOM: the gradient of M_r without second derivatives.

    g_FO = d_theta L_out(theta, phi_r) + (dV / dtheta)^T d_phi L_out(theta, phi_r)

It is biased; of a theta that only the inner loss sees it is zero.
"""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hpo.ufom import exact
from hpo.ufom import problem as problem_lib

__all__ = ['fom_grad']


def fom_grad(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  task: PyTree,
  r: int,
  alpha: problem_lib.Rates,
) -> exact.Hypergradient:
  """The first-order gradient of M_r(theta, task), in memory free of r.

  Args:
    problem: the bi-level problem.
    theta: outer variable.
    task: argument of the losses.
    r: number of inner steps.
    alpha: learning rates as for `inner_gd`; no optimiser.

  Returns:
    `grad` and `first_order` are both g_FO.

  Raises:
    ValueError: as `inner_gd`.
  """
  phi = problem_lib.inner_gd(problem, theta, task, r, alpha)
  value, (direct, slope) = jax.value_and_grad(
    lambda th, ph: problem.outer_loss(th, ph, task), argnums=(0, 1)
  )(theta, phi)
  through = jax.vjp(lambda th: problem.V(th, task), theta)[1](slope)[0]
  grad = jax.tree.map(jnp.add, direct, through)
  return exact.Hypergradient(value, grad, grad, phi)
