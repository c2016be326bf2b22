"""Rewards in units of the deviation of discounted returns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rl import normalizer, ranges

__all__ = ['RewardState', 'init', 'scale']


class RewardState(NamedTuple):
  """Statistics of the rewards so far.

  Attributes:
    running: discounted sum of the rewards of the running episode, per lane.
    statistics: of these sums, at every step of every lane.
  """

  running: Float[Array, ' n']
  statistics: normalizer.Statistics


def init(num_lanes: int) -> RewardState:
  """The state before any reward."""
  return RewardState(jnp.zeros(num_lanes), normalizer.empty(()))


def scale(
  state: RewardState,
  reward: Float[Array, 'T n'],
  *,
  first: Bool[Array, ' n'],
  ended: Bool[Array, 'T n'],
  valid: Bool[Array, 'T n'],
  discount: ranges.Real,
  clip: ranges.Real,
) -> tuple[RewardState, Float[Array, 'T n']]:
  """Divides by the deviation of R_t = r_t + discount * R_{t-1}, then clips.

  R starts at 0 in every episode. The deviation includes these T steps. Nothing
  is subtracted: the sign of a reward stays.

  Args:
    state: before.
    reward: of the steps.
    first: whether an episode begins with the first step, as all do where
      simulators were started anew.
    ended: whether an episode ended with the step.
    valid: False where nothing was done.
    discount: discount of R; usually that of the agent.
    clip: largest absolute value of the result.

  Returns:
    The state after, and the rewards.

  Reference: the running return of github.com/openai/baselines, vec_normalize,
    whose discount is 0.99 whatever the agent's is.
  """

  def step(running: Array, row: tuple[Array, Array, Array]) -> tuple:
    reward, ended, valid = row
    total = jnp.where(valid, discount * running + reward, running)
    return jnp.where(ended, 0, total), total

  running, totals = jax.lax.scan(
    step, jnp.where(first, 0, state.running), (reward, ended, valid), unroll=16
  )
  seen = normalizer.weighted(totals, valid.astype(totals.dtype))
  statistics = normalizer.merge(state.statistics, seen)
  scaled = jnp.clip(reward / normalizer.std(statistics), -clip, clip)
  return RewardState(running, statistics), scaled
