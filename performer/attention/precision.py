"""In which precision attention computes: float32, or float64 where it is given.

Inputs and features may be narrower; exponents, products and sums never are.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ['dot', 'feature_dtype', 'wide', 'widen']


def wide(*arrays: Array) -> jnp.dtype:
  """The dtype of sums over these arrays: float32, or wider if one is."""
  return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def widen(x: Float[Array, '...']) -> Float[Array, '...']:
  """The array in the dtype of its sums."""
  return x.astype(wide(x))


def dot(form: str, *operands: Float[Array, '...']) -> Float[Array, '...']:
  """An einsum whose products are summed in the wide dtype."""
  return jnp.einsum(form, *operands, preferred_element_type=wide(*operands))


def feature_dtype(name: str, inputs: jnp.dtype) -> jnp.dtype:
  """The dtype of stabilised features: as named, but no float64 is rounded.

  Args:
    name: 'float32', which means not rounded, or a narrower dtype.
    inputs: dtype of queries and keys.
  """
  if name == 'float32' and inputs == jnp.float64:
    return jnp.dtype(jnp.float64)
  return jnp.dtype(name)
