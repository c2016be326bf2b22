"""Policies of (theta, architecture): members of the populations of ES-ENAS.

theta is the table of weights that edges share, and then all parameters of the
network that are not edges. The architecture tells which entry of the table each
edge has. Both are plain vectors of one size, so that rollouts of different
architectures are one batched product.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from nas.es_enas import accounting, edges, networks
from nas.es_enas import operations as operations_lib
from nas.es_enas import sharing as sharing_lib
from nas.es_enas import space as space_lib
from rl import ranges
from rl.envs import spaces
from rl.es import geometry as geometry_lib
from rl.es import policies, policy_training

__all__ = [
  'Member',
  'SharedPolicy',
  'feed_forward',
  'flax_module',
  'shared',
  'thresholded',
]

Member = Any  # (theta [d], architecture [D]), or theta alone.


@dataclasses.dataclass(frozen=True)
class SharedPolicy:
  """A network whose edges share weights; an `rl.es.policies.Policy`.

  A member is (theta, architecture). theta alone is a member too where there is
  but one architecture: so `rl.es` trains all baselines as they are.

  Attributes:
    network: the nodes and candidate edges.
    sharing: how edges get their weights.
    init_scale: standard deviation of the first weights.

  Raises:
    ValueError: if the rule does not fit the network, or the scale is negative.
  """

  network: networks.Network
  sharing: sharing_lib.Sharing
  init_scale: float = 0.1

  def __post_init__(self) -> None:
    ranges.check_not_negative(init_scale=self.init_scale)
    # A rule that does not fit is told now, not in the first rollout.
    jax.eval_shape(self.costs, jax.ShapeDtypeStruct((self.space.length,), int))

  @property
  def space(self) -> space_lib.Space:
    """All architectures."""
    shapes = self.network.shapes
    return space_lib.Space((*self.sharing.groups(shapes), *self.network.groups))

  @property
  def entries(self) -> int:
    """K, the number of entries of the table."""
    return self.sharing.entries(self.network.shapes)

  @property
  def size(self) -> int:
    """Number of parameters: the table and the rest."""
    return self.entries + self.network.rest

  @property
  def geometry(self) -> geometry_lib.Geometry:
    """The way theta moves, for `rl.es`."""
    return self.network.geometry(self.entries)

  def init(self, key: Key[Array, '']) -> Float[Array, ' d']:
    """Weights from N(0, init_scale^2); the rest as the network draws it."""
    table_key, key = jax.random.split(key)
    table = self.sharing.init(table_key, self.network.shapes, self.init_scale)
    return jnp.concatenate([table, self.network.init_rest(key)])

  def indices(
    self, architecture: Int[Array | np.ndarray, ' D'] | None = None
  ) -> Int[Array | np.ndarray, ' E']:
    """The entry of the table that every edge has; K where it is absent.

    Args:
      architecture: None where there is but one.
    """
    parts = self._decisions(architecture)
    return self.sharing.indices(self.network.shapes, parts)

  def weights(self, member: Member) -> Float[Array, ' E']:
    """The weight of every candidate edge; 0 where it is absent."""
    theta, parts = self._parts(member)
    table = theta[: self.entries]
    return self.sharing.weights(table, self.network.shapes, parts)

  def unravel(self, member: Member) -> PyTree:
    """See `rl.es.policies.Policy`."""
    theta, parts = self._parts(member)
    rest = theta[self.entries :]
    return self.network.assemble(self.weights(member), rest, parts)

  def initial_memory(self) -> PyTree:
    """That of the network."""
    return self.network.initial_memory()

  def act(
    self, params: PyTree, memory: PyTree, observation: Shaped[Array, '...']
  ) -> tuple[PyTree, Shaped[Array, '...']]:
    """See `rl.es.policies.Policy`."""
    return self.network.act(params, memory, observation)

  def costs(
    self, architecture: Int[Array | np.ndarray, ' D'] | None = None
  ) -> dict[str, Array]:
    """Exact counts, and the compression; see `accounting.costs`.

    Args:
      architecture: may be traced; None where there is but one.
    """
    parts = self._decisions(architecture)
    return accounting.costs(self.network, self.sharing, parts)

  def sparsity(self, member: Member) -> Float[Array, '']:
    """Share of the edges that are absent; of `edges.Masked`, expected."""
    theta, parts = self._parts(member)
    table = theta[: self.entries]
    return self.sharing.sparsity(table, self.network.shapes, parts)

  def member_costs(self, member: Member) -> dict[str, Array]:
    """The `costs` of a member's architecture, and its `sparsity`."""
    _, architecture = member
    return {**self.costs(architecture), 'sparsity': self.sparsity(member)}

  def _parts(
    self, member: Member
  ) -> tuple[Float[Array, ' d'], sharing_lib.Parts]:
    """Theta, and the decisions by group."""
    theta, architecture = (
      member if isinstance(member, tuple) else (member, None)
    )
    return theta, self._decisions(architecture)

  def _decisions(
    self, architecture: Int[Array | np.ndarray, ' D'] | None
  ) -> sharing_lib.Parts:
    space = self.space
    if architecture is None and space.length:
      names = [group.name for group in space.groups]
      raise ValueError(
        f'an architecture must be given with theta: {names} are to be chosen'
      )
    if architecture is None:
      architecture = jnp.zeros(0, jnp.int32)
    if architecture.shape != (space.length,):
      raise ValueError(
        f'an architecture must be {space.length} integers, got the shape '
        f'{architecture.shape}'
      )
    return space.parts(jnp.asarray(architecture, jnp.int32))


def feed_forward(
  observation_space: spaces.Space,
  action_space: spaces.Space,
  *,
  sharing: sharing_lib.Sharing,
  hidden: tuple[int, ...] = (),
  residual: bool = False,
  operations: tuple[operations_lib.Operation, ...] = (jnp.tanh,),
  init_scale: float = 0.1,
) -> SharedPolicy:
  """Makes the policy of a `networks.FeedForward`, for a trainer's `policy`.

  Args:
    observation_space: a box of floats.
    action_space: see `rl.es.policies.to_action`.
    sharing: how edges get their weights.
    hidden: see `networks.FeedForward`; as the next two.
    residual: whether there are edges between all layers.
    operations: of hidden nodes; one for all, or several to choose from.
    init_scale: standard deviation of the first weights.
  """
  network = networks.FeedForward(
    observation_space,
    action_space,
    hidden=hidden,
    residual=residual,
    operations=operations,
  )
  return SharedPolicy(network, sharing, init_scale)


def flax_module(
  observation_space: spaces.Space,
  action_space: spaces.Space,
  *,
  module: nn.Module,
  sharing: sharing_lib.Sharing,
  kernels: tuple[str, ...] = ('params/*kernel',),
  init_scale: float = 0.1,
) -> SharedPolicy:
  """Makes the policy of any Flax module, for a trainer's `policy`.

  Args:
    observation_space: the module gets observations as they are.
    action_space: see `rl.es.policies.to_action`.
    module: from an observation to the numbers that choose an action.
    sharing: how the entries of kernels get their weights.
    kernels: patterns of paths; see `networks.OfPolicy`.
    init_scale: standard deviation of the first weights.
  """
  policy = policies.FlaxPolicy(module, observation_space, action_space)
  return SharedPolicy(networks.OfPolicy(policy, kernels), sharing, init_scale)


def shared(
  observation_space: spaces.Space,
  action_space: spaces.Space,
  *,
  policy: policy_training.MakePolicy,
  sharing: sharing_lib.Sharing,
  kernels: tuple[str, ...],
  init_scale: float = 0.1,
) -> SharedPolicy:
  """Makes any policy of `rl` share weights, for a trainer's `policy`.

  Args:
    observation_space: see the policy.
    action_space: see the policy.
    policy: makes the policy of both spaces, such as
      `rl.implicit_attention.policies.PixelPolicy` with its settings.
    sharing: how the entries of kernels get their weights.
    kernels: patterns of paths; see `networks.OfPolicy`.
    init_scale: standard deviation of the first weights.
  """
  made = policy(observation_space, action_space)
  return SharedPolicy(networks.OfPolicy(made, kernels), sharing, init_scale)


def thresholded(
  policy: SharedPolicy, theta: Float[Array, ' d'], *, count: int
) -> tuple[SharedPolicy, tuple[Float[Array, ' e'], Int[Array, ' D']]]:
  """Keeps the largest edges of a masked policy, once it has been trained.

  Args:
    policy: with `edges.Masked`, and without choices of its network.
    theta: its parameters.
    count: number of edges to keep; those of the largest |W sigmoid(S / tau)|.

  Returns:
    A pruned policy and its member, with the masks folded into the weights.

  Raises:
    ValueError: if the policy has no masks, or fewer edges.
  """
  if not isinstance(policy.sharing, edges.Masked) or policy.network.groups:
    raise ValueError(
      'the policy must have edges.Masked and no decisions, got '
      f'{policy.sharing} and {policy.network.groups}'
    )
  pruned = dataclasses.replace(policy, sharing=edges.Pruned(count))
  weights = policy.weights(theta)
  _, largest = jax.lax.top_k(jnp.abs(weights), count)
  rest = theta[policy.entries :]
  return pruned, (jnp.concatenate([weights, rest]), largest.astype(jnp.int32))
