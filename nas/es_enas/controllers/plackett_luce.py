"""Distribution of ordered subsets: a softmax without replacement.

Elements are chosen one after the other. Each step is a softmax over those not
yet chosen. All steps share the same logits.

Reference: Plackett 1975, Luce 1959; sampling by Gumbel noise as arXiv:1903.06059.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

__all__ = ['PlackettLuce']


class PlackettLuce(NamedTuple):
  """Distribution of `count` distinct elements, in order.

  Attributes:
    logits: unnormalised log-probabilities of the first element.
    count: number of elements that are chosen.
  """

  logits: Float[Array, ' options']
  count: int

  def sample(self, key: Key[Array, '']) -> Int[Array, ' count']:
    """Draws an ordered subset, int32."""
    noise = jax.random.gumbel(key, self.logits.shape)
    return jax.lax.top_k(self.logits + noise, self.count)[1]

  def mode(self) -> Int[Array, ' count']:
    """The most probable ordered subset: the largest logits, falling, int32."""
    return jax.lax.top_k(self.logits, self.count)[1]

  def score(
    self, chosen: Int[Array, ' count']
  ) -> tuple[Float[Array, ''], Float[Array, '']]:
    """Log-probability of an ordered subset, and entropies along its way, nats.

    Both take O(options + count): what remains at a step is the rest that is
    never chosen, and the elements chosen from that step on.

    Args:
      chosen: distinct elements.

    Returns:
      The log-probability; and the sum of the entropies of the steps, each given
      the elements before it. The mean of this sum over samples is the entropy.
    """
    logits = self.logits[chosen]
    # Pairs of the log-sum-exp of some logits, and their mean under the softmax.
    sums, means = logits, logits
    if self.count < self.logits.shape[0]:
      is_chosen = jnp.zeros(self.logits.shape, bool).at[chosen].set(True)
      rest = jnp.where(is_chosen, -jnp.inf, self.logits)
      mean = jnp.sum(jax.nn.softmax(rest) * self.logits)
      sums = jnp.append(sums, jax.nn.logsumexp(rest))
      means = jnp.append(means, mean)
    sums, means = jax.lax.associative_scan(_joined, (sums, means), reverse=True)
    sums, means = sums[: self.count], means[: self.count]
    return jnp.sum(logits - sums), jnp.sum(sums - means)


_Pair = tuple[Float[Array, ' _'], Float[Array, ' _']]


def _joined(a: _Pair, b: _Pair) -> _Pair:
  """The log-sum-exp of two sets of logits, and their mean under the softmax."""
  share = jax.nn.sigmoid(a[0] - b[0])
  return jnp.logaddexp(a[0], b[0]), b[1] + share * (a[1] - b[1])
