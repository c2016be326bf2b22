"""The two protocols: one environment, and many lanes of it.

An `Environment` is what a task's author writes: physics, reward and what ends
an episode. A `VectorEnvironment` is what learners and evaluators use: many
lanes stepped at once, with time limits, resets and statistics. `lanes.Lanes`
turns the first into the second; simulators implement the second themselves.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from rl.envs import spaces

__all__ = ['Environment', 'Step', 'Transition', 'VectorEnvironment']


class Step(NamedTuple):
  """The result of one step of one environment.

  Attributes:
    observation: of the state after the step.
    reward: float32 scalar.
    terminated: boolean scalar; whether the task itself ended here.
    info: extra values, the same names and shapes at every step.
  """

  observation: Shaped[Array, '...']
  reward: Float[Array, '']
  terminated: Bool[Array, '']
  info: dict[str, Any]


class Transition(NamedTuple):
  """The result of one step of n lanes; all leaves have an axis of lanes.

  Attributes:
    observation: of the state after the step, [n, ...]; where an episode ended
      and the lanes reset themselves, of the new episode's first state (or, if
      that takes them the next step, which then is not `valid`, of the last).
    reward: float32 [n].
    terminated: bool [n]; the task ended: the value after it is zero.
    truncated: bool [n]; only the time was up: the value after it is that of
      `final_observation`. Never true where `terminated` is.
    final_observation: observation that the step itself led to, [n, ...]; equals
      `observation` where no episode ended.
    valid: bool [n]; False where the lane did not act: a simulator that spends
      a step on resetting, or a finished lane that waits. Such steps belong in
      no estimate; their reward is zero.
    info: extra values, [n, ...] each.
  """

  observation: Shaped[Array, 'n ...']
  reward: Float[Array, ' n']
  terminated: Bool[Array, ' n']
  truncated: Bool[Array, ' n']
  final_observation: Shaped[Array, 'n ...']
  valid: Bool[Array, ' n']
  info: dict[str, Any]


@runtime_checkable
class Environment(Protocol):
  """One environment as pure functions; a hashable frozen dataclass.

  Neither function resets or counts time: that is the lanes' work.
  """

  @property
  def observation_space(self) -> spaces.Space:
    """Space of one observation."""
    ...

  @property
  def action_space(self) -> spaces.Space:
    """Space of one action."""
    ...

  @property
  def max_steps(self) -> int:
    """Steps after which lanes truncate an episode."""
    ...

  def reset(self, key: Key[Array, '']) -> tuple[PyTree, Shaped[Array, '...']]:
    """Draws a first state and its observation."""
    ...

  def step(
    self, state: PyTree, action: Shaped[Array, '...'], key: Key[Array, '']
  ) -> tuple[PyTree, Step]:
    """Advances by one step; the action is within its space."""
    ...


@runtime_checkable
class VectorEnvironment(Protocol):
  """Many lanes, stepped at once; the spaces are those of one lane.

  Where `pure` is False, reset and step run on the host, and the state is a
  token: pass on the newest one and no other. Every state has a field `stats`,
  a `lanes.EpisodeStats`.
  """

  @property
  def num_lanes(self) -> int:
    """Number of lanes, n."""
    ...

  @property
  def observation_space(self) -> spaces.Space:
    """Space of one observation."""
    ...

  @property
  def action_space(self) -> spaces.Space:
    """Space of one action."""
    ...

  @property
  def pure(self) -> bool:
    """Whether reset and step may be traced."""
    ...

  @property
  def resets_at_once(self) -> bool:
    """Whether the step that ends an episode shows the next one's first state.

    Otherwise the step after it does, and is not `valid`.
    """
    ...

  def reset(
    self, keys: Key[Array, ' n']
  ) -> tuple[PyTree, Shaped[Array, 'n ...']]:
    """Starts a new episode in every lane, each from its own key."""
    ...

  def step(
    self, state: PyTree, action: Shaped[Array | np.ndarray, 'n ...']
  ) -> tuple[PyTree, Transition]:
    """Advances every lane by one step."""
    ...

  def close(self) -> None:
    """Frees the resources of the lanes, which cannot be used afterwards."""
    ...
