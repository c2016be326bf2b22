"""The terms of the loss per step, and what is watched beside it.

Reference: Schulman et al. (2017), arXiv:1707.06347.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rl.ppo import masked

__all__ = [
  'explained_variance',
  'kl',
  'outside',
  'policy_loss',
  'value_loss',
]


def policy_loss(
  log_ratio: Float[Array, '*s'], advantage: Float[Array, '*s'], clip: float
) -> Float[Array, '*s']:
  """-min(r A, clip(r, 1 - clip, 1 + clip) A), Eq. 7.

  Args:
    log_ratio: log r, new log-probability minus that at which was acted.
    advantage: A.
    clip: epsilon.
  """
  ratio = jnp.exp(log_ratio)
  clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
  return -jnp.minimum(ratio * advantage, clipped * advantage)


def value_loss(
  value: Float[Array, '*s'],
  old: Float[Array, '*s'],
  target: Float[Array, '*s'],
  clip: float | None,
) -> Float[Array, '*s']:
  """The larger of the squared errors of v and of v clipped around the old one.

  Args:
    value: v.
    old: what it was when acting.
    target: of the value.
    clip: largest change that is rewarded, in units of values; None: any.

  Returns:
    Squared errors, not halved.
  """
  error = (value - target) ** 2
  if clip is None:
    return error
  near = old + jnp.clip(value - old, -clip, clip)
  return jnp.maximum(error, (near - target) ** 2)


def kl(log_ratio: Float[Array, '*s']) -> Float[Array, '*s']:
  """Estimates KL(old, new) from an old action: r - 1 - log r, never negative.

  Args:
    log_ratio: as in `policy_loss`.
  """
  return jnp.expm1(log_ratio) - log_ratio


def outside(log_ratio: Float[Array, '*s'], clip: float) -> Float[Array, '*s']:
  """1 where |r - 1| > clip, else 0.

  Args:
    log_ratio: as in `policy_loss`.
    clip: epsilon.
  """
  return (jnp.abs(jnp.expm1(log_ratio)) > clip).astype(log_ratio.dtype)


def explained_variance(
  value: Float[Array, '*s'],
  target: Float[Array, '*s'],
  weight: Float[Array, '*s'],
) -> Float[Array, '']:
  """1 - Var(target - value) / Var(target); 0 where the targets are equal.

  Args:
    value: predictions.
    target: what they should have been.
    weight: as in `masked.mean`.
  """
  variance = lambda x: masked.mean((x - masked.mean(x, weight)) ** 2, weight)
  total = variance(target)
  share = variance(target - value) / jnp.where(total > 0, total, 1)
  return jnp.where(total > 0, 1 - share, 0)
