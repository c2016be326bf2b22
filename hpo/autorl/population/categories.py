"""EXP3.S: chances of categories whose worth changes over time.

With weights w of c categories, mixing g and sharing a, a draw has the chance
p = (1 - g) w / sum(w) + g / c. After the rewards r in [0, 1] of m members,

  w_j <- w_j exp(g x_j / c) + e a / c sum(w),   x_j = sum of r / (m p_j)

where the sum is over the members that played j.

Reference: Auer, Cesa-Bianchi, Freund, Schapire (2002), "The nonstochastic
multiarmed bandit problem", Section 8; used for populations in Parker-Holder et al.
(2021), arXiv:2106.15883, whose constants are not known here.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ['chances', 'updated']


def chances(logits: Float[Array, ' c'], mixing: float) -> Float[Array, ' c']:
  """The chance of each category.

  Args:
    logits: ln w.
    mixing: g, above 0 and at most 1.
  """
  return (1 - mixing) * jax.nn.softmax(logits) + mixing / len(logits)


def updated(
  logits: Float[Array, ' c'],
  played: Int[Array, ' n'],
  rewards: Float[Array, ' n'],
  known: Bool[Array, ' n'],
  *,
  mixing: float,
  sharing: float,
) -> Float[Array, ' c']:
  """Ln w after a round, shifted so that the largest is 0.

  Args:
    logits: ln w.
    played: category of each member.
    rewards: in [0, 1].
    known: which members have a reward.
    mixing: g.
    sharing: a, 0 or more: how fast the past is forgotten.
  """
  count = len(logits)
  weights = jnp.where(known, rewards, 0) / jnp.maximum(known.sum(), 1)
  totals = jnp.zeros(count).at[played].add(weights)
  gains = totals / chances(logits, mixing)
  grown = logits + mixing * gains / count
  if sharing:
    shared = math.log(math.e * sharing / count) + jax.nn.logsumexp(logits)
    grown = jnp.logaddexp(grown, shared)
  return grown - grown.max()
