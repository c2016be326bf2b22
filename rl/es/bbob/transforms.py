"""The transformations that BBOB's functions are made of.

Letters as in the reference: D dimensions, i = 0, ..., D - 1, and t_i = i / (D - 1),
the place of a coordinate. In one dimension t = 1.

All keep the dtype of x, and have finite gradients everywhere, at 0 too.

Reference: Hansen, Finck, Ros, Auger (2009), Real-Parameter Black-Box Optimization
Benchmarking 2009: Noiseless Functions Definitions, Section 0.2.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = [
  'asymmetric',
  'conditioning',
  'oscillating',
  'outside',
  'places',
  'power',
  'ranged',
]


def places(dimension: int) -> Float[np.ndarray, ' D']:
  """t_i = i / (D - 1), float64; 1 in one dimension."""
  return np.linspace(0, 1, dimension) if dimension > 1 else np.ones(1)


def ranged(x: Float[Array, ' D'], base: float) -> Float[Array, ' D']:
  """base^t_i: factors from 1 to base, in the dtype of x."""
  return jnp.asarray(base ** places(x.shape[0]), x.dtype)


def conditioning(x: Float[Array, ' D'], alpha: float) -> Float[Array, ' D']:
  """Lambda^alpha x, with the diagonal alpha^(t_i / 2)."""
  return ranged(x, alpha**0.5) * x


def power(
  x: Float[Array, '*n'], exponent: Float[Array, '*n'] | float
) -> Float[Array, '*n']:
  """x^exponent for x > 0, else 0; its gradient at 0 is 0.

  Args:
    x: any; negative values count as 0.
    exponent: positive.
  """
  above = x > 0
  return jnp.where(above, jnp.where(above, x, 1) ** exponent, 0)


def oscillating(x: Float[Array, '*n']) -> Float[Array, '*n']:
  """T_osz: the identity with smooth, not quite regular bumps; keeps the sign."""
  log = jnp.log(jnp.where(x == 0, 1, jnp.abs(x)))
  above = x > 0
  first, second = jnp.where(above, 10.0, 5.5), jnp.where(above, 7.9, 3.1)
  first, second = first.astype(x.dtype), second.astype(x.dtype)
  bumps = jnp.sin(first * log) + jnp.sin(second * log)
  return jnp.sign(x) * jnp.exp(log + 0.049 * bumps) * (x != 0)


def asymmetric(x: Float[Array, ' D'], beta: float) -> Float[Array, ' D']:
  """T_asy^beta: x_i^(1 + beta t_i sqrt(x_i)) where x_i > 0, else x_i."""
  t = jnp.asarray(beta * places(x.shape[0]), x.dtype)
  return jnp.where(x > 0, power(x, 1 + t * power(x, 0.5)), x)


def outside(x: Float[Array, ' D'], half: float = 5.0) -> Float[Array, '']:
  """f_pen: the squared distance to the box [-half, half]^D."""
  return jnp.sum(jnp.maximum(jnp.abs(x) - half, 0) ** 2)
