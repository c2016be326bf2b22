"""Weights of directions: the gradient estimate is sum_i weights_i g_i.

Letters: n directions g_i, F_i^+ and F_i^- the returns at theta +- sigma g_i,
F_0 that at theta. For maximisation. Returns may be shaped before.

  Antithetic   (F_i^+ - F_i^-) / (2 sigma n)
  Forward      (F_i^+ - F_0) / (sigma n)
  TopPairs     (F_i^+ - F_i^-) / (n_top std), i among the n_top best pairs, std
               that of their 2 n_top returns (augmented random search)

Antithetic and Forward estimate the gradient of the smoothed function (see
`directions`) without bias. TopPairs does not: it selects, and divides by a
standard deviation. With all pairs kept it is 2 sigma times Antithetic on
z-scored returns, so equal steps need learning rates in the ratio that
`top_pairs_learning_rate` gives.

A pair counts if both its members are valid; n counts those. As long as losing
a pair does not depend on its returns, the estimate stays unbiased, which it
does not if a lost return is taken for 0. Returns that are not finite are lost
too, and do depend on themselves: what is estimated then is the gradient where
both members of a pair have a return.

Reference: arXiv:1703.03864 (antithetic); arXiv:1803.07055 (top pairs).
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rl.es import shaping

__all__ = [
  'Antithetic',
  'Estimator',
  'Forward',
  'TopPairs',
  'top_pairs_learning_rate',
]

Shaping = Callable[[Array, Array], Array]


@runtime_checkable
class Estimator(Protocol):
  """Turns the returns of a population into weights of its directions.

  Attributes:
    mirrored: whether theta - sigma g_i are evaluated too.
    needs_center: whether `weights` needs the return at theta.
  """

  mirrored: bool

  @property
  def needs_center(self) -> bool:
    """See above."""
    ...

  def weights(
    self,
    returns: Float[Array, ' p'],
    valid: Bool[Array, ' p'],
    *,
    sigma: Float[Array, ''] | float,
    center: Float[Array, ''] | None = None,
  ) -> Float[Array, ' n']:
    """Weights of the directions.

    Args:
      returns: the n of theta + sigma g_i; if `mirrored`, then the n of
        theta - sigma g_i.
      valid: which of them came back.
      sigma: scale of the perturbations.
      center: F_0 at theta, if it was evaluated.

    Returns:
      n numbers; 0 for lost directions; all 0 if all are lost.

    Raises:
      ValueError: if the estimator needs `center` and does not get it.
    """


def _shaped(
  shape: Shaping, returns: Array, valid: Array, center: Array | None
) -> tuple[Array, Array | None]:
  """Shapes the returns, and the one at theta as one more of them."""
  if center is None:
    return shape(returns, valid), None
  values = shape(
    jnp.append(returns, center), jnp.append(valid, jnp.array(True))
  )
  return values[:-1], values[-1]


def _pairs(returns: Array, valid: Array) -> tuple[Array, Array, Array]:
  """Plus and minus values, 0 where either is lost, and which pairs count."""
  plus, minus = jnp.split(returns, 2)
  both = jnp.logical_and(*jnp.split(valid, 2))
  return jnp.where(both, plus, 0), jnp.where(both, minus, 0), both


@dataclasses.dataclass(frozen=True)
class Antithetic:
  """Central differences along each direction.

  Constant and even functions give exactly 0, pair by pair.

  Attributes:
    shaping: of `rl.es.shaping`, or any function like them.
    count_center: whether F_0 takes part in the shaping (it must be evaluated
      then), as in google-research's es_optimization.
  """

  shaping: Shaping = shaping.z_score
  count_center: bool = False
  mirrored = True

  @property
  def needs_center(self) -> bool:
    """Only to count it."""
    return self.count_center

  def weights(
    self,
    returns: Float[Array, ' p'],
    valid: Bool[Array, ' p'],
    *,
    sigma: Float[Array, ''] | float,
    center: Float[Array, ''] | None = None,
  ) -> Float[Array, ' n']:
    """See `Estimator.weights`."""
    if self.count_center and center is None:
      raise ValueError(
        'count_center needs the return at theta, got center=None'
      )
    used = center if self.count_center else None
    # Half a pair says nothing: it must not move mean, deviation or ranks.
    whole = jnp.tile(_pairs(returns, valid)[2], 2)
    values, _ = _shaped(self.shaping, returns, whole, used)
    plus, minus, both = _pairs(values, whole)
    return (plus - minus) / (2 * sigma * jnp.maximum(jnp.sum(both), 1))


@dataclasses.dataclass(frozen=True)
class Forward:
  """Differences to the return at theta: half the rollouts, more variance.

  Attributes:
    shaping: as in `Antithetic`; F_0 is shaped with the others.
  """

  shaping: Shaping = shaping.z_score
  mirrored = False
  needs_center = True

  def weights(
    self,
    returns: Float[Array, ' p'],
    valid: Bool[Array, ' p'],
    *,
    sigma: Float[Array, ''] | float,
    center: Float[Array, ''] | None = None,
  ) -> Float[Array, ' n']:
    """See `Estimator.weights`."""
    if center is None:
      raise ValueError('Forward needs the return at theta, got center=None')
    values, value = _shaped(self.shaping, returns, valid, center)
    differences = jnp.where(valid, values - value, 0)
    return differences / (sigma * jnp.maximum(jnp.sum(valid), 1))


@dataclasses.dataclass(frozen=True)
class TopPairs:
  """Augmented random search: the best pairs, over the deviation of returns.

  Attributes:
    fraction: of the pairs that are kept, in (0, 1], rounded up; lost pairs are
      not kept, whatever is left of the others.
    by: 'max', pairs rank by max(F^+, F^-); 'difference', by |F^+ - F^-|.
    shaping: before the ranking; the division by the deviation comes on top.
  """

  fraction: float = 1.0
  by: str = 'max'
  shaping: Shaping = shaping.unshaped
  mirrored = True
  needs_center = False

  def __post_init__(self) -> None:
    if not 0 < self.fraction <= 1:
      raise ValueError(f'fraction must lie in (0, 1], got {self.fraction}')
    if self.by not in ('max', 'difference'):
      raise ValueError(f"by must be 'max' or 'difference', got {self.by!r}")

  def weights(
    self,
    returns: Float[Array, ' p'],
    valid: Bool[Array, ' p'],
    *,
    sigma: Float[Array, ''] | float,
    center: Float[Array, ''] | None = None,
  ) -> Float[Array, ' n']:
    """See `Estimator.weights`; sigma does not enter."""
    del sigma, center
    whole = jnp.tile(_pairs(returns, valid)[2], 2)
    values = self.shaping(returns, whole)
    plus, minus, both = _pairs(values, whole)
    scores = (
      jnp.maximum(plus, minus) if self.by == 'max' else jnp.abs(plus - minus)
    )
    top = self._top(jnp.where(both, scores, -jnp.inf)) & both
    kept = jnp.tile(top, 2)
    _, std = shaping.centered(jnp.concatenate([plus, minus]), kept)
    count = jnp.maximum(jnp.sum(top), 1)
    scale = 1 / (count * jnp.where(std > 0, std, 1))
    return jnp.where(top, plus - minus, 0) * scale

  def _top(self, scores: Array) -> Array:
    """Marks the best; ties go to the lower index."""
    pairs = scores.shape[0]
    # The tolerance keeps 0.1 * 30 from being rounded up to 4.
    number = min(pairs, -int(-(self.fraction * pairs - 1e-9) // 1))
    best = jnp.argsort(-scores, stable=True)[:number]
    return jnp.zeros(pairs, bool).at[best].set(True)


def top_pairs_learning_rate(antithetic: float, sigma: float) -> float:
  """Learning rate of TopPairs for the steps of z-scored Antithetic.

  Args:
    antithetic: learning rate with `Antithetic(shaping.z_score)`.
    sigma: scale of the perturbations.

  Returns:
    The rate with `TopPairs(fraction=1)` that gives equal (plain SGD) steps.
  """
  return antithetic / (2 * sigma)
