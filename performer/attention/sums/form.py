"""The parts of a linear form: feature maps, and the end of each row.

Letters: b batch, h heads, l positions, d width of a key, v of a value, r
features.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention.sums import features as features_lib
from performer.attention.sums import state as state_lib

__all__ = [
  'DENOMINATOR_DELTA',
  'Featurize',
  'Finish',
  'Form',
  'ratio',
  'signed_ratio',
  'unnormalized',
]

# In units of the (stabilised) denominator: signed features may cancel, and
# |D| <= delta is replaced by D + 2 delta before dividing.
DENOMINATOR_DELTA = 1e-6

Featurize = features_lib.FeatureMap
Finish = Callable[[state_lib.Readout, features_lib.Features], Array]


@dataclasses.dataclass(frozen=True)
class Form:
  """The functions and settings of a linear form.

  Attributes:
    featurize_queries: maps queries, [b, h, l, d], to their features.
    featurize_keys: the same for keys; most kernels have one map for both.
    finish: maps rows read, and their query features, to outputs
      [b, h, l, v].
    features: r.
    log: whether the features are logarithms.
    chunk: positions per chunk.
    dtype: of the stabilised features; sums are float32.
  """

  featurize_queries: Featurize
  featurize_keys: Featurize
  finish: Finish
  features: int
  log: bool
  chunk: int
  dtype: jnp.dtype


def ratio(
  rows: state_lib.Readout, queries: features_lib.Features | None = None
) -> Float[Array, 'b h l v']:
  """Rows of positive features: an average of values; 0 where none is seen."""
  del queries  # A factor per row cancels.
  return state_lib.divide(rows.numerator, rows.denominator)


def signed_ratio(
  rows: state_lib.Readout, queries: features_lib.Features
) -> Float[Array, 'b h l v']:
  """Rows of features whose denominators can be zero or negative."""
  del queries
  d, delta = rows.denominator, DENOMINATOR_DELTA
  d = jnp.where(jnp.abs(d) <= delta, d + 2 * delta, d)
  return rows.numerator / d[..., None]


def unnormalized(
  rows: state_lib.Readout, queries: features_lib.Features, *, scale: float
) -> Float[Array, 'b h l v']:
  """Rows that are not divided, times the constant of the kernel."""
  exponent = rows.log_scale
  if queries.log_weight is not None:
    exponent = exponent + queries.log_weight
  return rows.numerator * (scale * jnp.exp(exponent))[..., None]
