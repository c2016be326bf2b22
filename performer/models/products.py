"""Products of activations and weights, for Flax's `dot_general=`."""

import math
from typing import Any

import jax
from jaxtyping import Array, Float

from performer.attention import calls

__all__ = ['dot_general']


def dot_general(
  x: Float[Array, '*rows_k'],
  weights: Float[Array, '*k_n'],
  dimension_numbers: tuple,
  precision: Any = None,
  **options: Any,
) -> Float[Array, '*rows_n']:
  """`jax.lax.dot_general` of a dense layer; on a CPU, of one matrix of rows.

  For the gradient of weights XLA's CPU compiler transposes the cotangent, if the
  rows have several axes. That takes as long as the layer's products. Elsewhere,
  and on meshes with explicit axes, the axes stay: a mesh may split any of them.

  Args:
    x: activations; their last axes are summed over.
    weights: their first axes are summed over.
    dimension_numbers: axes that are summed over; no batch axes.
    precision: see `jax.lax.dot_general`.
    **options: see `jax.lax.dot_general`.
  """
  if jax.default_backend() != 'cpu' or calls.explicit_mesh(x) is not None:
    return jax.lax.dot_general(
      x, weights, dimension_numbers, precision, **options
    )
  (summed, _), _ = dimension_numbers
  count = len(summed)
  rows, columns = x.shape[:-count], weights.shape[count:]
  size = math.prod(weights.shape[:count])
  out = jax.lax.dot_general(
    x.reshape(-1, size),
    weights.reshape(size, -1),
    (((1,), (0,)), ((), ())),
    precision,
    **options,
  )
  return out.reshape(*rows, *columns)
