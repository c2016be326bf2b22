"""Categorical value distributions, and the loss that learns them.

A distribution has its mass on fixed, evenly spaced returns.

Reference: Bellemare, Dabney and Munos (2017), arXiv:1707.06887.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = [
  'Projection',
  'cross_entropy',
  'mean',
  'project',
  'support',
  'target',
  'weighted_mean',
]


class Projection(NamedTuple):
  """A distribution moved back onto the support.

  Attributes:
    probability: on each atom, [b, z].
    overflow: mass that lay outside the support and was put on its ends, [b].
  """

  probability: Float[Array, 'b z']
  overflow: Float[Array, ' b']


def support(low: float, high: float, num_atoms: int) -> Float[Array, ' z']:
  """The returns that carry mass.

  Args:
    low: smallest.
    high: largest.
    num_atoms: z.

  Returns:
    Evenly spaced values.

  Raises:
    ValueError: if there are fewer than two atoms or low >= high.
  """
  if num_atoms < 2 or not low < high:
    raise ValueError(
      'a support needs two atoms and low < high, got '
      f'{low=} {high=} {num_atoms=}'
    )
  return jnp.linspace(low, high, num_atoms)


def mean(
  logits: Float[Array, '*b z'], atoms: Float[Array, ' z']
) -> Float[Array, '*b']:
  """The expected return, sum_i softmax(logits)_i z_i."""
  return jnp.sum(jax.nn.softmax(logits) * atoms, axis=-1)


def project(
  probability: Float[Array, 'b z'],
  reward: Float[Array, ' b'],
  discount: Float[Array, ' b'],
  atoms: Float[Array, ' z'],
) -> Projection:
  """The distribution of reward + discount * return, on the support (Eq. 7).

  Mass between two atoms is split so that mass and mean are kept; mass outside
  goes to the nearest end, which keeps the mass only.

  Args:
    probability: of the returns `atoms`.
    reward: reward before the return.
    discount: of the return; 0 where nothing follows.
    atoms: evenly spaced, rising.

  Returns:
    The projection and what did not fit.
  """
  low, high = atoms[0], atoms[-1]
  gap = (high - low) / (atoms.shape[0] - 1)
  moved = reward[:, None] + discount[:, None] * atoms
  # A return on an end, but for rounding, is inside.
  slack = 1e-4 * gap
  outside = (moved < low - slack) | (moved > high + slack)
  distance = jnp.abs(jnp.clip(moved, low, high)[:, :, None] - atoms) / gap
  share = jnp.maximum(1 - distance, 0)
  return Projection(
    jnp.sum(probability[:, :, None] * share, axis=1),
    jnp.sum(jnp.where(outside, probability, 0), axis=-1),
  )


def target(
  selector: Float[Array, 'b a z'],
  judge: Float[Array, 'b a z'],
  reward: Float[Array, ' b'],
  discount: Float[Array, ' b'],
  atoms: Float[Array, ' z'],
) -> Projection:
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
  best = jnp.argmax(mean(selector, atoms), axis=-1)
  chosen = jnp.take_along_axis(judge, best[:, None, None], axis=1)[:, 0]
  found = project(jax.nn.softmax(chosen), reward, discount, atoms)
  return jax.lax.stop_gradient(found)


def cross_entropy(
  logits: Float[Array, 'b a z'],
  action: Int[Array, ' b'],
  probability: Float[Array, 'b z'],
) -> Float[Array, ' b']:
  """-sum_i m_i log p_i(o, a) per step: its loss, and its next priority.

  Args:
    logits: of the online network.
    action: action taken.
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
