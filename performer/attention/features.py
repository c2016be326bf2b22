"""The feature maps of every kernel, for queries and for keys.

Letters: b batch, h heads, l positions, d width of a head, r features.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention import (
  general,
  hybrids,
  kernels,
  oprf,
  projections,
  structures,
)

__all__ = ['FeatureMaps', 'exponentiated', 'feature_maps']

FeatureMap = Callable[[Float[Array, 'b h l d']], kernels.Features]


class FeatureMaps(NamedTuple):
  """phi_Q and phi_K, from [b, h, l, d] to `kernels.Features`."""

  queries: FeatureMap
  keys: FeatureMap


def feature_maps(
  kernel: kernels.Kernel,
  projection: structures.Projection | None,
  *,
  head_dim: int,
  epsilon: float = 0.0,
  mean_square: Float[Array, 'b h'] | Float[Array, ''] | float | None = None,
  bandwidth: float = 1.0,
) -> FeatureMaps:
  """Makes the maps of a kernel.

  The estimate of K(x, y) is phi_Q(x) . phi_K(y) times `Kernel.scale(r)`, with
  log-features exponentiated and every factor exp(`log_weight`) put back.

  Args:
    kernel: the kernel; a hybrid with its rows set (`Kernel.mixed`).
    projection: result of `Favor.draw`; None where there is none.
    head_dim: d.
    epsilon: added to each feature of a generalised kernel.
    mean_square: mean of |x + y|^2 that softmax_oprf is made for.
    bandwidth: g of softmax_gaussian.

  Returns:
    The maps; of most kernels they are one and the same.

  Raises:
    ValueError: if softmax_oprf lacks its mean square.
  """
  projection = _prepare(projection, head_dim)
  if kernel.structure == 'mixture':
    options = {'projection': projection, 'bandwidth': bandwidth}
    return FeatureMaps(
      functools.partial(hybrids.query_map, kernel, **options),
      functools.partial(hybrids.key_map, kernel, **options),
    )
  if kernel.structure == 'general':
    # Inverted here, once, and not for each run of positions.
    inverse = None if projection is None else general.invert(projection)
    return FeatureMaps(
      functools.partial(general.query_map, projection=projection),
      functools.partial(general.query_map, projection=inverse),
    )
  if kernel.name == 'softmax_oprf':
    if mean_square is None:
      raise ValueError(
        'softmax_oprf takes the mean of |x + y|^2 from all queries and keys '
        'of a bidirectional call; anywhere else (causal, state, segments) set '
        f'oprf_mean_square, got {mean_square=}'
      )
    shared = functools.partial(
      oprf.feature_map, projection=projection, square=mean_square
    )
    return FeatureMaps(shared, shared)

  def one_map(x: Float[Array, 'b h l d']) -> kernels.Features:
    return kernels.feature_map(kernel, x, projection, epsilon=epsilon)

  return FeatureMaps(one_map, one_map)


def exponentiated(log_map: FeatureMap) -> FeatureMap:
  """The features themselves, of a map to their logarithms."""

  def direct_map(x: Float[Array, 'b h l d']) -> kernels.Features:
    values, weight = log_map(x)
    if weight is not None:
      values = values + weight[..., None]
    return kernels.Features(jnp.exp(values), None)

  return direct_map


def _prepare(
  projection: structures.Projection | None, size: int
) -> structures.Projection | None:
  """Writes small Hadamard projections out, once for all positions."""
  if isinstance(projection, structures.General):
    return projection._replace(
      omega=projections.prepare(projection.omega, size)
    )
  if isinstance(projection, structures.Mixture):
    return projection._replace(
      omega=projections.prepare(projection.omega, size),
      second=projections.prepare(projection.second, size),
    )
  return projections.prepare(projection, size)
