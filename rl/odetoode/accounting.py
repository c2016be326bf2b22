"""Parameters and operations of bodies, for comparisons at equal budgets."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rl.odetoode import bodies, manifolds, retractions
from runtime import counting

__all__ = ['Cost', 'cost', 'count_params']


class Cost(NamedTuple):
  """What a body costs.

  Attributes:
    params: numbers that are free.
    weights_flops: operations of matrix products, once for a vector of
      parameters.
    state_flops: the same, for each state.
  """

  params: int
  weights_flops: int
  state_flops: int


def count_params(body: bodies.Body, *, intrinsic: bool = True) -> int:
  """Parameters of a body, heads excluded.

  Args:
    body: to be counted.
    intrinsic: whether a symmetric matrix counts d (d + 1) / 2 and an orthogonal
      one d (d - 1) / 2, or d^2 as it is stored.
  """
  variables = jax.eval_shape(
    body.init, jax.random.key(0), jnp.zeros(body.width)
  )
  total = 0
  for path, leaf in jax.tree_util.tree_flatten_with_path(
    variables.get('params', {})
  )[0]:
    kind = body.constraints.get(path[-1].key)
    free = manifolds.num_coordinates(body.width)
    sizes = {'orthogonal': free, 'symmetric': free + body.width}
    full = math.prod(leaf.shape)
    total += sizes.get(kind, full) if intrinsic else full
  return total


def cost(body: bodies.Body) -> Cost:
  """Counts parameters and products, as if no guard ever took the exact form.

  Args:
    body: with steps of fixed size.
  """
  if isinstance(body, bodies.ODEtoODE) and isinstance(
    body.retraction, retractions.Guarded
  ):
    body = body.clone(retraction=body.retraction.fast)
  x = jnp.zeros(body.width)
  variables = jax.eval_shape(body.init, jax.random.key(0), x)
  weights = lambda v: body.apply(v, method='weights')[0]
  advance = lambda v, w, x: body.apply(v, w, x, method='advance')
  return Cost(
    count_params(body),
    counting.matmul_flops(weights, variables),
    counting.matmul_flops(
      advance, variables, jax.eval_shape(weights, variables), x
    ),
  )
