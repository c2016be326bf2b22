"""A policy and values, with one trunk or two."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from rl import distributions, networks

__all__ = ['SMALL_UNIFORM', 'ActorCritic', 'Outputs']

SMALL_UNIFORM = networks.symmetric_uniform(0.03)


class Outputs(NamedTuple):
  """The outputs for T steps of n lanes.

  Attributes:
    memory: after the last step.
    policy: of each step.
    value: of each step.
  """

  memory: PyTree
  policy: distributions.Distribution
  value: Float[Array, 'T n']


class _Trunk(nn.Module):
  """An encoder, then a core if there is one."""

  encoder: nn.Module | None
  core: networks.GRU | None

  @nn.compact
  def __call__(self, memory: Any, observation: Any, first: Any) -> Any:
    flat = observation.reshape(-1, *observation.shape[2:])
    if self.encoder is None:
      x = networks.to_float(flat).reshape(flat.shape[0], -1)
    else:
      x = self.encoder(flat)
    x = x.reshape(*first.shape, -1)
    return (memory, x) if self.core is None else self.core(memory, x, first)


class ActorCritic(nn.Module):
  """Encoder, optional recurrent core, two heads.

  Attributes:
    num_outputs: choices of a discrete action, or numbers in a continuous one.
    discrete: which of the two.
    encoder: [n, ...] -> [n, features]; None: the flat observation.
    core: of recurrent agents.
    separate: whether policy and values each have an encoder and core of their
      own; otherwise they share them.
    policy_init: of the last kernel of the policy.
    value_init: of the last kernel of the values.
    log_std: of continuous actions, at first; it does not depend on the state.
  """

  num_outputs: int
  discrete: bool
  encoder: nn.Module | None
  core: networks.GRU | None
  separate: bool
  policy_init: nn.initializers.Initializer
  value_init: nn.initializers.Initializer
  log_std: float

  def initial_memory(self, num_lanes: int) -> PyTree:
    """Memory at the start of an episode; () without a core."""
    if self.core is None:
      return ()
    memory = self.core.initial_memory(num_lanes)
    # Lanes first: one memory per trunk and lane.
    return jnp.stack([memory] * 2, 1) if self.separate else memory

  @nn.compact
  def __call__(
    self,
    memory: PyTree,
    observation: Shaped[Array, 'T n ...'],
    first: Bool[Array, 'T n'],
  ) -> Outputs:
    """Applies the network to T steps, which follow each other if recurrent.

    Args:
      memory: before the first.
      observation: of each step.
      first: where an episode begins; a core forgets there.
    """
    memory, actor, critic = self._features(memory, observation, first)
    outputs = nn.Dense(
      self.num_outputs, kernel_init=self.policy_init, name='policy'
    )(actor)
    value = nn.Dense(1, kernel_init=self.value_init, name='value')(critic)
    return Outputs(memory, self._policy(outputs), value[..., 0])

  def _features(self, memory: PyTree, observation: Any, first: Any) -> tuple:
    """Memory, and features for the policy and for the values."""
    if not self.separate:
      trunk = _Trunk(*self._parts(), name='trunk')
      memory, x = trunk(memory, observation, first)
      return memory, x, x
    if observation.ndim > 3:
      return self._apart(memory, observation, first)
    # Both in one: on small layers it is the number of operations that costs.
    twins = nn.vmap(
      _Trunk,
      in_axes=(1, None, None),
      out_axes=(1, 0),
      axis_size=2,
      variable_axes={'params': 0},
      split_rngs={'params': True},
    )
    trunks = twins(*self._parts(), name='trunks')
    memory, x = trunks(memory, observation, first)
    return memory, x[0], x[1]

  def _apart(self, memory: PyTree, observation: Any, first: Any) -> tuple:
    """One trunk after the other: grouped convolutions would be slow."""
    memories, features = [memory] * 2, []
    if self.core is not None:
      memories = [memory[:, 0], memory[:, 1]]
    for index, name in enumerate(('policy_trunk', 'value_trunk')):
      trunk = _Trunk(*self._parts(), name=name)
      memories[index], x = trunk(memories[index], observation, first)
      features.append(x)
    memory = () if self.core is None else jnp.stack(memories, 1)
    return memory, *features

  def _parts(self) -> list[nn.Module | None]:
    """Encoder and core: copies, as a module belongs to one other only."""
    return [
      None if module is None else module.clone(parent=None)
      for module in (self.encoder, self.core)
    ]

  def _policy(self, outputs: Array) -> distributions.Distribution:
    if self.discrete:
      return distributions.Categorical(outputs)
    constant = nn.initializers.constant(self.log_std)
    log_std = self.param('log_std', constant, (self.num_outputs,))
    return distributions.DiagonalGaussian(
      outputs, jnp.broadcast_to(log_std, outputs.shape)
    )
