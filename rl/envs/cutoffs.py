"""Episodes that are cut where nothing good happens any more, for training."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int, Key, PyTree, Shaped

from rl import ranges
from rl.envs import host_vector, lanes, protocol

__all__ = ['CutOff', 'CutOffState']


class CutOffState(NamedTuple):
  """The state of all lanes.

  Attributes:
    env: of the lanes below.
    negatives: negative rewards in a row until now.
    waits: whether the episode was cut, and the simulator's own is not over.
    stats: episode statistics; a cut episode ends where it was cut.
  """

  env: PyTree
  negatives: Int[np.ndarray, ' n']
  waits: Bool[np.ndarray, ' n']
  stats: lanes.EpisodeStats


class CutOff:
  """Simulators whose episodes end early, by too many negative rewards in a row.

  The Attention Agent (arXiv:2003.08165) trains in CarRacing like this, where
  each step costs 0.1 and each new tile of the track pays more; it is evaluated
  without cuts. The step that brings one more than `most` is the last and
  counts. It truncates: the task itself goes on, and so does the value after it.

  Simulators that step together cannot be reset one by one. A lane that was cut
  waits until its simulator's own episode is over: its steps are not `valid`,
  its rewards 0. So a learner gains little. But an evaluator that resets all
  lanes together, such as that of an evolution strategy, continues as soon as
  the last lane is cut.

  Args:
    env: the lanes, on the host; the step after an end resets.
    most: number of negative rewards in a row that do not end the episode.

  Raises:
    ValueError: if `most` < 1, or the lanes reset themselves at once.
  """

  def __init__(self, env: protocol.VectorEnvironment, most: int = 20) -> None:
    ranges.check_counts(most=most)
    if env.pure or env.resets_at_once:
      raise ValueError(
        'env must be simulators whose resets take a step, got '
        f'{env.pure=} {env.resets_at_once=} of {env}'
      )
    self.env, self.most = env, most
    self.num_lanes = env.num_lanes
    self.observation_space = env.observation_space
    self.action_space = env.action_space
    self.pure = False
    self.resets_at_once = False

  def reset(
    self, keys: Key[Array, ' n']
  ) -> tuple[CutOffState, Shaped[np.ndarray, 'n ...']]:
    """Resets the lanes below."""
    state, observation = self.env.reset(keys)
    none = np.zeros(self.num_lanes, np.int32)
    no = np.zeros(self.num_lanes, bool)
    return CutOffState(state, none, no, state.stats), observation

  def step(
    self, state: CutOffState, action: Shaped[Array | np.ndarray, 'n ...']
  ) -> tuple[CutOffState, protocol.Transition]:
    """Steps the lanes below, those that wait too."""
    env, seen = self.env.step(state.env, action)
    valid = seen.valid & ~state.waits
    reward = np.where(valid, seen.reward, np.float32(0))
    terminated, late = seen.terminated & valid, seen.truncated & valid
    negatives = np.where(reward < 0, state.negatives + 1, 0).astype(np.int32)
    cut = (negatives > self.most) & ~terminated & ~late
    ended = terminated | late | cut
    stats = host_vector.count_steps(state.stats, reward, valid, ended)
    # The step that is not valid below shows the next episode.
    waits = (state.waits | cut) & seen.valid
    negatives = np.where(ended, np.int32(0), negatives)
    seen = seen._replace(
      reward=reward, terminated=terminated, truncated=late | cut, valid=valid
    )
    return CutOffState(env, negatives, waits, stats), seen

  def close(self) -> None:
    """Closes the lanes below."""
    self.env.close()
