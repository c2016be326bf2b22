"""The memory of a backward pass, and the cost of products and convolutions.

Both are read off the trace of the function: nothing is compiled or run.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

__all__ = ['matmul_flops', 'residual_bytes', 'tree_bytes']


def tree_bytes(tree: PyTree) -> int:
  """Bytes of all numeric leaves, arrays or their shapes."""
  leaves = [
    x
    for x in jax.tree.leaves(tree)
    if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended)
  ]
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def residual_bytes(
  function: Callable[..., Any],
  args: tuple[PyTree, ...],
  fixed: tuple[PyTree, ...] = (),
) -> int:
  """Bytes that reverse-mode differentiation keeps, less the arguments.

  Counts what JAX stores before the compiler improves on it.

  Args:
    function: of floating trees, to floating trees.
    args: arrays or their shapes; it is differentiated in these.
    fixed: arguments behind them, of any dtype.
  """

  def pull(args: tuple, fixed: tuple) -> Any:
    return jax.vjp(lambda *x: function(*x, *fixed), *args)[1]

  kept = jax.eval_shape(pull, args, fixed)
  return max(tree_bytes(kept) - tree_bytes(args), 0)


def matmul_flops(function: Callable[..., Any], *args: PyTree) -> int:
  """Multiplications and additions of all matrix products, loops included.

  A convolution is one product, with what it reads beyond the border. A conditional
  counts its most expensive branch, and a while loop one turn.

  Args:
    function: to be counted.
    *args: arrays or their shapes.
  """
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
  return sum(_count_equation(eqn) for eqn in jaxpr.eqns)


def _count_equation(eqn: Any) -> int:
  if eqn.primitive.name == 'dot_general':
    contracted = eqn.params['dimension_numbers'][0][0]
    lhs = eqn.invars[0].aval.shape
    inner = math.prod(lhs[axis] for axis in contracted)
    return 2 * inner * math.prod(eqn.outvars[0].aval.shape)
  if eqn.primitive.name == 'conv_general_dilated':
    kernel = eqn.invars[1].aval.shape
    outputs = kernel[eqn.params['dimension_numbers'].rhs_spec[0]]
    inner = math.prod(kernel) // outputs
    return 2 * inner * math.prod(eqn.outvars[0].aval.shape)
  inner = [_count(jaxpr) for jaxpr in _jaxprs(eqn.params)]
  if eqn.primitive.name == 'cond':
    return max(inner)
  return sum(inner) * eqn.params.get('length', 1) if inner else 0


def _jaxprs(params: dict[str, Any]) -> list[Any]:
  found = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      item = getattr(item, 'jaxpr', item)
      if hasattr(item, 'eqns'):
        found.append(item)
  return found
