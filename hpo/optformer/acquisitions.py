"""Scores of candidates from the distribution of their objective over bins.

The bins are those of the model: a larger bin is better, and y* is the bin of
the best value so far. Scores depend on logits up to a constant.

Reference: arXiv:2205.13320, Equation 6 and Appendix B.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

__all__ = [
  'EI',
  'PI',
  'UCB',
  'Acquisition',
  'Mean',
  'Prior',
  'Thompson',
]

Logits = Float[Array, '*n q']
Scores = Float[Array, '*n']


@runtime_checkable
class Acquisition(Protocol):
  """A score of candidates, the larger the better."""

  def __call__(
    self,
    logits: Logits,
    best: Int[Array, ''],
    key: Key[Array, ''],
  ) -> Scores:
    """Scores of candidates.

    Args:
      logits: of the objective.
      best: y*; 0 without a history.
      key: for scores that draw.
    """
    ...


@dataclasses.dataclass(frozen=True)
class EI:
  """Expected improvement: sum_b p_b max(b - y*, 0)."""

  def __call__(
    self, logits: Logits, best: Int[Array, ''], key: Key[Array, '']
  ) -> Scores:
    """See `Acquisition`."""
    del key
    gains = jnp.maximum(_bins(logits) - best, 0)
    return nn.softmax(logits) @ gains.astype(logits.dtype)


@dataclasses.dataclass(frozen=True)
class PI:
  """Probability of improvement: sum_{b > y*} p_b."""

  def __call__(
    self, logits: Logits, best: Int[Array, ''], key: Key[Array, '']
  ) -> Scores:
    """See `Acquisition`."""
    del key
    return nn.softmax(logits) @ (_bins(logits) > best).astype(logits.dtype)


@dataclasses.dataclass(frozen=True)
class UCB:
  """A quantile: the smallest b with CDF(b) >= a.

  Attributes:
    quantile: a, in (0, 1).
  """

  quantile: float = 0.9

  def __post_init__(self) -> None:
    if not 0 < self.quantile < 1:
      raise ValueError(f'quantile must be in (0, 1), got {self.quantile=}')

  def __call__(
    self, logits: Logits, best: Int[Array, ''], key: Key[Array, '']
  ) -> Scores:
    """See `Acquisition`."""
    del best, key
    below = jnp.cumsum(nn.softmax(logits), axis=-1) < self.quantile
    # Rounding must not let the last bin be missed.
    found = jnp.minimum(below.sum(axis=-1), logits.shape[-1] - 1)
    return found.astype(logits.dtype)


@dataclasses.dataclass(frozen=True)
class Thompson:
  """One draw of b from p for each candidate."""

  def __call__(
    self, logits: Logits, best: Int[Array, ''], key: Key[Array, '']
  ) -> Scores:
    """See `Acquisition`."""
    del best
    return jax.random.categorical(key, logits).astype(logits.dtype)


@dataclasses.dataclass(frozen=True)
class Mean:
  """The mean: sum_b b p_b."""

  def __call__(
    self, logits: Logits, best: Int[Array, ''], key: Key[Array, '']
  ) -> Scores:
    """See `Acquisition`."""
    del best, key
    return nn.softmax(logits) @ _bins(logits).astype(logits.dtype)


@dataclasses.dataclass(frozen=True)
class Prior:
  """No preference: the first candidate, a draw of the policy, is taken."""

  def __call__(
    self, logits: Logits, best: Int[Array, ''], key: Key[Array, '']
  ) -> Scores:
    """See `Acquisition`."""
    del best, key
    return jnp.zeros(logits.shape[:-1], logits.dtype)


def _bins(logits: Logits) -> Int[Array, ' q']:
  return jnp.arange(logits.shape[-1])
