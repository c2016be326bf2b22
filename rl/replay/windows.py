"""Steps of a lane that may be learnt from, and their n-step targets.

The target of step t is sum_{i<k} discount^i r_{t+i} + discount^k V(o_{t+k}):
- k = n where the episode goes on so long;
- where it terminated within the window, all rewards until then and no value;
- where it was truncated at t + k, k < n, the value of o_{t+k}: the last state
  that was acted in. What the truncated step led to is not stored, so this step
  itself, k = 0, is nothing to learn from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rl import ranges

__all__ = ['Window', 'complete', 'n_step']


class Window(NamedTuple):
  """The parts of the targets of b steps.

  Attributes:
    reward: discounted sum, float [b].
    discount: of the value at its end, float [b]; 0 where terminated.
    steps: k, after which the value is taken, int32 [b]; 0 where terminated.
  """

  reward: Float[Array, ' b']
  discount: Float[Array, ' b']
  steps: Int[Array, ' b']


def n_step(
  reward: Float[Array, 'b n'],
  terminated: Bool[Array, 'b n'],
  truncated: Bool[Array, 'b n'],
  *,
  discount: ranges.Real,
) -> Window:
  """Sums rewards from the first column on; see the module.

  Args:
    reward: of n steps in a row; what follows an end may be anything.
    terminated: whether the task ended there.
    truncated: whether the time was up there; not in the first column.
    discount: per step.

  Returns:
    Sums, discounts and lengths.
  """
  ended = terminated | truncated
  alive = jnp.cumsum(ended, axis=-1) - ended == 0
  counted = alive & ~truncated
  powers = discount ** jnp.arange(reward.shape[-1], dtype=reward.dtype)
  total = jnp.sum(jnp.where(counted, reward, 0) * powers, axis=-1)
  over = jnp.any(alive & terminated, axis=-1)
  steps = jnp.where(over, 0, jnp.sum(counted, axis=-1, dtype=jnp.int32))
  power = jnp.asarray(discount, reward.dtype) ** steps
  return Window(total, jnp.where(over, 0, power), steps)


def complete(ended: Bool[Array, 'm n'], *, n_step: int) -> Bool[Array, 'm n']:
  """Marks the rows whose windows are complete.

  Args:
    ended: of the newest m rows of n lanes, whether an episode ended there.
    n_step: length of a window.

  Returns:
    True where an end follows, or a row n steps later.
  """
  rows = ended.shape[0]
  ends = jax.lax.cummax(ended.astype(jnp.int32), axis=0, reverse=True) > 0
  return ends | (jnp.arange(rows)[:, None] + n_step < rows)
