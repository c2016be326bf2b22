"""The three losses of SAC.

Reference: Haarnoja et al. (2018), arXiv:1812.05905, Eqs. 5, 7 and 18.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ['critic_loss', 'policy_loss', 'target', 'temperature_loss']


def target(
  values: Float[Array, '2 b'],
  log_prob: Float[Array, ' b'],
  *,
  temperature: Float[Array, ''],
  reward: Float[Array, ' b'],
  discount: Float[Array, ' b'],
) -> Float[Array, ' b']:
  """Takes r + discount (min_i Q_i - temperature log pi); no gradient flows in.

  Args:
    values: of the target critics, at a drawn next action.
    log_prob: of that action.
    temperature: alpha.
    reward: before.
    discount: 0 where the task ended.

  Returns:
    Soft values to learn.
  """
  soft = values.min(axis=0) - temperature * log_prob
  return jax.lax.stop_gradient(reward + discount * soft)


def critic_loss(
  values: Float[Array, '2 b'], goal: Float[Array, ' b']
) -> Float[Array, '']:
  """sum_i mean (Q_i - goal)^2 / 2."""
  return 0.5 * jnp.sum(jnp.mean((values - goal) ** 2, axis=-1))


def policy_loss(
  values: Float[Array, '2 b'],
  log_prob: Float[Array, ' b'],
  temperature: Float[Array, ''],
) -> Float[Array, '']:
  """The mean of (temperature log pi - min_i Q_i), at actions of the policy."""
  temperature = jax.lax.stop_gradient(temperature)
  return jnp.mean(temperature * log_prob - values.min(axis=0))


def temperature_loss(
  log_temperature: Float[Array, ''],
  log_prob: Float[Array, ' b'],
  target_entropy: float,
) -> Float[Array, '']:
  """-log alpha mean(log pi + target entropy).

  With log alpha for alpha, as the authors' code has it: the sign of the
  gradient is the same and its size does not shrink with alpha.
  """
  gap = jax.lax.stop_gradient(log_prob + target_entropy)
  return -log_temperature * gap.mean()
