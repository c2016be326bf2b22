"""Running mean and deviation of observations, mergeable in any grouping.

Kept as count, mean and sum of squared deviations (M2): sums of squares would
cancel where the mean is large. One population uses fixed statistics; those of
what it visited are merged afterwards.

An observation with a number that is NaN, infinite or beyond +-`LARGEST` is not
counted: it comes from a simulation that broke, often in the very step that ends
an episode, and one such number would stay in the statistics for ever. `LARGEST`
is the fourth root of float32's range: 4.3e9, above any clock or counter, whose
squares can be summed over 10^19 observations without an overflow.

Reference: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm
for computing sample variances", 1979.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = [
  'LARGEST',
  'Statistics',
  'add',
  'empty',
  'merge',
  'merge_all',
  'normalize',
  'std',
  'weighted',
]

LARGEST = float(jnp.finfo(jnp.float32).max) ** 0.25


class Statistics(NamedTuple):
  """Statistics of observations of one shape; all may have axes in front.

  Attributes:
    count: number of observations.
    mean: their mean.
    m2: sum of (x - mean)^2.
  """

  count: Float[Array, '...']
  mean: Float[Array, '...']
  m2: Float[Array, '...']


def empty(shape: tuple[int, ...], batch: tuple[int, ...] = ()) -> Statistics:
  """Statistics of no observation, float32.

  Args:
    shape: of an observation.
    batch: axes in front.

  Returns:
    Zeros; the identity of `merge`.
  """
  zeros = jnp.zeros((*batch, *shape))
  return Statistics(jnp.zeros(batch), zeros, zeros)


def _beside(count: Array, like: Array) -> Array:
  """Gives a count the trailing axes of an observation."""
  return count.reshape(count.shape + (1,) * (like.ndim - count.ndim))


def _sound(observation: Array, axes: int) -> Bool[Array, '...']:
  """Whether all numbers of an observation may count, after some axes."""
  sound = _bounded(observation)
  return sound.all(tuple(range(axes, observation.ndim)))


def _bounded(x: Array) -> Bool[Array, '...']:
  """False for NaN too."""
  return jnp.abs(x) <= LARGEST


def weighted(
  observations: Float[Array, '...'], weight: Float[Array, '...']
) -> Statistics:
  """Statistics of observations of weight 1; equal ones deviate by exactly 0.

  Args:
    observations: any axes in front; where the weight is 0, anything.
    weight: the axes in front; 0 or 1.
  """
  axes = tuple(range(weight.ndim))
  weight = weight * _sound(observations, weight.ndim)
  x = jnp.where(_bounded(observations), observations, 0)
  count = weight.sum()
  # Around one that counts: the mean of equal numbers may differ from them, and
  # divided by such a deviation they would become -1 or 1.
  some = x.reshape(-1, *x.shape[weight.ndim :])[jnp.argmax(weight.reshape(-1))]
  weight = _beside(weight, x)
  mean = jnp.sum((x - some) * weight, axes) / jnp.maximum(count, 1)
  centre = jnp.where(count > 0, some + mean, 0)
  m2 = jnp.sum(weight * (x - centre) ** 2, axes)
  return Statistics(count, centre, m2)


def add(
  statistics: Statistics,
  observation: Float[Array, '...'],
  included: Bool[Array, '...'],
) -> Statistics:
  """Adds one observation to each of a batch of statistics.

  Args:
    statistics: any axes in front.
    observation: the same axes, then those of an observation.
    included: the axes in front; where False nothing changes.

  Returns:
    The new statistics (Welford's update).
  """
  included = included & _sound(observation, included.ndim)
  count = statistics.count + included
  # Observations that are left out may be anything, infinite too.
  difference = jnp.where(
    _beside(included, observation), observation - statistics.mean, 0
  )
  share = _beside(included / jnp.maximum(count, 1), difference)
  step = share * difference
  mean = statistics.mean + step
  rest = _beside(count - included, difference)
  return Statistics(count, mean, statistics.m2 + rest * step * difference)


def merge(a: Statistics, b: Statistics) -> Statistics:
  """Merges statistics: associative and commutative up to rounding.

  Args:
    a: statistics.
    b: statistics with the same axes.

  Returns:
    Those of the concatenation.
  """
  count = a.count + b.count
  difference = b.mean - a.mean
  share = _beside(b.count / jnp.maximum(count, 1), difference)
  mean = a.mean + share * difference
  between = _beside(a.count, difference) * share * difference**2
  return Statistics(count, mean, a.m2 + b.m2 + between)


def merge_all(statistics: Statistics) -> Statistics:
  """Merges along the leading axis, as a binary tree over neighbours.

  Args:
    statistics: with a leading axis of at least 1.

  Returns:
    Statistics without it.
  """
  while (size := statistics.count.shape[0]) > 1:
    if size % 2:
      statistics = jax.tree.map(
        lambda x: jnp.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1)), statistics
      )
    statistics = merge(
      jax.tree.map(lambda x: x[0::2], statistics),
      jax.tree.map(lambda x: x[1::2], statistics),
    )
  return jax.tree.map(lambda x: x[0], statistics)


def std(statistics: Statistics) -> Float[Array, '...']:
  """Population standard deviation; 1 where it is 0 or nothing was seen."""
  count = _beside(jnp.maximum(statistics.count, 1), statistics.m2)
  variance = statistics.m2 / count
  return jnp.where(variance > 0, jnp.sqrt(variance), 1)


def normalize(
  statistics: Statistics,
  observation: Float[Array, '...'],
  *,
  clip: float | None = None,
) -> Float[Array, '...']:
  """(x - mean) / std.

  Args:
    statistics: of one observation shape.
    observation: any axes in front.
    clip: bound on the absolute value of the result; None: no bound.

  Returns:
    An array of the shape of `observation`.
  """
  scaled = (observation - statistics.mean) / std(statistics)
  return scaled if clip is None else jnp.clip(scaled, -clip, clip)
