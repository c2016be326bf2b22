"""The loss of Rainbow and what it bootstraps from."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rl.rainbow import c51

__all__ = ['cross_entropy', 'target', 'weighted_mean']


def target(
  selector: Float[Array, 'b a z'],
  judge: Float[Array, 'b a z'],
  reward: Float[Array, ' b'],
  discount: Float[Array, ' b'],
  atoms: Float[Array, ' z'],
) -> c51.Projection:
  """The distribution to learn, after the best next action.

  Args:
    selector: logits at the next observation that choose the action: of the
      online network for double Q-learning (arXiv:1509.06461), else of `judge`.
    judge: logits of the target network there.
    reward: n-step sum.
    discount: of what follows; 0 where the task ended.
    atoms: of the support.

  Returns:
    The projected distribution; no gradient flows into it.
  """
  best = jnp.argmax(c51.mean(selector, atoms), axis=-1)
  chosen = jnp.take_along_axis(judge, best[:, None, None], axis=1)[:, 0]
  found = c51.project(jax.nn.softmax(chosen), reward, discount, atoms)
  return jax.lax.stop_gradient(found)


def cross_entropy(
  logits: Float[Array, 'b a z'],
  action: Int[Array, ' b'],
  probability: Float[Array, 'b z'],
) -> Float[Array, ' b']:
  """-sum_i m_i log p_i(o, a) per step: its loss, and its next priority.

  Args:
    logits: of the online network.
    action: that was taken.
    probability: m, the target.

  Returns:
    Not negative, nats.
  """
  taken = jnp.take_along_axis(logits, action[:, None, None], axis=1)[:, 0]
  return -jnp.sum(probability * jax.nn.log_softmax(taken), axis=-1)


def weighted_mean(
  loss: Float[Array, ' b'], weights: Float[Array, ' b']
) -> Float[Array, '']:
  """sum_i w_i l_i / b, the weights divided by their largest."""
  return jnp.mean(loss * weights / weights.max())
