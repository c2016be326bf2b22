"""The interface of agents: acting and learning.

One iteration of any agent here is: act for T steps in n lanes, then learn from
what that gave. `rollout` does the first, in JAX or with simulators; a `Learner`
is the rest, as pure functions.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

from rl.envs import spaces

__all__ = ['Action', 'Algorithm', 'Learner', 'Trajectory']


class Action(NamedTuple):
  """The next actions of n lanes.

  Attributes:
    memory: of a recurrent policy, after the observation; () for none.
    action: one per lane.
    extras: data that learning needs later, such as log-probabilities;
      leaves [n, ...].
  """

  memory: PyTree
  action: Shaped[Array, 'n ...']
  extras: PyTree


class Trajectory(NamedTuple):
  """T steps of n lanes.

  Row t: what lane i saw, did, and got for it. Row t + 1 of a lane continues row
  t, across the ends of episodes too; after the last row comes `last_observation`.

  Attributes:
    observation: before the action, [T, n, ...].
    first: whether it is the first of an episode, bool [T, n].
    action: [T, n, ...].
    extras: of `Action`, [T, n, ...] each.
    reward: float32 [T, n].
    terminated: bool [T, n]; the task ended: what comes after is worth nothing.
    truncated: bool [T, n]; only the time was up. What follows in the lane is
      not worth what the episode would have been: see `final`.
    valid: bool [T, n]; False for steps that did nothing but reset a simulator,
      which no estimate may use.
    final: `Learner.final` of the observation that the step led to, where
      truncated; zeros elsewhere; [T, n, ...] each.
    episode_return: of the episode that ended, float32 [T, n]; of an earlier
      one where none did.
    episode_length: its steps, int32 [T, n].
    memory: before the first row, [n, ...] each.
    last_memory: before `last_observation`.
    last_observation: after the last row, [n, ...].
    last_first: whether that is the first of an episode, bool [n].
  """

  observation: Shaped[Array, 'T n ...']
  first: Bool[Array, 'T n']
  action: Shaped[Array, 'T n ...']
  extras: PyTree
  reward: Float[Array, 'T n']
  terminated: Bool[Array, 'T n']
  truncated: Bool[Array, 'T n']
  valid: Bool[Array, 'T n']
  final: PyTree
  episode_return: Float[Array, 'T n']
  episode_length: Int[Array, 'T n']
  memory: PyTree
  last_memory: PyTree
  last_observation: Shaped[Array, 'n ...']
  last_first: Bool[Array, ' n']


@runtime_checkable
class Learner(Protocol):
  """An algorithm for given spaces and lanes; all functions are pure.

  `acting` is the part of the state that acting needs: it is what an actor gets.
  Its leaves must not be changed in place while an actor holds them.
  """

  @property
  def unroll_length(self) -> int:
    """T, steps per lane and iteration."""
    ...

  def init(self, key: Key[Array, '']) -> PyTree:
    """The state before the first iteration."""
    ...

  def params(self, state: PyTree) -> PyTree:
    """The parameters of the networks, for overviews."""
    ...

  def acting(self, state: PyTree) -> PyTree:
    """The part of a state that acting needs."""
    ...

  def initial_memory(self, num_lanes: int) -> PyTree:
    """The memory of lanes at the start of an episode; () for none."""
    ...

  def act(
    self,
    acting: PyTree,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> Action:
    """Actions for training, exploring; forgets the memory where `first`."""
    ...

  def final(
    self, acting: PyTree, memory: PyTree, observation: Shaped[Array, 'n ...']
  ) -> PyTree:
    """Data that learning needs of a truncated episode's last observation.

    Args:
      acting: of a state.
      memory: after the observation before.
      observation: in which no action is taken any more.

    Returns:
      Leaves [n, ...]; () if truncated steps are dealt with without.
    """
    ...

  def greedy(
    self,
    acting: PyTree,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> Action:
    """Actions for evaluation."""
    ...

  def learn(
    self, state: PyTree, trajectory: Trajectory, key: Key[Array, '']
  ) -> tuple[PyTree, dict[str, Array]]:
    """Learns from T steps of n lanes.

    Args:
      state: before.
      trajectory: the next T steps of the same lanes.
      key: for this iteration only.

    Returns:
      The state after, and metrics, finite scalars by name.
    """
    ...


@runtime_checkable
class Algorithm(Protocol):
  """The settings of an algorithm; hashable, free of spaces."""

  def learner(
    self,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    num_lanes: int,
  ) -> Learner:
    """Fits the algorithm to a task.

    Raises:
      ValueError: if it cannot work on these spaces or this number of lanes.
    """
    ...
