"""Parts of PPO's loss: means, advantages, targets and terms per step.

References: Schulman et al. (2017), arXiv:1707.06347 (PPO); Schulman et al.
  (2016), arXiv:1506.02438 (generalised advantages).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from rl import learner as learner_lib
from rl import ranges

__all__ = [
  'Estimates',
  'Numbers',
  'Steps',
  'advantages',
  'explained_variance',
  'kl',
  'mean',
  'numbers',
  'outside',
  'policy_loss',
  'split',
  'standardize',
  'standardized',
  'terms',
  'value_loss',
]

# Added to a standard deviation, in the units of what is standardised.
_EPS = 1e-8
# A deviation below this share of the largest number is rounding.
_ROUNDING = 4 * float(jnp.finfo(jnp.float32).eps)
# Steps of the backward recursion per round of its loop.
_UNROLL = 16


class Numbers(NamedTuple):
  """Numbers of steps that are known before learning.

  `jnp.stack(numbers, -1)` is one array, to be moved about as one.

  Attributes:
    log_prob: of the action, when it was taken.
    value: of the observation, then.
    advantage: of the action.
    target: of the value.
    weight: 1 for steps that count, 0 for the others.
  """

  log_prob: Any
  value: Any
  advantage: Any
  target: Any
  weight: Any


class Steps(NamedTuple):
  """A minibatch: s steps, or all steps of s lanes.

  Attributes:
    memory: before the first step, [s, ...] each.
    observation: [T, s, ...].
    first: whether an episode begins, bool [T, s].
    action: [T, s, ...].
    numbers: stacked `Numbers`, [T, s, 5].
  """

  memory: PyTree
  observation: Any
  first: Any
  action: Any
  numbers: Any

  def gathered(self, index: Int[Array, ' b'], numbers: Array) -> 'Steps':
    """Those of some indices, with numbers gathered before."""
    return Steps(
      jax.tree.map(lambda x: x[index], self.memory),
      self.observation[:, index],
      self.first[:, index],
      self.action[:, index],
      numbers,
    )


def split(numbers: Float[Array, '... 5']) -> Numbers:
  """Undoes the stacking."""
  return Numbers(*(numbers[..., i] for i in range(len(Numbers._fields))))


def mean(x: Float[Array, '*s'], weight: Float[Array, '*s']) -> Float[Array, '']:
  """Weighted mean; 0 where all weights are 0.

  Args:
    x: values; finite ones.
    weight: 1 for those that count, 0 for the others.
  """
  return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1)


def standardize(
  x: Float[Array, '*s'], weight: Float[Array, '*s']
) -> Float[Array, '*s']:
  """(x - mean) / (deviation + 1e-8), mean and deviation of those that count.

  Args:
    x: values.
    weight: as in `mean`.

  Returns:
    0 where the values that count are equal up to rounding, as a single one is:
    their differences say nothing, and would be blown up to a deviation of 1.
  """
  centred = x - mean(x, weight)
  deviation = jnp.sqrt(mean(centred**2, weight))
  largest = jnp.max(jnp.abs(x) * weight)
  scaled = centred / (deviation + _EPS)
  return jnp.where(deviation > _ROUNDING * largest, scaled, 0)


def standardized(numbers: Float[Array, '... 5']) -> Float[Array, '... 5']:
  """Stacked numbers with their advantages standardised."""
  old = split(numbers)
  scaled = standardize(old.advantage, old.weight)
  return jnp.stack(old._replace(advantage=scaled), -1)


class Estimates(NamedTuple):
  """Estimates of T steps in n lanes; 0 and the value where not `valid`.

  Attributes:
    advantages: of the actions taken.
    targets: TD(lambda) returns, what values are fitted to.
  """

  advantages: Float[Array, 'T n']
  targets: Float[Array, 'T n']


def advantages(
  reward: Float[Array, 'T n'],
  value: Float[Array, 'T n'],
  last_value: Float[Array, ' n'],
  final_value: Float[Array, 'T n'],
  *,
  terminated: Bool[Array, 'T n'],
  truncated: Bool[Array, 'T n'],
  valid: Bool[Array, 'T n'],
  discount: ranges.Real,
  trace: ranges.Real,
) -> Estimates:
  """Generalised advantages (arXiv:1506.02438, Eq. 16), and these plus the values.

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

  _, found = jax.lax.scan(
    step,
    jnp.zeros_like(last_value),
    (surprise, decay),
    reverse=True,
    unroll=_UNROLL,
  )
  return Estimates(found, found + value)


def numbers(
  trajectory: learner_lib.Trajectory,
  reward: Float[Array, 'T n'],
  last_value: Float[Array, ' n'],
  discount: ranges.Real,
  trace: ranges.Real,
) -> Numbers:
  """Numbers of a trajectory that are known before learning from it.

  Args:
    trajectory: with `log_prob` and `value` in its extras, and values in `final`.
    reward: that is learnt from, which may be scaled.
    last_value: as in `advantages`.
    discount: as in `advantages`.
    trace: as in `advantages`.
  """
  value = trajectory.extras['value']
  found = advantages(
    reward,
    value,
    last_value,
    trajectory.final,
    terminated=trajectory.terminated,
    truncated=trajectory.truncated,
    valid=trajectory.valid,
    discount=discount,
    trace=trace,
  )
  weight = trajectory.valid.astype(jnp.float32)
  return Numbers(trajectory.extras['log_prob'], value, *found, weight)


def policy_loss(
  log_ratio: Float[Array, '*s'],
  advantage: Float[Array, '*s'],
  clip: ranges.Real,
) -> Float[Array, '*s']:
  """-min(r A, clip(r, 1 - clip, 1 + clip) A), arXiv:1707.06347, Eq. 7.

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
  clip: ranges.Real | None,
) -> Float[Array, '*s']:
  """The larger of the squared errors of v and of v clipped around the old one.

  Args:
    value: v.
    old: value when acting.
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


def outside(
  log_ratio: Float[Array, '*s'], clip: ranges.Real
) -> Float[Array, '*s']:
  """1 where |r - 1| > clip, else 0.

  Args:
    log_ratio: as in `policy_loss`.
    clip: epsilon.
  """
  return (jnp.abs(jnp.expm1(log_ratio)) > clip).astype(log_ratio.dtype)


def terms(
  log_prob: Float[Array, '*s'],
  value: Float[Array, '*s'],
  entropy: Float[Array, '*s'],
  old: Numbers,
  *,
  clip_ratio: ranges.Real,
  value_clip: ranges.Real | None,
) -> dict[str, Float[Array, '']]:
  """Means of the terms of the loss, and of other metrics.

  Args:
    log_prob: of the actions, now.
    value: now.
    entropy: of the policy, now, nats.
    old: numbers known before learning.
    clip_ratio: epsilon of the surrogate.
    value_clip: as in `value_loss`.
  """
  log_ratio = log_prob - old.log_prob
  found = {
    'policy_loss': policy_loss(log_ratio, old.advantage, clip_ratio),
    'value_loss': value_loss(value, old.value, old.target, value_clip),
    'entropy': entropy,
    'kl': kl(log_ratio),
    'clip_fraction': outside(log_ratio, clip_ratio),
  }
  return {name: mean(x, old.weight) for name, x in found.items()}


def explained_variance(
  value: Float[Array, '*s'],
  target: Float[Array, '*s'],
  weight: Float[Array, '*s'],
) -> Float[Array, '']:
  """1 - Var(target - value) / Var(target); 0 where the targets are equal.

  Args:
    value: predictions.
    target: targets of the values.
    weight: as in `mean`.
  """
  variance = lambda x: mean((x - mean(x, weight)) ** 2, weight)
  total = variance(target)
  share = variance(target - value) / jnp.where(total > 0, total, 1)
  return jnp.where(total > 0, 1 - share, 0)
