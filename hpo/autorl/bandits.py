"""Bandits that choose a setting while an agent learns.

A bandit is pure: `select` names an arm, the agent learns for a while with it,
and `update` is told the score. Scores drift as the agent improves, so only the
newest ones count. They are standardised by their own mean and deviation, which
makes the exploration bonus independent of the scale of rewards.

References: Badia et al. (2020), arXiv:2003.13350 (a sliding window over pulls);
  Raileanu et al. (2020), arXiv:2006.12862 (windows per arm, UCB-DrAC).
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from rl import ranges
from rl.ppo import losses

__all__ = ['ArmWindows', 'Bandit', 'SlidingWindow', 'State']


@flax.struct.dataclass
class State:
  """Scores that are kept, and numbers of pulls.

  Attributes:
    arm: of each kept score, int32; -1 where there is none yet.
    score: kept ones, float32, of the shape of `arm`.
    pulls: of each arm so far, int32 [k].
  """

  # Not annotated by shape: transformations put other things into the leaves.
  arm: Any
  score: Any
  pulls: Any


@runtime_checkable
class Bandit(Protocol):
  """Chooses one of `num_arms` arms; hashable settings."""

  num_arms: int

  def init(self) -> PyTree:
    """The state before the first pull."""
    ...

  def select(self, state: PyTree) -> Int[Array, '']:
    """The arm to pull next; the first of equals."""
    ...

  def update(
    self, state: PyTree, arm: Int[Array, ''], score: Float[Array, '']
  ) -> PyTree:
    """The state after a pull; a score that is not finite counts as the worst."""
    ...


@dataclasses.dataclass(frozen=True)
class _Windowed:
  """The common part of bandits with windows.

  Attributes:
    num_arms: k.
    window: scores that are kept, over all arms or of each.
    bonus: c, weight of exploration, in deviations of the scores.

  Raises:
    ValueError: if a number is out of range.
  """

  num_arms: int
  window: int = 50
  bonus: float = 1.0

  def __post_init__(self) -> None:
    ranges.check_counts(num_arms=self.num_arms, window=self.window)
    ranges.check_not_negative(bonus=self.bonus)

  def means(self, state: State) -> Float[Array, ' k']:
    """Mean of the standardised scores of each arm; 0 of an arm without any."""
    kept = (state.arm >= 0).astype(jnp.float32)
    scores = losses.standardize(state.score, kept)
    of_arm = (state.arm == self._column(state)).astype(jnp.float32)
    axes = tuple(range(1, of_arm.ndim))
    total = jnp.sum(scores * of_arm, axes)
    return total / jnp.maximum(jnp.sum(of_arm, axes), 1)

  def _column(self, state: State) -> Int[Array, ' k ...']:
    return jnp.arange(self.num_arms).reshape(-1, *[1] * state.arm.ndim)

  def select(self, state: State) -> Int[Array, '']:
    """See `Bandit`: the largest upper bound; arms without a score come first."""
    return jnp.argmax(self.bounds(state)).astype(jnp.int32)

  def bounds(self, state: State) -> Float[Array, ' k']:
    """Upper bounds of the arms."""
    raise NotImplementedError


def _mended(state: State, score: Float[Array, '']) -> Float[Array, '']:
  """The score, or the worst that is kept in the place of one not finite."""
  worst = jnp.min(jnp.where(state.arm >= 0, state.score, jnp.inf))
  worst = jnp.where(jnp.isfinite(worst), worst, 0)
  return jnp.where(jnp.isfinite(score), score, worst).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class SlidingWindow(_Windowed):
  """mean + c sqrt(ln min(t, W) / N), over the last W pulls of all arms.

  N counts the pulls of the arm among these. An arm that has left the window is
  tried again.

  Attributes: `num_arms`, `window` (W) and `bonus` (c).
  """

  def init(self) -> State:
    """See `Bandit`."""
    return State(
      jnp.full(self.window, -1, jnp.int32),
      jnp.zeros(self.window),
      jnp.zeros(self.num_arms, jnp.int32),
    )

  def bounds(self, state: State) -> Float[Array, ' k']:
    """Upper bounds of the arms; infinite for arms outside of the window."""
    count = jnp.sum(state.arm == self._column(state), 1)
    time = jnp.maximum(jnp.sum(count), 1)
    width = jnp.sqrt(jnp.log(time) / jnp.maximum(count, 1))
    found = self.means(state) + self.bonus * width
    return jnp.where(count > 0, found, jnp.inf)

  def update(
    self, state: State, arm: Int[Array, ''], score: Float[Array, '']
  ) -> State:
    """See `Bandit`."""
    place = jnp.sum(state.pulls) % self.window
    return State(
      state.arm.at[place].set(arm),
      state.score.at[place].set(_mended(state, score)),
      state.pulls.at[arm].add(1),
    )


@dataclasses.dataclass(frozen=True)
class ArmWindows(_Windowed):
  """mean + c sqrt(ln t / N), the mean over the last W pulls of each arm.

  N counts all pulls of the arm and t those of all arms, both from 1 as
  published. The published c is 0.1 on returns as they are; here they are
  standardised.

  Attributes: `num_arms`, `window` (W, published: 10) and `bonus` (c).
  """

  window: int = 10

  def init(self) -> State:
    """See `Bandit`."""
    shape = self.num_arms, self.window
    pulls = jnp.zeros(self.num_arms, jnp.int32)
    return State(jnp.full(shape, -1, jnp.int32), jnp.zeros(shape), pulls)

  def bounds(self, state: State) -> Float[Array, ' k']:
    """Upper bounds of the arms; infinite before the first pull."""
    count, time = 1 + state.pulls, 1 + jnp.sum(state.pulls)
    found = self.means(state) + self.bonus * jnp.sqrt(jnp.log(time) / count)
    return jnp.where(state.pulls > 0, found, jnp.inf)

  def update(
    self, state: State, arm: Int[Array, ''], score: Float[Array, '']
  ) -> State:
    """See `Bandit`."""
    place = arm, state.pulls[arm] % self.window
    return State(
      state.arm.at[place].set(arm),
      state.score.at[place].set(_mended(state, score)),
      state.pulls.at[arm].add(1),
    )
