"""What a kernel gives to the sums: features of queries and of keys.

A kernel is K(x, y) = E[phi(x) . phi(y)]. Its features come in one of two
forms:

* logarithmic: `values` are logarithms of positive features, so that they can
  be stabilised exactly.
* direct: `values` are the features themselves, of any sign.

In both, the true features are those of `values` times exp(`log_weight`), one
factor per position.

Letters: b batch, h heads, l positions, d width of a head, r features.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ['FeatureMap', 'FeatureMaps', 'Features', 'exponentiated']


class Features(NamedTuple):
  """Features of a run of positions.

  Attributes:
    values: [b, h, l, r], float32: log-features or features.
    log_weight: [b, h, l], float32: logarithm of a factor per position; None
      where the kernel has none.
  """

  values: Float[Array, 'b h l r']
  log_weight: Float[Array, 'b h l'] | None


FeatureMap = Callable[[Float[Array, 'b h l d']], Features]


class FeatureMaps(NamedTuple):
  """phi_Q and phi_K; of most kernels they are one and the same."""

  queries: FeatureMap
  keys: FeatureMap


def exponentiated(log_map: FeatureMap) -> FeatureMap:
  """The features themselves, of a map to their logarithms."""

  def direct_map(x: Float[Array, 'b h l d']) -> Features:
    values, weight = log_map(x)
    if weight is not None:
      values = values + weight[..., None]
    return Features(jnp.exp(values), None)

  return direct_map
