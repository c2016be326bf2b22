"""A Gaussian squashed by tanh.

Reference: Haarnoja et al. (2018), arXiv:1812.05905, appendix C.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rl.envs import spaces

__all__ = ['Draw', 'log_det', 'log_prob', 'sample', 'to_unit']


class Draw(NamedTuple):
  """Actions and how likely they were.

  Attributes:
    action: in (-1, 1), [b, a].
    log_prob: log of their density there, nats, [b].
  """

  action: Float[Array, 'b a']
  log_prob: Float[Array, ' b']


def log_det(before: Float[Array, '*b']) -> Float[Array, '*b']:
  """log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)).

  The left side is log 0 for |u| > 9 in float32; this one is right everywhere.
  """
  return 2 * (math.log(2) - before - jax.nn.softplus(-2 * before))


def log_prob(
  before: Float[Array, 'b a'],
  mean: Float[Array, 'b a'],
  log_std: Float[Array, 'b a'],
) -> Float[Array, ' b']:
  """Log density of tanh(u), u ~ N(mean, exp(log_std)^2), Eq. 26.

  Args:
    before: u.
    mean: of u.
    log_std: of u.

  Returns:
    Sums over dimensions, nats.
  """
  z = (before - mean) * jnp.exp(-log_std)
  normal = -0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)
  return jnp.sum(normal - log_det(before), axis=-1)


def sample(
  key: Key[Array, ''], mean: Float[Array, 'b a'], log_std: Float[Array, 'b a']
) -> Draw:
  """Draws actions through which gradients flow.

  Args:
    key: for this draw.
    mean: before squashing.
    log_std: before squashing.

  Returns:
    Actions in [-1, 1] and log densities.
  """
  noise = jax.random.normal(key, mean.shape, mean.dtype)
  before = mean + jnp.exp(log_std) * noise
  return Draw(jnp.tanh(before), log_prob(before, mean, log_std))


def to_unit(
  space: spaces.Box, action: Float[Array, 'b ...']
) -> Float[Array, 'b a']:
  """The inverse of `distributions.to_box`; a side of width zero gives 0."""
  low, high = space.bounds
  width = high - low
  safe = jnp.where(width > 0, width, 1)
  unit = jnp.where(width > 0, (action - low) / safe * 2 - 1, 0)
  return jnp.clip(unit, -1, 1).reshape(action.shape[0], -1)
