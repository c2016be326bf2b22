"""Leaky V-trace: advantages and targets of steps that another policy took.

With importance ratios w = pi(a | s) / mu(a | s) and a leak a:

  rho = a min(1, w) + (1 - a) w,   c = lambda (a min(1, w) + (1 - a) w)
  D_t = rho_t (r_t + gamma v'_t - v_t) + gamma c_t D_{t+1}
  target_t = v_t + D_t
  advantage_t = rho_t (r_t + gamma (v'_t + lambda (target_{t+1} - v'_t)) - v_t)

Since c = lambda rho, the advantage is D_t.

a = 1 is V-trace, a = 0 plain importance sampling. On the policy's own steps
w = 1, and both are generalised advantages and TD(lambda) returns.

References: Espeholt et al. (2018), arXiv:1802.01561, Eq. 1; Zahavy et al. (2020),
  arXiv:2002.12928, Eq. 5 (the leak); github.com/google-deepmind/rlax (lambda in
  the advantage).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rl.ppo import losses

__all__ = ['leaky_vtrace']

Scalar = Float[Array, ''] | float


def leaky_vtrace(
  reward: Float[Array, 'T n'],
  value: Float[Array, 'T n'],
  last_value: Float[Array, ' n'],
  final_value: Float[Array, 'T n'],
  log_ratio: Float[Array, 'T n'],
  *,
  terminated: Bool[Array, 'T n'],
  truncated: Bool[Array, 'T n'],
  valid: Bool[Array, 'T n'],
  discount: Scalar,
  trace: Scalar,
  leak: Scalar,
) -> losses.Estimates:
  """Advantages and targets; differentiable in the last three arguments.

  Args:
    reward: of the step itself, an episode's last one included.
    value: v, of the observation before it.
    last_value: of the observation after the last row.
    final_value: of the observation that a truncated step led to.
    log_ratio: log w of the action.
    terminated: whether the task ended with the step.
    truncated: whether only the time was up.
    valid: False where nothing was done.
    discount: gamma.
    trace: lambda.
    leak: a, share of the clipped ratio.

  Returns:
    Advantages, which contain rho, and targets.
  """
  following = jnp.concatenate([value[1:], last_value[None]])
  following = jnp.where(truncated, final_value, following)
  following = jnp.where(terminated, 0, following)
  ratio = jnp.exp(log_ratio)
  rho = leak * jnp.minimum(1, ratio) + (1 - leak) * ratio
  surprise = jnp.where(valid, rho * (reward + discount * following - value), 0)
  goes_on = ~(terminated | truncated) & valid
  decay = jnp.where(goes_on, discount * trace * rho, 0)

  def step(after: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
    surprise, decay = row
    found = surprise + decay * after
    return found, found

  _, found = jax.lax.scan(
    step, jnp.zeros_like(last_value), (surprise, decay), reverse=True
  )
  return losses.Estimates(found, found + value)
