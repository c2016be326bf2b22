"""Means and deviations over the steps that count."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rl import normalizer

__all__ = ['mean', 'standardize', 'statistics']

# Of a standard deviation, in the units of what is standardised.
_EPS = 1e-8


def mean(x: Float[Array, '*s'], weight: Float[Array, '*s']) -> Float[Array, '']:
  """Weighted mean; 0 where all weights are 0.

  Args:
    x: values; finite ones.
    weight: 1 for those that count, 0 for the others.
  """
  return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1)


def standardize(
  x: Float[Array, '*s'], weight: Float[Array, '*s']
) -> Float[Array, '*s']:
  """(x - mean) / (deviation + 1e-8), both of what counts.

  Args:
    x: values.
    weight: as in `mean`.
  """
  centred = x - mean(x, weight)
  return centred / (jnp.sqrt(mean(centred**2, weight)) + _EPS)


def statistics(
  x: Float[Array, 'T n ...'], weight: Float[Array, 'T n']
) -> normalizer.Statistics:
  """Count, mean and squared deviations of what counts.

  Args:
    x: T steps of n lanes.
    weight: as in `mean`.
  """
  weight = weight.reshape(*weight.shape, *[1] * (x.ndim - 2))
  count = weight.sum()
  # Around one that counts: what is constant has a deviation of 0 then.
  flat = x.reshape(-1, *x.shape[2:])
  some = flat[jnp.argmax(weight.reshape(-1))]
  mean = jnp.sum((x - some) * weight, (0, 1)) / jnp.maximum(count, 1)
  centre = jnp.where(count > 0, some + mean, 0)
  m2 = jnp.sum(weight * (x - centre) ** 2, (0, 1))
  return normalizer.Statistics(count, centre, m2)
