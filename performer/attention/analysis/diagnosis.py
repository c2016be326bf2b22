"""Will random features approximate these queries and keys?

The relative error of an entry of the attention matrix grows like
exp(|x + y|^2) / m, so the answer depends on norms that only the user's data
know. `diagnose` measures them, predicts and measures the errors of several
kernels at the same feature dimension, and says how many features a target
would take.

Letters: b batch, l positions, h heads, d width of a key, v of a value, r
features.

Reference: arXiv:2009.14794, Lemma 2.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from performer.attention import calls
from performer.attention import favor as favor_lib
from performer.attention.analysis import denominators, findings, pair_errors
from performer.attention.sums import state as state_lib

__all__ = ['default_favors', 'diagnose']

_DEFAULT = (
  'softmax_hyp',
  'softmax_pos',
  'softmax_hyp_reg',
  'softmax_pos_reg',
  'softmax_oprf',
  'softmax_trig',
)
_LEVELS = (0.5, 0.95)


def default_favors(
  features: int = 256, *, mean_square: float
) -> tuple[favor_lib.Favor, ...]:
  """The kernels worth comparing, at one feature dimension.

  Args:
    features: r.
    mean_square: mean of |x + y|^2, which softmax_oprf is made for.

  Returns:
    One mechanism per kernel.
  """
  with warnings.catch_warnings():
    # About signed features; the table shows the same problem.
    warnings.simplefilter('ignore', UserWarning)
    return tuple(
      favor_lib.Favor(
        kernel=kernel,
        features=features,
        oprf_mean_square=mean_square if kernel == 'softmax_oprf' else None,
      )
      for kernel in _DEFAULT
    )


def diagnose(
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  *,
  key: Key[Array, ''] | None = None,
  favors: Sequence[favor_lib.Favor] | None = None,
  projection: PyTree = None,
  causal: bool = False,
  key_mask: Bool[Array, 'b lk'] | None = None,
  features: int | None = None,
  target: float = 0.1,
  most_features: int = 4096,
  draws: int = 4,
  sample: int = 64,
) -> findings.Diagnosis:
  """Predicts and measures how well random features approximate attention.

  A tool for a prompt, not for a step of training: it compiles each mechanism
  and computes on a sample of positions, the same ones every time.

  Args:
    q: queries of one layer, unscaled.
    k: keys.
    v: values.
    key: from which matrices are drawn; None if `projection` is given.
    favors: mechanisms to compare; None: `default_favors`.
    projection: W of the only mechanism in `favors`, to judge that one draw.
    causal: whether row i sees keys 0..i only.
    key_mask: True = keep. With as many queries as keys, masked positions are
      not asked either.
    features: r of the default mechanisms; None: 256.
    target: relative error wanted of a typical entry.
    most_features: r that is still practical; linear attention with r features
      is slower than exact attention below about 2 r tokens.
    draws: matrices to measure with.
    sample: queries and keys per sequence.

  Returns:
    The findings; print them.

  Raises:
    ValueError: if shapes disagree, a number is out of range, arguments
      contradict each other, or a kernel does not estimate exp(x . y).
  """
  calls.check_inputs(q, k, v, causal=causal, key_mask=key_mask)
  _check_numbers(target, most_features, draws)
  _check_sources(key, favors, projection, features)
  query_mask = key_mask if q.shape[1] == k.shape[1] else None
  pairs = pair_errors.take_sample(
    q,
    k,
    causal=causal,
    key_mask=key_mask,
    query_mask=query_mask,
    size=sample,
  )
  square = np.asarray(pairs.pairs.plus)
  kept = square[np.broadcast_to(pairs.keep, square.shape)]
  if not kept.size:
    raise ValueError('the sample has no pair that attention looks at')
  mean = float(kept.mean(dtype=np.float64))
  if favors is None:
    favors = default_favors(features or 256, mean_square=mean)
  data = _Data(q, k, v, causal, key_mask, pairs, mean)
  truth = _exact_rows(data)
  errors = []
  for favor in favors:
    favor = _with_constant(favor, mean)
    matrices = _matrices(favor, key, projection, draws, q.shape)
    errors.append(_judge(favor, data, truth, matrices, target))
  return findings.Diagnosis(
    pairs=int(kept.size),
    mean=mean,
    percentiles={
      p: float(np.percentile(kept, p)) for p in (5, 50, 95, 99, 100)
    },
    errors=tuple(errors),
    target=target,
    most_features=most_features,
  )


def _check_numbers(target: float, most_features: int, draws: int) -> None:
  if not target > 0 or most_features < 1 or draws < 1:
    raise ValueError(
      'target, most_features and draws must be positive, got '
      f'{target=} {most_features=} {draws=}'
    )


def _check_sources(
  key: Array | None,
  favors: Sequence[favor_lib.Favor] | None,
  projection: PyTree,
  features: int | None,
) -> None:
  if (key is None) == (projection is None):
    raise ValueError(
      'give either a key to draw matrices with, or a projection, got '
      f'key={"None" if key is None else "given"} '
      f'projection={"None" if projection is None else "given"}'
    )
  if projection is not None and (favors is None or len(favors) != 1):
    raise ValueError(
      'a projection belongs to one mechanism: give favors=[favor], got '
      f'{favors=}'
    )
  if features is not None and favors is not None:
    raise ValueError(
      f'features are those of the favors given, got {features=} {favors=}'
    )
  for favor in favors or ():
    pair_errors.check_supported(favor)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['q', 'k', 'v', 'key_mask', 'sample', 'mean_square'],
  meta_fields=['causal'],
)
@dataclasses.dataclass(frozen=True)
class _Data:
  """Arguments of compiled functions: as constants they would be folded."""

  q: Array
  k: Array
  v: Array
  causal: bool
  key_mask: Array | None
  sample: pair_errors.Sample
  mean_square: float | Array


def _with_constant(favor: favor_lib.Favor, mean: float) -> favor_lib.Favor:
  """Gives softmax_oprf the constant that causal calls and samples need."""
  if favor.kernel != 'softmax_oprf' or favor.oprf_mean_square is not None:
    return favor
  return dataclasses.replace(favor, oprf_mean_square=mean)


def _matrices(
  favor: favor_lib.Favor,
  key: Array | None,
  projection: PyTree,
  draws: int,
  shape: tuple[int, ...],
) -> PyTree:
  """Projections, stacked in front."""
  if key is None:
    return jax.tree.map(lambda w: w[None], projection)
  draw = functools.partial(
    favor.draw, key, step=0, num_heads=shape[2], head_dim=shape[3]
  )
  return jax.jit(jax.vmap(lambda layer: draw(layer=layer)))(jnp.arange(draws))


def _judge(
  favor: favor_lib.Favor,
  data: _Data,
  exact_rows: tuple[Array, Array],
  matrices: PyTree,
  target: float,
) -> findings.KernelErrors:
  square, off, bad = _measure(favor, data, exact_rows, matrices)
  predicted, needed = _predict(favor, data, target)
  truth, seen = exact_rows
  levels = jnp.asarray(_LEVELS)
  measured = pair_errors.quantile(square, data.sample.keep, levels)
  scale = jnp.sum(jnp.square(jnp.where(seen, truth, 0.0)))
  return findings.KernelErrors(
    favor=favor,
    predicted=tuple(map(float, predicted)),
    measured=tuple(map(float, jnp.sqrt(measured))),
    output=float(jnp.sqrt(off / scale)),
    bad_rows=float(bad),
    features_needed=_round_features(float(needed), favor.spec.copies),
  )


@functools.partial(jax.jit, static_argnums=0)
def _measure(
  favor: favor_lib.Favor,
  data: _Data,
  exact_rows: tuple[Array, Array],
  matrices: PyTree,
) -> tuple[Float[Array, 'b h i j'], Float[Array, ''], Float[Array, '']]:
  """Means over draws: squared errors of entries, of rows; bad rows."""
  sample = data.sample
  truth, seen = exact_rows
  options = {'causal': data.causal, 'key_mask': data.key_mask}

  def one(w: PyTree) -> tuple[Array, Array, Array]:
    entries = pair_errors.measured_errors(favor, sample, w)
    out = favor(data.q, data.k, data.v, projection=w, **options)
    off = jnp.where(seen, out[:, sample.rows] - truth, 0.0)
    bad = jnp.float32(0)
    if favor.spec.signed and favor.stabilizer == 'online':
      bad = denominators.bad_denominator_fraction(
        favor, data.q, data.k, projection=w, **options
      )
    return jnp.square(entries), jnp.sum(jnp.square(off)), bad

  return jax.tree.map(lambda x: x.mean(0), jax.lax.map(one, matrices))


@functools.partial(jax.jit, static_argnums=0)
def _predict(
  favor: favor_lib.Favor, data: _Data, target: float | Float[Array, '']
) -> tuple[Float[Array, ' levels'], Float[Array, '']]:
  """Predicted errors, and the r that solves bias^2 + A / r = target^2."""
  sample = data.sample
  # With one feature, and with so many that only the bias is left.
  one, bias = (
    pair_errors.relative_mse(
      favor,
      sample.pairs,
      size=data.q.shape[-1],
      features=features,
      mean_square=data.mean_square,
    )
    for features in (1.0, 1e20)
  )
  room = jnp.square(target) - bias
  needed = jnp.where(room > 0, (one - bias) / jnp.maximum(room, 1e-30), jnp.inf)
  mse = bias + (one - bias) / favor.features
  levels = jnp.asarray(_LEVELS)
  return (
    jnp.sqrt(pair_errors.quantile(mse, sample.keep, levels)),
    pair_errors.quantile(needed, sample.keep, 0.5),
  )


def _round_features(needed: float, copies: int) -> float:
  if needed >= float(np.finfo(np.float32).max):
    return math.inf
  return float(max(copies, copies * math.ceil(needed / copies)))


@jax.jit
def _exact_rows(
  data: _Data,
) -> tuple[Float[Array, 'b i h v'], Bool[Array, 'b i 1 1']]:
  """Exact outputs of the sampled queries, and which of them see a key."""
  rows = data.sample.rows
  visible = jnp.ones((data.k.shape[0], rows.size, data.k.shape[1]), bool)
  if data.causal:
    visible &= jnp.arange(data.k.shape[1]) <= rows[:, None]
  if data.key_mask is not None:
    visible &= data.key_mask[:, None]

  k, v = data.k, data.v
  if data.key_mask is not None:
    # Values in masked places must not reach a product.
    keep = data.key_mask[:, :, None, None]
    k, v = jnp.where(keep, k, 0), jnp.where(keep, v, 0)
  logits = state_lib.dot('bihd,bjhd->bhij', data.q[:, rows], k)
  logits = jnp.where(visible[:, None], logits * k.shape[3] ** -0.5, -1e30)
  weights = jax.nn.softmax(logits, axis=-1)
  out = state_lib.dot('bhij,bjhv->bihv', weights, v)
  seen = visible.any(axis=2)
  if data.key_mask is not None and data.q.shape[1] == data.k.shape[1]:
    seen &= data.key_mask[:, rows]
  return out.astype(jnp.float32), seen[:, :, None, None]
