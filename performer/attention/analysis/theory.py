"""Errors of the estimators of exp(x . y), in closed form.

Errors are relative to the kernel: E[(estimate / exp(x . y) - 1)^2]. They are
those of single entries of the unnormalised attention matrix, for independent
rows (`ortho='iid'`); orthogonal rows do a little better (`orthogonal_gain`).
The normalised output, a ratio of sums, has no closed form.

Inputs are scaled as the kernels scale them: x = q d**-0.25, y = k d**-0.25.

Letters: d width of a head, m rows of the projection, r features (m times the
features per row), n rows that estimate the coefficient of a hybrid.

Reference: arXiv:2009.14794, Lemma 2, Theorems 1 and 2, Eq. 29;
arXiv:2110.04367 (hybrids); arXiv:2205.15317 (optimal positive features).
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from performer.attention import checks
from performer.attention.kernels import (
  base,
  hybrids,
  oprf,
  positive,
  table,
)
from performer.attention.kernels import (
  pairs as pairs_lib,
)

__all__ = [
  'COPIES',
  'OprfConstants',
  'Pairs',
  'all_pairs',
  'coefficient_moments',
  'copies',
  'log_0f1',
  'log_regularized_ratio',
  'oprf_constants',
  'orthogonal_gain',
  'pairs',
  'relative_mse',
]

Pairs, pairs, all_pairs = pairs_lib.Pairs, pairs_lib.pairs, pairs_lib.all_pairs
log_0f1 = positive.log_0f1
log_regularized_ratio = positive.log_regularized_ratio
OprfConstants, oprf_constants = oprf.OprfConstants, oprf.oprf_constants

# Features per row of the projection; hybrids depend on n, see `copies`.
COPIES: dict[str, int | None] = {
  name: None if isinstance(kernel, hybrids.Hybrid) else kernel.copies
  for name, kernel in table.KERNELS.items()
  if kernel.known
}
_HYBRIDS = tuple(name for name, rows in COPIES.items() if rows is None)


def _kernel(name: str, **options: Any) -> base.Kernel:
  """The kernel, with those of the options that it has."""
  checks.check_choice('softmax kernel', name, COPIES)
  kernel = table.get(name)
  own = {k: x for k, x in options.items() if hasattr(kernel, k)}
  return dataclasses.replace(kernel, **own)


def copies(kernel: str, *, mix_rows: int = 4) -> int:
  """Features per row of the projection.

  Args:
    kernel: a key of `COPIES`.
    mix_rows: n, for the hybrids.

  Returns:
    r / m.

  Raises:
    ValueError: if the kernel has no closed forms here.
  """
  return _kernel(kernel, mix_rows=mix_rows).copies


def coefficient_moments(
  kernel: str,
  where: Pairs,
  *,
  mix_rows: int,
  mix_bandwidth: int | float = 1.0,
) -> tuple[Float[Array, '...'], Float[Array, '...']]:
  """First two moments of the weight of softmax_hyp in a hybrid.

  Args:
    kernel: 'softmax_angular' or 'softmax_gaussian'.
    where: the pairs.
    mix_rows: n independent rows.
    mix_bandwidth: g of the Gaussian hybrid.

  Returns:
    E c and E c^2, where the other weight, of softmax_trig, is 1 - c.

  Raises:
    ValueError: if the kernel is no hybrid.
  """
  checks.check_choice('hybrid kernel', kernel, _HYBRIDS)
  made = _kernel(kernel, mix_rows=mix_rows, mix_bandwidth=mix_bandwidth)
  return made.moments(where)


def relative_mse(
  kernel: str,
  where: Pairs,
  *,
  features: int | float,
  size: int,
  mean_square: Float[Array, '...'] | int | float | None = None,
  mix_rows: int = 4,
  mix_bandwidth: int | float = 1.0,
  mix_shared: bool = True,
) -> Float[Array, '...']:
  """Mean of (estimate / exp(x . y) - 1)^2, variance and squared bias.

  Args:
    kernel: a key of `COPIES`. For 'softmax_general' give the pairs of A x and
      A^-T y.
    where: the pairs.
    features: r; compare kernels at equal r.
    size: d.
    mean_square: what the constants of softmax_oprf are made for; None means
      |x + y|^2 of each pair itself, the best case.
    mix_rows: n of the hybrids.
    mix_bandwidth: g of softmax_gaussian.
    mix_shared: whether both parts of a hybrid share their rows.

  Returns:
    Float32 of the pairs' shape; inf where float32 cannot hold it.

  Raises:
    ValueError: if the kernel has no closed form, or features is not positive.
  """
  if not features > 0:
    raise ValueError(f'features must be positive, got {features=}')
  made = _kernel(
    kernel,
    oprf_mean_square=mean_square,
    mix_rows=mix_rows,
    mix_bandwidth=mix_bandwidth,
    mix_shared=mix_shared,
  )
  return made.relative_mse(where, rows=features / made.copies, size=size)


def orthogonal_gain(
  plus: Float[Array, '...'], *, rows: int, size: int
) -> Float[Array, '...']:
  """Least reduction of the relative MSE of softmax_pos by orthogonal rows.

  Args:
    plus: |x + y|^2.
    rows: m; at most d, or a multiple of d.
    size: d.

  Returns:
    A lower bound on relative_mse(iid) - mse(orthogonal).

  Raises:
    ValueError: if m is neither in 1..d nor a multiple of d.

  Reference: arXiv:2009.14794, Theorem 2.
  """
  if rows < 1 or (rows > size and rows % size):
    raise ValueError(
      f'rows must be 1 to size or a multiple of it, got {rows=} {size=}'
    )
  m = min(rows, size)
  blocks = rows // m
  gain = 2 * (m - 1) / (m * (size + 2)) * jnp.square(jnp.expm1(-plus / 2))
  return gain / blocks
