"""Parameters and operations of bodies, for comparisons at equal budgets."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rl.odetoode import bodies, geometry, heads, retractions
from runtime.devices import counting

__all__ = ['Cost', 'cost', 'count_params']


class Cost(NamedTuple):
  """The cost of a body.

  Attributes:
    params: numbers that are free.
    weights_flops: operations of matrix products, once for a vector of
      parameters.
    state_flops: the same, for each state.
  """

  params: int
  weights_flops: int
  state_flops: int


def count_params(
  model: bodies.Body | heads.Classifier | heads.Policy,
  *,
  intrinsic: bool = True,
  inputs: Sequence[int] | None = None,
) -> int:
  """Parameters of a body, or of a classifier or a policy with its heads.

  Args:
    model: to be counted.
    intrinsic: whether a symmetric matrix counts d (d + 1) / 2, an orthogonal one
      d (d - 1) / 2 and k orthonormal columns of n n k - k (k + 1) / 2, or all
      count as they are stored.
    inputs: the shape of what a classifier sees, without the batch.

  Raises:
    ValueError: if it is a classifier's and not given, or given of another model.
  """
  classifies = isinstance(model, heads.Classifier)
  if classifies != (inputs is not None):
    raise ValueError(
      'inputs must be the shape of an example for a classifier and None for '
      f'others, got {inputs=} and a {type(model).__name__}'
    )
  if isinstance(model, heads.Policy):
    shapes = model.shapes
  else:
    zeros = jnp.zeros((1, *inputs) if classifies else model.width)
    variables = jax.eval_shape(model.init, jax.random.key(0), zeros)
    shapes = variables.get('params', {})
  constraints = (model.body if classifies else model).constraints
  total = 0
  for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
    kind = constraints.get(path[-1].key, 'free')
    if kind == 'symmetric' and intrinsic:
      total += leaf.shape[0] * (leaf.shape[0] + 1) // 2
      continue
    kind = 'free' if kind == 'symmetric' else kind
    block = geometry.Block(kind, tuple(leaf.shape))
    total += block.dimension if intrinsic else block.size
  return total


def cost(body: bodies.Body) -> Cost:
  """Counts parameters and products, as if no guard ever took the exact form.

  Args:
    body: with steps of fixed size.

  Raises:
    ValueError: if its steps depend on x.
  """
  if not body.layered:
    raise ValueError(f'steps must be of fixed size to be counted, got {body}')
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
