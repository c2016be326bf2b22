"""The replay of an agent: a ring of steps per lane, and their priorities.

Every observation is stored once and as it is; windows of n steps are put
together when they are sampled. Priorities are zero for what must not be
sampled, so one tree says both what may be and how often.

A part of the learner's state: pure, so a checkpoint holds it and a resumed run
draws what the uninterrupted one draws. Donate it: inserting is then in place.

References: Schaul et al. (2015), arXiv:1511.05952; Horgan et al. (2018),
  arXiv:1803.00933.
"""

import dataclasses
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from rl import learner as learner_lib
from rl import ranges
from rl.envs import spaces
from rl.replay import sum_tree, windows

__all__ = ['Batch', 'Replay', 'ReplayState', 'Steps', 'importance_weights']

# Least priority: perfectly learnt steps must not vanish for ever.
_SMALLEST = 1e-6


class Steps(NamedTuple):
  """Rows of n lanes; as in `learner.Trajectory`.

  Attributes:
    observation: before the action, [T, n, ...].
    action: [T, n, ...].
    reward: float32 [T, n].
    terminated: bool [T, n].
    truncated: bool [T, n].
    valid: bool [T, n].
  """

  observation: Shaped[Array, 'T n ...']
  action: Shaped[Array, 'T n ...']
  reward: Float[Array, 'T n']
  terminated: Bool[Array, 'T n']
  truncated: Bool[Array, 'T n']
  valid: Bool[Array, 'T n']


class Batch(NamedTuple):
  """b sampled steps with their windows.

  Attributes:
    observation: [b, ...].
    action: [b, ...].
    reward: discounted n-step sum, float32 [b].
    discount: of the value of `next_observation`, float32 [b].
    next_observation: at the window's end, [b, ...].
    index: of the slots, int32 [b].
    probability: with which each was drawn, float32 [b].
  """

  observation: Shaped[Array, 'b ...']
  action: Shaped[Array, 'b ...']
  reward: Float[Array, ' b']
  discount: Float[Array, ' b']
  next_observation: Shaped[Array, 'b ...']
  index: Int[Array, ' b']
  probability: Float[Array, ' b']


@flax.struct.dataclass
class ReplayState:
  """All that changes.

  Attributes:
    steps: `Steps` of `length` rows; row t of a lane is in slot t mod length.
    tree: over slots, row by row, priority^exponent; 0: not to be sampled.
    inserted: rows so far, int32.
    size: steps that may be sampled, int32.
    peak: the largest priority given so far, at least 1, float32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  steps: Any
  tree: Any
  inserted: Any
  size: Any
  peak: Any


@dataclasses.dataclass(frozen=True)
class Replay:
  """Settings of a replay, and what can be done with one.

  Attributes:
    length: rows per lane; a multiple of `unroll_length`.
    num_lanes: n.
    unroll_length: T, rows per insertion.
    n_step: longest window.
    discount: per step.
    exponent: a step is drawn in proportion to priority^exponent; 0: uniformly.
    initial_priority: of new steps; None: the largest given so far.

  Raises:
    ValueError: if a number is out of range, or the rows are too few.
  """

  length: int
  num_lanes: int
  unroll_length: int
  n_step: int = 1
  discount: ranges.Real = 0.99
  exponent: float = 0.0
  initial_priority: float | None = None

  def __post_init__(self) -> None:
    ranges.check_counts(
      length=self.length,
      num_lanes=self.num_lanes,
      unroll_length=self.unroll_length,
      n_step=self.n_step,
    )
    ranges.check_shares(discount=self.discount)
    ranges.check_not_negative(exponent=self.exponent)
    ranges.check_positive(initial_priority=self.initial_priority)
    if self.length % self.unroll_length:
      raise ValueError(
        'length must be a multiple of unroll_length, got '
        f'{self.length=} {self.unroll_length=}'
      )
    if self.length < self.unroll_length + self.n_step:
      raise ValueError(
        'length must be at least unroll_length + n_step, got '
        f'{self.length=} {self.unroll_length=} {self.n_step=}'
      )

  def init(
    self, observation_space: spaces.Space, action_space: spaces.Space
  ) -> ReplayState:
    """Nothing yet.

    Args:
      observation_space: of one lane.
      action_space: of one lane.
    """
    rows = (self.length, self.num_lanes)
    # Each its own buffer: one cannot be donated twice.
    no = lambda: jnp.zeros(rows, bool)
    none = lambda: jnp.zeros((), jnp.int32)
    steps = Steps(
      jnp.zeros((*rows, *observation_space.shape), observation_space.dtype),
      jnp.zeros((*rows, *action_space.shape), action_space.dtype),
      jnp.zeros(rows),
      no(),
      no(),
      no(),
    )
    tree = sum_tree.empty(self.length * self.num_lanes)
    return ReplayState(steps, tree, none(), none(), jnp.ones(()))

  def insert(
    self, state: ReplayState, trajectory: learner_lib.Trajectory
  ) -> ReplayState:
    """Writes the next rows over the oldest ones.

    Args:
      state: before.
      trajectory: T rows; where it begins an episode that nothing ended, as
        after a restart of the simulators, the row before counts as truncated.

    Returns:
      The state after; steps whose windows are complete now can be sampled.

    Raises:
      ValueError: if there are not `unroll_length` rows of `num_lanes` lanes.
    """
    shape = (self.unroll_length, self.num_lanes)
    if trajectory.reward.shape != shape:
      raise ValueError(
        f'a trajectory must have the rows and lanes {shape}, got reward of '
        f'shape {trajectory.reward.shape}'
      )
    start = state.inserted % self.length
    old = state.steps
    before = (start - 1) % self.length
    cut = trajectory.first[0] & ~old.terminated[before]
    old = old._replace(truncated=old.truncated.at[before].max(cut))
    new = Steps(*(getattr(trajectory, name) for name in Steps._fields))
    steps = jax.tree.map(
      lambda into, rows: jax.lax.dynamic_update_slice_in_dim(
        into, rows.astype(into.dtype), start, 0
      ),
      old,
      new,
    )
    return self._judged(state.replace(steps=steps))

  def _judged(self, state: ReplayState) -> ReplayState:
    """Sets the priorities of the new rows and of those that waited for them."""
    # Rows before these cannot have changed.
    ages = jnp.arange(-self.n_step, self.unroll_length)
    rows = (state.inserted + ages) % self.length
    terminated, truncated, valid = (x[rows] for x in state.steps[3:])
    whole = windows.complete(terminated | truncated, n_step=self.n_step)
    exists = (state.inserted + ages >= 0)[:, None]
    may = valid & ~truncated & whole & exists
    index = rows[:, None] * self.num_lanes + jnp.arange(self.num_lanes)
    before = sum_tree.priorities(state.tree, index)
    kept = jnp.where((ages < 0)[:, None], before, 0)
    given = self.initial_priority
    first = state.peak if given is None else jnp.float32(given)
    value = jnp.where(kept > 0, kept, first**self.exponent)
    value = jnp.where(may, value, 0)
    change = jnp.sum(value > 0) - jnp.sum(before > 0)
    return state.replace(
      tree=sum_tree.write(state.tree, index.ravel(), value.ravel()),
      inserted=state.inserted + self.unroll_length,
      size=state.size + change.astype(jnp.int32),
    )

  def sample(
    self, state: ReplayState, key: Key[Array, ''], batch_size: int
  ) -> Batch:
    """Draws steps, one from each of `batch_size` equal shares of the sum.

    Args:
      state: with at least one step that may be sampled.
      key: for this draw.
      batch_size: b; steps may repeat.

    Returns:
      The steps and their n-step windows.
    """
    total = sum_tree.total(state.tree)
    shares = jnp.arange(batch_size) + jax.random.uniform(key, (batch_size,))
    index = sum_tree.find(state.tree, shares / batch_size * total)
    row, lane = index // self.num_lanes, index % self.num_lanes
    rows = (row[:, None] + jnp.arange(self.n_step)) % self.length
    steps = state.steps
    window = windows.n_step(
      *(x[rows, lane[:, None]] for x in steps[2:5]), discount=self.discount
    )
    end = (row + window.steps) % self.length
    return Batch(
      steps.observation[row, lane],
      steps.action[row, lane],
      window.reward,
      window.discount,
      steps.observation[end, lane],
      index,
      sum_tree.priorities(state.tree, index) / total,
    )

  def update(
    self,
    state: ReplayState,
    index: Int[Array, ' b'],
    priority: Float[Array, ' b'],
  ) -> ReplayState:
    """Gives sampled steps new priorities; does nothing where uniform.

    Args:
      state: before; nothing was inserted since the steps were sampled.
      index: `Batch.index`.
      priority: not negative; below 1e-6 counts as 1e-6. Where an index
        repeats, the largest counts.

    Returns:
      The state after.
    """
    if self.exponent == 0:
      return state
    priority = jnp.maximum(priority, _SMALLEST)
    return state.replace(
      tree=sum_tree.write(state.tree, index, priority**self.exponent),
      peak=jnp.maximum(state.peak, priority.max()),
    )


def importance_weights(
  probability: Float[Array, ' b'],
  size: Int[Array, ''],
  exponent: Float[Array, ''] | float,
) -> Float[Array, ' b']:
  """(N P)^-beta.

  With beta = 1 the weighted mean over a batch is an unbiased estimate of the
  mean over the replay. Learners divide by the largest of the batch.

  Args:
    probability: P, with which each was drawn.
    size: N, how many can be drawn.
    exponent: beta.

  Returns:
    Positive weights.

  Reference: arXiv:1511.05952, section 3.4.
  """
  return (size * probability) ** -exponent
