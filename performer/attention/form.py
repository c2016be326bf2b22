"""The parts of a linear form: feature maps, and the end of each row.

Letters: b batch, h heads, l or i positions of queries, j of keys, d width of a
key, v of a value, r features.
"""

import dataclasses
import functools
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention import direct_family, kernels, log_family
from performer.attention import state as state_lib

__all__ = [
  'DENOMINATOR_DELTA',
  'Finish',
  'Form',
  'divide',
  'family',
  'finisher',
  'ratio',
]

# In units of the (stabilised) denominator: signed features may cancel, and
# |D| <= delta is replaced by D + 2 delta before dividing.
DENOMINATOR_DELTA = 1e-6

Featurize = Callable[[Float[Array, 'b h l d']], kernels.Features]
Finish = Callable[[state_lib.Readout, kernels.Features], Array]


def family(*, log: bool) -> types.ModuleType:
  """The module that sums and reads features, or their logarithms."""
  return log_family if log else direct_family


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

  @property
  def family(self) -> types.ModuleType:
    """The module that sums and reads these features."""
    return family(log=self.log)

  @property
  def by_hand(self) -> bool:
    """Whether `log_forms` has a backward pass for it."""
    return self.log and self.finish is ratio

  def empty(self, v: Float[Array, 'b l h v']) -> state_lib.State:
    """The state of no keys, for values like v."""
    return state_lib.empty(
      v[:, 0], self.features, v.shape[-1], self.family.PER_FEATURE
    )


def ratio(
  rows: state_lib.Readout, queries: kernels.Features | None = None
) -> Float[Array, 'b h l v']:
  """Rows of positive features: an average of values; 0 where none is seen."""
  del queries  # A factor per row cancels.
  return divide(rows.numerator, rows.denominator)


def divide(
  numerator: Float[Array, 'b h l v'], denominator: Float[Array, 'b h l']
) -> Float[Array, 'b h l v']:
  """Divides rows by positive denominators; rows without one are 0."""
  seen = denominator > 0
  denominator = jnp.where(seen, denominator, 1.0)[..., None]
  # Denominators reach e^60. The derivative of a quotient squares them, which
  # overflows, unless they are 1 when it is taken.
  unit = jax.lax.stop_gradient(1.0 / denominator)
  return numerator * unit / (denominator * unit)


def _signed_ratio(
  rows: state_lib.Readout, queries: kernels.Features
) -> Float[Array, 'b h l v']:
  del queries
  d, delta = rows.denominator, DENOMINATOR_DELTA
  d = jnp.where(jnp.abs(d) <= delta, d + 2 * delta, d)
  return rows.numerator / d[..., None]


def _unnormalized(
  rows: state_lib.Readout, queries: kernels.Features, *, scale: float
) -> Float[Array, 'b h l v']:
  exponent = rows.log_scale
  if queries.log_weight is not None:
    exponent = exponent + queries.log_weight
  return rows.numerator * (scale * jnp.exp(exponent))[..., None]


def finisher(*, renormalize: bool, signed: bool, scale: float) -> Finish:
  """The end of each row.

  Args:
    renormalize: whether rows are divided by their denominators.
    signed: whether denominators can be zero or negative.
    scale: constant of the kernel, for rows that are not divided.

  Returns:
    A function of the rows read and their query features.
  """
  if not renormalize:
    return functools.partial(_unnormalized, scale=scale)
  return _signed_ratio if signed else ratio
