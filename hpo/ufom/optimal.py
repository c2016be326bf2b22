"""The best probability of exact gradients.

If the number of iterations to an accuracy grows like S(q)^p with
S(q) = V2 + (1 / q - 1) D2, the whole cost is T(q) = (c_det + q c_rnd) S(q)^p.
Its derivative vanishes where

    c_rnd (V2 - D2) q^2 + (1 - p) c_rnd D2 q - p c_det D2 = 0

T falls from q = 0 on. If p D2 (c_det + c_rnd) >= c_rnd V2, T still falls at q = 1,
and q* = 1 with one exception: for p < 1 and D2 > V2, T may rise in between, and the
cheaper of the smaller root and 1 is q*. Here V2 bounds E ||grad M||^2 and D2 bounds
E ||grad M - g_FO||^2. p = 2 belongs to step sizes fixed in advance, p = 1 to those
tuned to S.

With one deterministic task whose theta only the inner loss sees, g_FO = 0 and
D2 = V2, so q* = 1; far from the optimum a smaller q serves better all the same.

Source: arXiv:2106.02487, Section 4.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ['optimal_q', 'predicted_cost', 'predicted_saving']

Number = float | int | Float[Array, '...']
Real = float | int


def _check(p: Real, c_det: Real, c_rnd: Real) -> None:
  if not p > 0 or not c_det > 0 or not c_rnd >= 0:
    raise ValueError(
      'p and c_det must be positive and c_rnd not negative, '
      f'got {p=} {c_det=} {c_rnd=}'
    )


def optimal_q(
  D2: Number, V2: Number, c_det: Real, c_rnd: Real, p: Real = 2.0
) -> Float[Array, '...']:
  """The probability that minimises T(q) over [0, 1].

  Args:
    D2: bound of the squared bias.
    V2: bound of the squared gradient, of the same shape.
    c_det: gradient evaluations of every task.
    c_rnd: evaluations that an exact gradient adds.
    p: exponent of the model.

  Returns:
    q*, 0 where D2 = 0 < V2 and 1 where both are 0.

  Raises:
    ValueError: p or c_det is not positive, or c_rnd negative.
  """
  _check(p, c_det, c_rnd)
  if c_rnd == 0:  # Exact gradients are free.
    return jnp.ones(jnp.broadcast_shapes(jnp.shape(D2), jnp.shape(V2)))
  D2, V2 = jnp.asarray(D2), jnp.asarray(V2)
  rises = p * D2 * (c_det + c_rnd) < c_rnd * V2  # T, at q = 1.
  a = c_rnd * (V2 - D2)
  b = (1 - p) * c_rnd * D2
  c = p * c_det * D2
  square = b * b + 4 * a * c
  root = jnp.sqrt(jnp.maximum(square, 0))
  if p < 1:  # This form of the smaller root has no cancellation.
    q = jnp.clip(2 * c / jnp.where(D2 == 0, 1, b + root), 0, 1)
    cost = lambda q: predicted_cost(q, D2, V2, c_det, c_rnd, p)
    inside = rises | ((square > 0) & (cost(q) < cost(1)))
  else:
    q = jnp.clip((root - b) / jnp.where(rises, 2 * a, 1), 0, 1)
    inside = rises
  return jnp.where(inside, q, 1)


def predicted_cost(
  q: Number,
  D2: Number,
  V2: Number,
  c_det: Real,
  c_rnd: Real,
  p: Real = 2.0,
) -> Float[Array, '...']:
  """T(q); arguments as of `optimal_q`, q positive unless D2 = 0.

  Raises:
    ValueError: as `optimal_q`.
  """
  _check(p, c_det, c_rnd)
  q, D2 = jnp.asarray(q), jnp.asarray(D2)
  noise = jnp.where(D2 == 0, 0, (1 / jnp.where(D2 == 0, 1, q) - 1) * D2)
  return (c_det + q * c_rnd) * (V2 + noise) ** p


def predicted_saving(
  D2: Number, V2: Number, c_det: Real, c_rnd: Real, p: Real = 2.0
) -> Any:
  """T(1) / T(q*): how many times cheaper UFOM is than exact gradients."""
  q = optimal_q(D2, V2, c_det, c_rnd, p)
  cost = lambda q: predicted_cost(q, D2, V2, c_det, c_rnd, p)
  return cost(jnp.ones_like(q)) / cost(q)
