"""Transformations of returns before they weigh directions.

Each maps ([p] returns, [p] valid) to [p]; members that are not valid neither
count nor get a value other than 0. All returns equal give exactly 0. A return
that is NaN gives NaN: it is not hidden.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ['centered', 'centered_ranks', 'unshaped', 'z_score']


def unshaped(
  returns: Float[Array, ' p'], valid: Bool[Array, ' p']
) -> Float[Array, ' p']:
  """The returns themselves."""
  return jnp.where(valid, returns, 0)


def centered(
  values: Float[Array, ' p'], valid: Bool[Array, ' p']
) -> tuple[Float[Array, ' p'], Float[Array, '']]:
  """Values less their mean, and their population standard deviation.

  Equal values give exactly 0 and 0, whatever the rounding of their mean.

  Args:
    values: any.
    valid: which of them count.

  Returns:
    The differences, 0 where not valid, and the deviation.
  """
  shifted = jnp.where(valid, values - values[jnp.argmax(valid)], 0)
  count = jnp.maximum(jnp.sum(valid), 1)
  differences = jnp.where(valid, shifted - jnp.sum(shifted) / count, 0)
  return differences, jnp.sqrt(jnp.sum(differences**2) / count)


def z_score(
  returns: Float[Array, ' p'], valid: Bool[Array, ' p'], *, eps: float = 1e-8
) -> Float[Array, ' p']:
  """(F - mean) / (std + eps): an affine map of the returns changes nothing.

  Args:
    returns: F.
    valid: which of them count.
    eps: in the unit of the returns; it only keeps 0 / 0 from being NaN.

  Returns:
    Values of mean 0 and population standard deviation 1, over the valid ones.
  """
  differences, deviation = centered(returns, valid)
  return differences / (deviation + eps)


def centered_ranks(
  returns: Float[Array, ' p'], valid: Bool[Array, ' p']
) -> Float[Array, ' p']:
  """Ranks scaled to [-1/2, 1/2]; ties share the mean of their ranks.

  Any strictly increasing map of the returns changes nothing.

  Args:
    returns: F.
    valid: which of them count.

  Returns:
    rank / (count - 1) - 1/2, ranks from 0.
  """
  count = jnp.sum(valid)
  ordered = jnp.sort(jnp.where(valid, returns, jnp.inf))
  below = jnp.searchsorted(ordered, returns, side='left')
  # Lost members lie at infinity, where a return may be too.
  up_to = jnp.minimum(jnp.searchsorted(ordered, returns, side='right'), count)
  rank = (below + up_to - 1) / 2
  ranks = rank / jnp.maximum(count - 1, 1) - 0.5
  ranks = jnp.where(count > 1, ranks, 0)
  # Sorting puts NaN last, as if it were the best.
  ranks = jnp.where(jnp.isnan(returns), jnp.nan, ranks)
  return jnp.where(valid, ranks, 0)
