"""The loss of an actor-critic whose settings are traced, for several heads."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hpo.autorl import heads, vtrace
from rl import learner as learner_lib
from rl import ranges
from rl.ppo import losses

__all__ = ['Batch', 'Loss', 'loss']


@dataclasses.dataclass(frozen=True)
class Loss:
  """Settings of the loss; each may also be an array with one number per head.

  Attributes:
    discount: gamma.
    trace: lambda.
    leak: share of clipped importance ratios; see `vtrace`.
    policy_cost: factor on the policy gradient's surrogate.
    value_cost: factor on half the squared error of the values.
    entropy_cost: factor on the entropy, nats.

  Raises:
    ValueError: if a number is out of range.
  """

  discount: Any = 0.99
  trace: Any = 0.95
  leak: Any = 1.0
  policy_cost: Any = 1.0
  value_cost: Any = 0.5
  entropy_cost: Any = 0.01

  def check(self) -> None:
    """Checks plain numbers; traced ones are in the range of their knob."""
    ranges.check_shares(
      discount=self.discount, trace=self.trace, leak=self.leak
    )
    ranges.check_not_negative(
      policy_cost=self.policy_cost,
      value_cost=self.value_cost,
      entropy_cost=self.entropy_cost,
    )


class Batch(NamedTuple):
  """Steps to learn from; the fields are those of `learner.Trajectory`.

  Attributes:
    observation: [T, n, ...].
    action: int32 [T, n].
    log_prob: of the action, when it was taken, float32 [T, n].
    reward: float32 [T, n].
    terminated: bool [T, n].
    truncated: bool [T, n].
    valid: bool [T, n].
    final: values of all heads where truncated, float32 [T, n, h].
    last_observation: [n, ...].
  """

  observation: Any
  action: Any
  log_prob: Any
  reward: Any
  terminated: Any
  truncated: Any
  valid: Any
  final: Any
  last_observation: Any

  @classmethod
  def of(cls, trajectory: learner_lib.Trajectory) -> 'Batch':
    """The steps of a trajectory with `log_prob` in its extras."""
    own = {
      name: getattr(trajectory, name)
      for name in cls._fields
      if name != 'log_prob'
    }
    return cls(log_prob=trajectory.extras['log_prob'], **own)


def loss(
  network: heads.Heads,
  params: PyTree,
  judge: PyTree,
  batch: Batch,
  chosen: Loss,
  settings: Float[Array, 'h e'],
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """The sum of the heads' losses, and metrics of the first head.

  Its gradient by `params` alone is that of an actor-critic: advantages and
  targets are constants to it. They are no constants to a meta-gradient, to which
  all parameters depend on the settings; hence the two copies.

  Args:
    network: policy and values.
    params: of the network; learnt.
    judge: of the network; those that values and ratios in advantages and targets
      come from.
    batch: steps to learn from.
    chosen: settings; arrays [h], or numbers for all heads.
    settings: that the network reads.
  """
  policy, value = _outputs(network, params, batch.observation, settings)
  action = jnp.broadcast_to(batch.action[..., None], value.shape)
  log_prob = policy.log_prob(action)
  theirs, base = _outputs(network, judge, batch.observation, settings)
  last = network.apply(judge, batch.last_observation, settings).value
  log_ratio = theirs.log_prob(action) - batch.log_prob[..., None]
  found = _estimates(batch, base, last, log_ratio, chosen)
  weight = batch.valid.astype(value.dtype)
  mean = jax.vmap(losses.mean, in_axes=(-1, None))
  terms = {
    'policy_loss': mean(-log_prob * found.advantages, weight),
    'value_loss': mean(0.5 * (value - found.targets) ** 2, weight),
    'entropy': mean(policy.entropy(), weight),
  }
  total = (
    chosen.policy_cost * terms['policy_loss']
    + chosen.value_cost * terms['value_loss']
    - chosen.entropy_cost * terms['entropy']
  )
  return jnp.sum(total), {name: x[0] for name, x in terms.items()}


def _outputs(
  network: heads.Heads, params: PyTree, observation: Array, settings: Array
) -> heads.Outputs:
  """Of T steps in n lanes."""
  lead = observation.shape[:2]
  flat = observation.reshape(-1, *observation.shape[2:])
  out = network.apply(params, flat, settings)
  return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), out)


def _estimates(
  batch: Batch, value: Array, last: Array, log_ratio: Array, chosen: Loss
) -> losses.Estimates:
  """Of each head, [T, n, h]."""
  heads_count = value.shape[-1]
  each = lambda x: jnp.broadcast_to(jnp.asarray(x, value.dtype), heads_count)
  one = functools.partial(
    _of_head,
    batch.reward.astype(value.dtype),
    terminated=batch.terminated,
    truncated=batch.truncated,
    valid=batch.valid,
  )
  return jax.vmap(one, in_axes=(-1, -1, -1, -1, 0, 0, 0), out_axes=-1)(
    value,
    last,
    batch.final,
    log_ratio,
    *(each(x) for x in (chosen.discount, chosen.trace, chosen.leak)),
  )


def _of_head(
  reward: Array,
  value: Array,
  last: Array,
  final: Array,
  log_ratio: Array,
  discount: Array,
  trace: Array,
  leak: Array,
  **ends: Array,
) -> losses.Estimates:
  return vtrace.leaky_vtrace(
    reward,
    value,
    last,
    final,
    log_ratio,
    discount=discount,
    trace=trace,
    leak=leak,
    **ends,
  )
