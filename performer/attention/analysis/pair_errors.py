"""Errors of single entries of the attention matrix, on a sample of pairs.

Everything here is a pure function of arrays, cheap enough to run beside
training: a sample of s queries and s keys costs O(s^2 r).

Letters: b batch, h heads, i sampled queries, j sampled keys, d width of a
head, r features.

Reference: arXiv:2009.14794, Lemma 2 (errors), section C.4 (recovery).
"""

import dataclasses
import warnings
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from performer.attention import favor as favor_lib
from performer.attention.analysis import recovery
from performer.attention.kernels import pairs as pairs_lib
from performer.attention.kernels import table

__all__ = [
  'SUPPORTED',
  'KernelEstimate',
  'Sample',
  'check_supported',
  'kernel_estimate',
  'measured_errors',
  'predicted_error',
  'quantile',
  'relative_mse',
  'take_sample',
]

# A drawn softmax_general has A = I and is softmax_pos; another A is the
# caller's, and its errors are those of the pairs that it makes.
SUPPORTED = tuple(
  sorted(
    name
    for name, kernel in table.KERNELS.items()
    if kernel.known and name != 'softmax_general'
  )
)


class Sample(NamedTuple):
  """Some queries against some keys.

  Attributes:
    q: [b, i, h, d], unscaled.
    k: [b, j, h, d], unscaled.
    keep: pairs that attention looks at.
    rows: positions of the queries taken.
  """

  q: Float[Array, 'b i h d']
  k: Float[Array, 'b j h d']
  keep: Bool[Array, 'b 1 i j']
  rows: Int[Array, ' i']

  @property
  def pairs(self) -> pairs_lib.Pairs:
    """Products and norms of all pairs, [b, h, i, j]; scaled as kernels scale."""
    return _scaled_pairs(self.q, self.k)


def _scaled_pairs(
  q: Float[Array, 'b i h d'], k: Float[Array, 'b j h d']
) -> pairs_lib.Pairs:
  scale = q.shape[-1] ** -0.25
  x, y = (scale * a.astype(jnp.float32).transpose(0, 2, 1, 3) for a in (q, k))
  return pairs_lib.all_pairs(x, y)


def take_sample(
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  *,
  causal: bool,
  key_mask: Bool[Array, 'b lk'] | None = None,
  query_mask: Bool[Array, 'b lq'] | None = None,
  size: int = 64,
) -> Sample:
  """Takes evenly spaced queries and keys: the same ones every time.

  Args:
    q: queries, unscaled.
    k: keys, unscaled.
    causal: whether row i sees keys 0..i only.
    key_mask: True = keep.
    query_mask: True = a query that matters; None: all.
    size: the most queries and the most keys per sequence.

  Returns:
    The sample, without gradient to care about.

  Raises:
    ValueError: if the size is not positive.
  """
  if size < 1:
    raise ValueError(f'a sample needs at least one position, got {size=}')
  rows, columns = (_spread(x.shape[1], size) for x in (q, k))
  keep = jnp.ones((q.shape[0], rows.size, columns.size), bool)
  if causal:
    keep &= columns[None, :] <= rows[:, None]
  if key_mask is not None:
    keep &= key_mask[:, None, columns]
  if query_mask is not None:
    keep &= query_mask[:, rows, None]
  return Sample(q[:, rows], k[:, columns], keep[:, None], rows)


def _spread(length: int, size: int) -> Int[Array, ' i']:
  count = min(length, size)
  # The last position of each of `count` equal pieces: in causal attention the
  # rows that see most.
  return (jnp.arange(1, count + 1) * length) // count - 1


def check_supported(favor: favor_lib.Favor) -> None:
  """Refuses mechanisms whose entries do not estimate exp(x . y).

  Args:
    favor: the mechanism.

  Raises:
    ValueError: naming the kernels for which errors are known.
  """
  if text := _obstacle(favor):
    raise ValueError(text)


def _obstacle(favor: favor_lib.Favor) -> str | None:
  """Why errors of a mechanism are not known; None: they are."""
  if favor.kernel not in SUPPORTED:
    return (
      'errors are known for estimates of the softmax kernel with the rows '
      f'that `draw` makes, {SUPPORTED}, got {favor.kernel=}'
    )
  norm = favor.spec.norm
  if norm not in favor.spec.known:
    known = [n for n, kernel in table.KERNELS.items() if norm in kernel.known]
    return (
      f'errors with norms {norm} are known for {sorted(known)}, '
      f'got {favor.kernel=} {favor.norm=}'
    )
  return None


def relative_mse(
  favor: favor_lib.Favor,
  pairs: pairs_lib.Pairs,
  *,
  size: int,
  features: float | None = None,
  mean_square: float | Float[Array, ''] | None = None,
) -> Float[Array, '...']:
  """Predicted mean of (estimate / exp(x . y) - 1)^2; of every pair.

  Args:
    favor: the mechanism; of its rows only the number and the norms enter.
    pairs: as of `Sample.pairs`.
    size: d.
    features: r; None: those of the mechanism.
    mean_square: for softmax_oprf without its option: the mean of |x + y|^2.

  Returns:
    Float32 of the pairs' shape.

  Raises:
    ValueError: as `check_supported`.
  """
  check_supported(favor)
  kernel = favor.spec.made_for(mean_square)
  rows = (features or favor.features) / kernel.copies
  return kernel.relative_mse(pairs, rows=rows, size=size)


def measured_errors(
  favor: favor_lib.Favor, sample: Sample, projection: PyTree
) -> Float[Array, 'b h i j']:
  """(estimate / exp(x . y)) - 1 of every pair of a sample.

  Args:
    favor: the mechanism; softmax_oprf needs its `oprf_mean_square`.
    sample: the pairs, kept or not.
    projection: W.

  Returns:
    Float32. Meaningful where exp(x . y) is inside the range of float32.

  Raises:
    ValueError: as `check_supported`.
  """
  check_supported(favor)
  entries = _entries(favor, sample.q, sample.k, projection)
  return entries * jnp.exp(-sample.pairs.dot) - 1.0


def _entries(
  favor: favor_lib.Favor,
  q: Float[Array, 'b i h d'],
  k: Float[Array, 'b j h d'],
  projection: PyTree,
) -> Float[Array, 'b h i j']:
  """phi(x_i) . phi(y_j) of all pairs, by the features of a mechanism."""
  with warnings.catch_warnings():
    # About signed features: the caller has been warned once.
    warnings.simplefilter('ignore', UserWarning)
    plain = dataclasses.replace(favor, renormalize=False, stabilizer='online')
  return recovery.recover_attention(
    plain, q, k, projection=projection, causal=False
  )


class KernelEstimate(NamedTuple):
  """The kernel of every query with every key, estimated.

  Attributes:
    values: phi(x_i) . phi(y_j), float32; for softmax kernels an estimate of
      exp(q_i . k_j / sqrt(d)).
    relative_mse: the mean of (value / exp(x . y) - 1)^2 over independent draws
      of the projection, in closed form; orthogonal rows do a little better.
      None where no closed form is known.
  """

  values: Float[Array, 'i j']
  relative_mse: Float[Array, 'i j'] | None


def kernel_estimate(
  favor: favor_lib.Favor,
  q: Float[Array, 'i d'],
  k: Float[Array, 'j d'],
  *,
  projection: PyTree,
) -> KernelEstimate:
  """Estimates single entries of the attention matrix, before normalisation.

  Args:
    favor: mechanism whose features to use.
    q: queries of one head, one per row, unscaled.
    k: keys of that head.
    projection: W of one head, `favor.draw(..., num_heads=1, head_dim=d)`; None
      without one.

  Returns:
    The estimates, and their expected error. Time and memory are O(i j).

  Raises:
    ValueError: if shapes or dtypes disagree.

  Reference: arXiv:2009.14794, Lemma 1 (estimates), Lemma 2 (errors).
  """
  for name, array in (('q', q), ('k', k)):
    if jnp.ndim(array) != 2:
      raise ValueError(
        f'{name} must be [n, d], one vector per row, got {jnp.shape(array)}'
      )
  q, k = (x[None, :, None] for x in (q, k))
  values = _entries(favor, q, k, projection)[0, 0]
  if _obstacle(favor):
    return KernelEstimate(values, None)
  pairs = _scaled_pairs(q, k)
  mse = relative_mse(
    favor, pairs, size=q.shape[-1], mean_square=jnp.mean(pairs.plus)
  )
  return KernelEstimate(values, mse[0, 0])


def quantile(
  values: Float[Array, 'b h i j'],
  keep: Bool[Array, 'b 1 i j'],
  q: float | Float[Array, ' n'],
) -> Float[Array, '...']:
  """Quantiles over the kept pairs; NaN if there are none.

  Args:
    values: one per pair; infinities count as large.
    keep: which pairs count.
    q: what share lies below, in [0, 1].

  Returns:
    Of the shape of q.
  """
  finite = jnp.minimum(values, jnp.finfo(jnp.float32).max)
  return jnp.nanquantile(jnp.where(keep, finite, jnp.nan), q, method='lower')


def predicted_error(
  favor: favor_lib.Favor, sample: Sample, *, q: float = 0.5
) -> Float[Array, '']:
  """The relative error that a typical entry must be expected to have.

  Args:
    favor: the mechanism.
    sample: the pairs.
    q: the quantile over pairs; 0.5 is the typical one.

  Returns:
    Root of the relative mean squared error; 1 is 100 %.

  Raises:
    ValueError: as `check_supported`.
  """
  pairs = sample.pairs
  square = jnp.where(sample.keep, pairs.plus, 0.0).sum() / jnp.maximum(
    jnp.broadcast_to(sample.keep, pairs.plus.shape).sum(), 1
  )
  mse = relative_mse(favor, pairs, size=sample.q.shape[-1], mean_square=square)
  return jnp.sqrt(quantile(mse, sample.keep, q))
