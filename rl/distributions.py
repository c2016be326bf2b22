"""Distributions of actions; the leading axes are a batch."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rl.envs import spaces

__all__ = ['Categorical', 'DiagonalGaussian', 'Distribution', 'to_box']


class Categorical(NamedTuple):
  """Distribution over k choices.

  Attributes:
    logits: unnormalised log-probabilities.
  """

  logits: Float[Array, '*b k']

  def sample(self, key: Key[Array, '']) -> Int[Array, '*b']:
    """Draws one choice each, int32."""
    drawn = jax.random.categorical(key, self.logits)
    return drawn.astype(jnp.int32)

  def mode(self) -> Int[Array, '*b']:
    """The most probable choice, the first of equals, int32."""
    return jnp.argmax(self.logits, -1).astype(jnp.int32)

  def log_prob(self, action: Int[Array, '*b']) -> Float[Array, '*b']:
    """Log-probability, nats, of choices in 0..k-1."""
    # A sum instead of indexing: its gradient needs no scatter.
    chosen = jnp.arange(self.logits.shape[-1]) == action[..., None]
    return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(self.logits), 0), -1)

  def entropy(self) -> Float[Array, '*b']:
    """Nats."""
    log_p = jax.nn.log_softmax(self.logits)
    # A choice with probability 0 adds 0, not 0 * -inf.
    finite = jnp.maximum(log_p, jnp.finfo(log_p.dtype).min)
    return -jnp.sum(jnp.exp(log_p) * finite, -1)

  def kl(self, other: 'Categorical') -> Float[Array, '*b']:
    """KL(self, other), nats; infinite where other excludes a likely choice."""
    log_p = jax.nn.log_softmax(self.logits)
    gap = log_p - jax.nn.log_softmax(other.logits)
    p = jnp.exp(log_p)
    # A choice with probability 0 adds 0, not 0 * inf.
    return jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, gap, 0), 0), -1)


class DiagonalGaussian(NamedTuple):
  """Distribution of d independent normal numbers.

  Attributes:
    mean: mean of each number.
    log_std: logarithm of each standard deviation; broadcasts to `mean`.
  """

  mean: Float[Array, '*b d']
  log_std: Float[Array, '#*b d']

  def sample(self, key: Key[Array, '']) -> Float[Array, '*b d']:
    """Draws once each."""
    noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
    return self.mean + jnp.exp(self.log_std) * noise

  def mode(self) -> Float[Array, '*b d']:
    """The mean."""
    return self.mean

  def log_prob(self, action: Float[Array, '*b d']) -> Float[Array, '*b']:
    """Log-density, nats."""
    z = (action - self.mean) * jnp.exp(-self.log_std)
    each = -0.5 * (z**2 + math.log(2 * math.pi)) - self.log_std
    return jnp.sum(each, -1)

  def entropy(self) -> Float[Array, '*b']:
    """Differential, nats."""
    each = self.log_std + 0.5 * (1 + math.log(2 * math.pi))
    return jnp.sum(jnp.broadcast_to(each, self.mean.shape), -1)

  def kl(self, other: 'DiagonalGaussian') -> Float[Array, '*b']:
    """KL(self, other), nats."""
    wider = other.log_std - self.log_std
    z = (self.mean - other.mean) * jnp.exp(-other.log_std)
    return jnp.sum(wider + 0.5 * (jnp.exp(-2 * wider) + z**2 - 1), -1)


Distribution = Categorical | DiagonalGaussian


def to_box(
  box: spaces.Box, drawn: Float[Array, 'n d']
) -> Float[Array, 'n ...']:
  """Maps numbers to actions within the bounds.

  Args:
    box: if it is bounded, [-1, 1] spans it; otherwise numbers are actions.
    drawn: one row per action.

  Returns:
    Actions of the box's shape and dtype.
  """
  low, high = box.bounds
  action = drawn.reshape(-1, *box.shape)
  if box.bounded:
    action = low + (jnp.clip(action, -1, 1) + 1) / 2 * (high - low)
  return jnp.clip(action, low, high).astype(box.dtype)
