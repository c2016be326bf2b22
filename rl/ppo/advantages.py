"""How much better than expected: generalised advantages and lambda-returns.

Reference: Schulman et al. (2016), arXiv:1506.02438.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ['Estimates', 'estimate']

# Steps of the backward recursion per round of its loop.
_UNROLL = 16


class Estimates(NamedTuple):
  """Of T steps in n lanes; 0 and the value itself where not `valid`.

  Attributes:
    advantages: of the actions taken.
    targets: TD(lambda) returns, what values are fitted to.
  """

  advantages: Float[Array, 'T n']
  targets: Float[Array, 'T n']


def estimate(
  reward: Float[Array, 'T n'],
  value: Float[Array, 'T n'],
  last_value: Float[Array, ' n'],
  final_value: Float[Array, 'T n'],
  *,
  terminated: Bool[Array, 'T n'],
  truncated: Bool[Array, 'T n'],
  valid: Bool[Array, 'T n'],
  discount: float,
  trace: float,
) -> Estimates:
  """Generalised advantages (Eq. 16), and these plus the values.

    d_t = r_t + discount * v'_t - v_t,  A_t = d_t + discount * trace * A_{t+1}

  where v'_t is v_{t+1}; 0 where the task terminated; the value of the episode's
  own last observation where it was truncated. No A crosses an episode's end.

  Args:
    reward: of the step itself, the episode's last one included.
    value: of the observation before it.
    last_value: of the observation after the last row.
    final_value: of the observation that a truncated step led to; read only
      there.
    terminated: whether the task ended with the step.
    truncated: whether only the time was up.
    valid: False where nothing was done.
    discount: gamma, per step.
    trace: lambda.

  Returns:
    Advantages and targets.
  """
  following = jnp.concatenate([value[1:], last_value[None]])
  following = jnp.where(truncated, final_value, following)
  following = jnp.where(terminated, 0, following)
  surprise = jnp.where(valid, reward + discount * following - value, 0)
  decay = jnp.where(terminated | truncated | ~valid, 0, discount * trace)

  def step(after: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
    surprise, decay = row
    advantage = surprise + decay * after
    return advantage, advantage

  _, advantages = jax.lax.scan(
    step,
    jnp.zeros_like(last_value),
    (surprise, decay),
    reverse=True,
    unroll=_UNROLL,
  )
  return Estimates(advantages, advantages + value)
