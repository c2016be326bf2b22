"""Sources of the training loop's batches: nothing, or simulators."""

import concurrent.futures
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from rl import learner as learner_lib
from rl import rollout

__all__ = ['Actor', 'NoBatches', 'time_major']


class NoBatches:
  """Batches for steps that need none."""

  def __next__(self) -> dict[str, Any]:
    """Nothing."""
    return {}

  def get_state(self) -> dict[str, Any]:
    """Nothing."""
    return {}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Does nothing."""


class Actor:
  """Trajectories of simulators, as batches of the training loop.

  `observe` gives it the newest parameters before each batch is drawn. Unless
  pipelined, the batch is then made with them. Pipelined, the batch of
  iteration k was made with the parameters of k - 1, in a thread of its own,
  while the learner was busy with that iteration; the first two are made with
  the first parameters. Which parameters act does not depend on timing.

  A resumed run starts new episodes, from keys of its own: simulators cannot be
  saved. It has the statistics of the uninterrupted run, not its numbers.

  Args:
    actor: acts.
    key: of lanes and actions.
    pipelined: see above.
  """

  def __init__(
    self, actor: rollout.HostActor, *, key: Key[Array, ''], pipelined: bool
  ) -> None:
    self._actor = actor
    self._key = key
    self._ahead = 1 if pipelined else 0
    self._made = 0
    self._asked = 0
    self._resumed = 0
    self._stage: rollout.Stage | None = None
    self._waiting: deque[concurrent.futures.Future] = deque()
    self._pool = concurrent.futures.ThreadPoolExecutor(1, 'actor')

  def observe(self, acting: PyTree) -> None:
    """Takes the newest parameters, and begins the next trajectory.

    Args:
      acting: `Learner.acting`, not changed by anybody afterwards.
    """
    while self._asked <= self._made + self._ahead:
      job = self._pool.submit(self._collect, acting, self._asked)
      self._waiting.append(job)
      self._asked += 1

  def _collect(self, acting: PyTree, index: int) -> learner_lib.Trajectory:
    act_key, lanes_key = jax.random.split(jax.random.fold_in(self._key, index))
    if self._stage is None:
      self._stage = self._actor.start(
        jax.random.fold_in(lanes_key, self._resumed)
      )
    self._stage, trajectory = self._actor.collect(acting, self._stage, act_key)
    return trajectory

  def __next__(self) -> dict[str, Any]:
    """The next trajectory, with lanes as the leading axis.

    Raises:
      RuntimeError: if `observe` was not called since the last one.
    """
    if not self._waiting:
      raise RuntimeError('observe must be called before each batch is drawn')
    trajectory = self._waiting.popleft().result()
    self._made += 1
    return _lanes_major(trajectory)

  def get_state(self) -> dict[str, Any]:
    """Number of trajectories drawn so far."""
    return {'made': self._made, 'resumed': self._resumed}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes on after so many, with new episodes."""
    self._made = self._asked = int(state['made'])
    self._resumed = int(state['resumed']) + 1

  def close(self) -> None:
    """Waits for the trajectory in work, and begins no other."""
    self._pool.shutdown(cancel_futures=True)


_NO_TIME = ('memory', 'last_memory', 'last_observation', 'last_first')


def _lanes_major(trajectory: learner_lib.Trajectory) -> dict[str, Any]:
  """The loop splits batches over devices along their leading axis."""
  return {
    name: value
    if name in _NO_TIME
    else jax.tree.map(lambda x: np.swapaxes(x, 0, 1), value)
    for name, value in trajectory._asdict().items()
  }


def time_major(batch: Mapping[str, Any]) -> learner_lib.Trajectory:
  """The trajectory in a batch of `Actor`; may be traced.

  Args:
    batch: by the names of `learner.Trajectory`, lanes leading.

  Returns:
    The trajectory, time leading.
  """
  return learner_lib.Trajectory(
    **{
      name: value
      if name in _NO_TIME
      else jax.tree.map(lambda x: x.swapaxes(0, 1), value)
      for name, value in batch.items()
    }
  )
