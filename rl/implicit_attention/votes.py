"""How much attention each patch gets from all others: its votes.

With attention A, whose rows are the queries' and sum to 1, patch j has the
votes r_j = sum_i A_ij; all votes sum to l. `Exact` computes A. `Implicit`
multiplies random features from right to left and never has A:

  s = sum_j phi_K(k_j),  D_i = phi_Q(q_i) . s,  u = sum_i phi_Q(q_i) / D_i,
  r_j = phi_K(k_j) . u.

That takes time O(l m), and memory O(m) beside the votes if positions are
streamed in chunks, whose features are then computed twice.

Letters: l patches, d width of queries and keys, m features.

Reference: arXiv:2102.04353 (IAP-rank); arXiv:2003.08165, Equation 1 (exact).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from performer import attention as attention_lib
from performer.attention.kernels import projections
from performer.attention.sums import form as form_lib
from performer.attention.sums import state as state_lib
from rl import ranges

__all__ = ['Exact', 'Implicit', 'Votes', 'top']

# Denominators of signed features that are nearer to 0, beside the sum of the
# sizes of their terms, are moved to this distance; their sign stays.
_LEAST = 1e-6
_LOWEST = -1e30


class Votes(NamedTuple):
  """The votes of patches.

  Attributes:
    values: the votes, up to the factor exp(`log_factor`).
    log_factor: 0 for normalised votes.
    moved: number of queries whose denominator was too near to 0 and was moved.
      With positive features it is 0.
  """

  values: Float[Array, ' l']
  log_factor: Float[Array, '']
  moved: Float[Array, '']


@dataclasses.dataclass(frozen=True)
class Exact:
  """Votes of softmax attention, rows exp(q . k / sqrt(d)); time O(l^2).

  Scores and sums are float32 at least, whatever the inputs are.

  Attributes:
    chunk: queries at once, so that memory is O(chunk l); None: all.
  """

  chunk: int | None = None

  def __post_init__(self) -> None:
    ranges.check_counts(chunk=self.chunk)

  @property
  def attention(self) -> attention_lib.Exact:
    """The attention whose votes these are."""
    return attention_lib.Exact()

  def __call__(
    self,
    q: Float[Array, 'l d'],
    k: Float[Array, 'l d'],
    *,
    projection: PyTree = None,
  ) -> Votes:
    """The votes.

    Args:
      q: queries, unscaled.
      k: keys, unscaled.
      projection: None.

    Raises:
      ValueError: if there is a projection.
    """
    projections.check(projection, expected=None)
    q, k = state_lib.widen(q), state_lib.widen(k)
    # Else XLA reads positions through strides where `fronts` has them last, and
    # takes six times as long.
    q, k = jax.lax.optimization_barrier((q, k))
    scaled = q * q.shape[-1] ** -0.5

    def add(total: Array, rows: Array, real: Array) -> tuple[Array, None]:
      return total + real @ jax.nn.softmax(rows @ k.T, axis=-1), None

    start = jnp.zeros(k.shape[0])
    total, _ = _over_chunks(add, start, scaled, self.chunk)
    return Votes(total, jnp.zeros(()), jnp.zeros(()))


@dataclasses.dataclass(frozen=True)
class Implicit:
  """Votes of attention by features, without its matrix; time O(l m).

  Exponents are shifted before they are exponentiated, as `performer.attention`
  does, so norms of any size neither overflow nor lose the ranks.

  Attributes:
    attention: the kernel and its features, which are float32 here.
    normalized: whether rows of attention sum to 1. Otherwise the votes are
      sums of kernel values, and all queries do not count alike.
    chunk: positions at once; None: all.

  Raises:
    ValueError: softmax_oprf has no `oprf_mean_square`, which would have to be
      taken from all positions first; or an option of the attention has another
      meaning than votes: the reference stabiliser, or no normalisation.
  """

  attention: attention_lib.Favor = dataclasses.field(
    default_factory=lambda: attention_lib.Favor(features=32)
  )
  normalized: bool = True
  chunk: int | None = None

  def __post_init__(self) -> None:
    ranges.check_counts(chunk=self.chunk)
    favor = self.attention
    if favor.kernel == 'softmax_oprf' and favor.oprf_mean_square is None:
      raise ValueError(
        'votes of softmax_oprf need a number as oprf_mean_square, got '
        f'{favor.oprf_mean_square=}'
      )
    if favor.stabilizer == 'reference' or not favor.renormalize:
      raise ValueError(
        "votes have no stabilizer='reference', and `normalized` says whether "
        'they are normalised, not renormalize, got '
        f'{favor.stabilizer=} {favor.renormalize=}'
      )

  def __call__(
    self,
    q: Float[Array, 'l d'],
    k: Float[Array, 'l d'],
    *,
    projection: PyTree,
  ) -> Votes:
    """The votes.

    Args:
      q: queries, unscaled.
      k: keys, unscaled.
      projection: of `attention.draw` for one head; None without one.

    Raises:
      ValueError: if the projection is missing or does not fit.
    """
    self.attention.check_projection(projection, q[None, :, None])
    form = self.attention.form(projection, head_dim=q.shape[-1])
    # A factor of a query cancels in its row.
    weighted = not self.normalized
    queries = _terms(form, form.featurize_queries, weighted=weighted)
    keys = _terms(form, form.featurize_keys)
    over_chunks = functools.partial(_over_chunks, chunk=self.chunk)
    empty = _Sums.empty(form)
    sums, _ = over_chunks(functools.partial(_add, keys), empty, k)
    log_factor = moved = jnp.zeros(())
    if self.normalized:
      inverse = _positive_inverse if form.log else _signed_inverse
      add = functools.partial(_add_normalized, queries, inverse, sums)
      start = (jnp.zeros(form.features), moved)
      (weights, moved), _ = over_chunks(add, start, q)
    else:
      found, _ = over_chunks(functools.partial(_add, queries), empty, q)
      both = found.top + sums.top
      log_factor = both.max()
      weights = found.values * jnp.exp(both - log_factor)
      log_factor += math.log(self.attention.spec.scale(form.features))

    def read(carry: tuple[()], rows: Array, real: Array) -> tuple[tuple, Array]:
      del real
      values, exponents = keys(rows)
      return carry, weights @ (values * jnp.exp(exponents - sums.top[:, None]))

    _, values = over_chunks(read, (), k)
    return Votes(values.reshape(-1)[: k.shape[0]], log_factor, moved)


def top(votes: Float[Array, ' l'], count: int) -> Array:
  """Numbers of the patches with most votes, int32 [count], descending.

  Of equal votes the lower number comes first. NaN counts as the fewest votes.

  Args:
    votes: of all patches.
    count: K, at most l.
  """
  # By itself, top_k puts NaN before all numbers and 0.0 before -0.0.
  votes = jnp.where(votes == 0, 0, votes)
  votes = jnp.where(jnp.isnan(votes), -jnp.inf, votes)
  return jax.lax.top_k(votes, count)[1]


def _over_chunks(
  step: Callable[[Any, Array, Array], tuple[Any, Any]],
  start: Any,
  x: Float[Array, 'l d'],
  chunk: int | None,
) -> tuple[Any, Any]:
  """Scans runs of rows; the last is filled up, which `real` = 0 tells."""
  length = x.shape[0]
  if chunk is None or chunk >= length:
    return step(start, x, jnp.ones(length))
  count = -(-length // chunk)
  real = (jnp.arange(count * chunk) < length).astype(jnp.float32)
  rows = jnp.pad(x, ((0, count * chunk - length), (0, 0)))
  runs = rows.reshape(count, chunk, -1), real.reshape(count, chunk)
  return jax.lax.scan(lambda carry, run: step(carry, *run), start, runs)


class _Terms(NamedTuple):
  """Features of positions: values times exp(exponents).

  Of logarithmic features all values are 1; of the others there is one exponent
  for each position. Positions come last: there are many more of them than
  features, and loops over the last axis are the fast ones.
  """

  values: Float[Array, 'm l'] | float
  exponents: Float[Array, '#m l']


class _Sums(NamedTuple):
  """Sums of features over positions, divided by exp(top)."""

  values: Float[Array, ' m']
  top: Float[Array, ' #m']

  @classmethod
  def empty(cls, form: form_lib.Form) -> '_Sums':
    """Of no positions."""
    tops = form.features if form.log else 1
    return cls(jnp.zeros(form.features), jnp.full(tops, _LOWEST))


def _terms(
  form: form_lib.Form, featurize: form_lib.Featurize, *, weighted: bool = True
) -> Callable[[Array], _Terms]:
  def terms(x: Float[Array, 'l d']) -> _Terms:
    values, weight = featurize(x[None, None])
    values = values[0, 0].T
    known = weighted and weight is not None
    exponents = weight[0] if known else jnp.zeros((1, 1))
    if form.log:
      return _Terms(1.0, values + exponents)
    return _Terms(values, exponents)

  return terms


def _add(
  terms: Callable[[Array], _Terms], sums: _Sums, x: Array, real: Array
) -> tuple[_Sums, None]:
  """Adds the features of some positions."""
  values, exponents = terms(x)
  exponents = jnp.where(real > 0, exponents, _LOWEST)
  top = jnp.maximum(sums.top, _largest(exponents, axis=1))
  added = (values * jnp.exp(exponents - top[:, None])) @ real
  return _Sums(sums.values * jnp.exp(sums.top - top) + added, top), None


def _add_normalized(
  terms: Callable[[Array], _Terms],
  inverse: Callable[[Array, Array], tuple[Array, Array]],
  sums: _Sums,
  carry: tuple[Array, Array],
  x: Array,
  real: Array,
) -> tuple[tuple[Array, Array], None]:
  """Adds the features of some queries over their denominators."""
  total, moved = carry
  values, exponents = terms(x)
  exponents = exponents + sums.top[:, None]
  features = values * jnp.exp(exponents - _largest(exponents, axis=0))
  inverses, near = inverse(sums.values, features)
  total = total + features @ (real * inverses)
  return (total, moved + (near * real).sum()), None


def _signed_inverse(
  sums: Float[Array, ' m'], features: Float[Array, 'm l']
) -> tuple[Float[Array, ' l'], Bool[Array, ' l']]:
  """1 / D, and which denominators D were moved away from 0.

  Where nothing has any weight, a query has no votes to give: 0.
  """
  denominators = sums @ features
  least = _LEAST * (jnp.abs(sums) @ jnp.abs(features))
  near = jnp.abs(denominators) < least
  safe = jnp.where(denominators < 0, -least, least)
  denominators = jnp.where(near, safe, denominators)
  return jnp.where(least > 0, 1 / denominators, 0.0), near


def _positive_inverse(
  sums: Float[Array, ' m'], features: Float[Array, 'm l']
) -> tuple[Float[Array, ' l'], Bool[Array, ' l']]:
  """The same of positive features, whose D is 0 only where it has no weight."""
  denominators = sums @ features
  given = jnp.where(denominators > 0, 1 / denominators, 0.0)
  return given, jnp.zeros_like(denominators, bool)


def _largest(x: Float[Array, '_ _'], axis: int) -> Array:
  """The maximum, a constant to gradients: it is a shift, which cancels.

  XLA's CPU compiler gives a plain maximum to several threads, and waking them takes
  longer than the maximum. It does not know this form of one.
  """
  larger = lambda a, b: jnp.where(a > b, a, b)
  lowest = jnp.array(-jnp.inf, x.dtype)
  return jax.lax.reduce(jax.lax.stop_gradient(x), lowest, larger, (axis,))
