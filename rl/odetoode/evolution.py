"""Gradients of a smoothed function on manifolds, from evaluations only.

`rl.es` trains policies with them; here is the bare estimate, for any function
of any parameters.
"""

import numbers
from collections.abc import Callable

import jax
from jax import flatten_util
from jaxtyping import Array, Float, Key, PyTree

from rl import ranges
from rl.es import estimators, population, shaping
from rl.es import geometry as geometry_lib

__all__ = ['es_gradient']


def es_gradient(
  objective: Callable[[PyTree], Float[Array, '']],
  theta: PyTree,
  key: Key[Array, ''],
  *,
  num_pairs: int,
  sigma: float | Float[Array, ''],
  geometry: geometry_lib.Geometry = geometry_lib.EUCLIDEAN,
) -> Float[Array, ' k']:
  """Estimates the gradient of the smoothed objective in tangent coordinates.

  sum_i (F(theta + sigma g_i) - F(theta - sigma g_i)) g_i / (2 sigma n), where the
  sums with theta are moves on its manifold.

  Args:
    objective: F, of parameters like theta; it is vmapped.
    theta: where; an array or a tree of arrays.
    key: of the directions.
    num_pairs: n; F is evaluated 2 n times.
    sigma: scale of the perturbations.
    geometry: space of theta, `geometry.Manifold` or Euclidean space; its mode
      decides whether evaluated points are on the manifold. `geometry.step` moves
      flat parameters along learning rate times the estimate; `rl.es.minimize` does
      both.

  Returns:
    Float32 coordinates, block after block; unbiased for the smoothed objective's
    gradient. Those of an orthogonal block are the entries above the diagonal of
    a skew-symmetric matrix, which `manifolds.from_coordinates` writes out.

  Raises:
    ValueError: if theta does not fit the geometry, or a number is not positive.
  """
  ranges.check_counts(num_pairs=num_pairs)
  if isinstance(sigma, numbers.Real):
    ranges.check_positive(sigma=sigma)
  theta, unravel = flatten_util.ravel_pytree(theta)
  perturbed = population.Perturbations(theta, sigma, key, geometry=geometry)
  members = perturbed.members(0, count=num_pairs)
  at = lambda member: objective(unravel(member))
  returns = jax.vmap(at)(members.reshape(-1, theta.shape[0]))
  weights = estimators.Antithetic(shaping.unshaped).weights(
    returns, jax.numpy.ones(returns.shape, bool), sigma=sigma
  )
  return perturbed.gradient(weights)
