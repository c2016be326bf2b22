"""Rollouts on Ray: many machines, sent seeds and theta, never perturbations.

A task is some rows of the population: where they start and their keys, beside
what regenerates the population and the statistics, which each machine gets once
a generation. The worker draws its members. Episodes come back one by one
and are put together here in their order, so that neither the number of workers
nor the order of arrival changes a bit.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, PyTree

from rl import normalizer as normalizer_lib
from rl import ranges
from rl.es import evaluator as evaluator_lib
from rl.es import population as population_lib
from rl.es import vector_evaluator
from runtime import optional
from runtime.devices import ray_cluster

__all__ = ['RayEvaluator']

Make = Callable[[], vector_evaluator.VectorEvaluator]


@dataclasses.dataclass(frozen=True)
class _Keys:
  """JAX keys do not pickle; attributes: their data, and how they are made."""

  data: np.ndarray
  impl: str


def _packed(tree: PyTree) -> PyTree:
  """The tree with NumPy arrays, to be sent."""
  pack = lambda x: (
    _Keys(np.asarray(jax.random.key_data(x)), str(jax.random.key_impl(x)))
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    else np.asarray(x)
  )
  return jax.tree.map(pack, tree)


def _unpacked(tree: PyTree) -> PyTree:
  """Undoes `_packed`."""
  return jax.tree.map(
    lambda x: (
      jax.random.wrap_key_data(x.data, impl=x.impl)
      if isinstance(x, _Keys)
      else x
    ),
    tree,
  )


class _Task(NamedTuple):
  """Attributes: first row, and its and the following rows' packed keys."""

  start: int
  keys: _Keys


class _Job(NamedTuple):
  """The task of a worker.

  Attributes:
    worker: its number.
    start: first row of its task; None: it only gives a sign of life.
    again: whether it replaces one that gave none.
    since: when it was sent, seconds.
  """

  worker: int
  start: int | None
  again: bool
  since: float


class _Worker:
  """Holds an evaluator where Ray has put it."""

  def __init__(self, make: Make) -> None:
    self._evaluator = make()

  def observation_shape(self) -> tuple[int, ...]:
    return self._evaluator.observation_shape

  def run(self, generation: PyTree, task: _Task) -> vector_evaluator.Rollouts:
    population, normalizer = _unpacked(generation)
    keys = _unpacked(task.keys)
    return self._evaluator.rollouts(
      population, keys, normalizer, start=task.start
    )


class RayEvaluator:
  """An `evaluator.Evaluator` whose workers are Ray actors.

  A worker that dies, or takes too long, loses the rows it was working on: all
  members of these rows are not `valid`. It is replaced, and all others
  count. A worker that cannot start, twice in a row, is left out until the next
  evaluation. An exception in a worker is no loss but an error here.

  Workers start at the first evaluation. Ray is started on this machine, or
  connected to the cluster at `--ray_address`, if it does not run in this process.

  Args:
    make: builds a worker's evaluator there; pickled by Ray.
    num_workers: number of actors.
    directions_per_task: the most directions that a lost worker loses.
    timeout: seconds after which a task's worker is given up, compilation of its
      first task included; None: never.
    cpus: of one worker, for Ray's scheduling.
    observation_shape: if it is known beforehand; None: a worker is asked.

  Raises:
    ValueError: if a number is not positive.
  """

  pure = False

  def __init__(
    self,
    make: Make,
    *,
    num_workers: int = 2,
    directions_per_task: int = 8,
    timeout: float | None = None,
    cpus: float = 1.0,
    observation_shape: tuple[int, ...] | None = None,
  ) -> None:
    self._make, self._num_workers = make, num_workers
    self._per_task, self._timeout = directions_per_task, timeout
    self._cpus = cpus
    ranges.check_counts(
      num_workers=num_workers, directions_per_task=directions_per_task
    )
    ranges.check_positive(timeout=timeout, cpus=cpus)
    self._workers: list[Any] = []
    self._started_ray = False
    self._shape = observation_shape

  @property
  def observation_shape(self) -> tuple[int, ...]:
    """See `evaluator.Evaluator`; asks a worker the first time."""
    if self._shape is None:
      ray = self._started()
      self._shape = tuple(ray.get(self._workers[0].observation_shape.remote()))
    return self._shape

  def evaluate(
    self,
    population: population_lib.Population,
    keys: Key[Array, ' keys'],
    normalizer: normalizer_lib.Statistics | None,
  ) -> evaluator_lib.Evaluation:
    """See `evaluator.Evaluator`.

    Raises:
      RuntimeError: if every task was lost.
      ValueError: of a worker, if the members do not fit its policy.
    """
    population_lib.check_rows(population, keys.shape[0])
    ray = self._started()
    generation, tasks = _packed((population, normalizer)), self._tasks(keys)
    parts, error = self._run(ray, ray.put(generation), tasks)
    if not parts:
      raise RuntimeError(
        f'all {self._num_workers} workers were lost with all they did'
      ) from error
    return vector_evaluator.summarized(*_assembled(tasks, parts))

  def _tasks(self, keys: Key[Array, ' keys']) -> list[_Task]:
    step = self._per_task
    return [
      _Task(start, _packed(keys[start : start + step]))
      for start in range(0, keys.shape[0], step)
    ]

  def _run(
    self, ray: Any, generation: Any, tasks: list[_Task]
  ) -> tuple[dict[int, vector_evaluator.Rollouts], Exception | None]:
    """The results by first row, and the reasons for missing ones."""
    waiting, error = deque(tasks), None
    parts: dict[int, vector_evaluator.Rollouts] = {}
    # Workers are asked for a sign of life first: starting one takes no task's
    # time, and one that died while idle costs nothing.
    running = dict(self._greeted(i) for i in range(len(self._workers)))
    while waiting or any(job.start is not None for job in running.values()):
      if not running:
        break
      reference = self._next(ray, running)
      job = running.pop(reference)
      try:
        found = ray.get(reference, timeout=0)
      except ray.exceptions.RayTaskError:
        raise
      except ray.exceptions.RayError as lost:
        error = lost
        ray.kill(self._workers[job.worker])
        self._workers[job.worker] = self._new_worker(ray)
        if job.start is not None or not job.again:
          again = job.start is None
          running.update([self._greeted(job.worker, again=again)])
        continue
      if job.start is not None:
        parts[job.start] = found
      if waiting:
        running.update([self._sent(job.worker, generation, waiting.popleft())])
    return parts, error

  def _greeted(self, worker: int, *, again: bool = False) -> tuple[Any, _Job]:
    reference = self._workers[worker].observation_shape.remote()
    return reference, _Job(worker, None, again, time.monotonic())

  def _sent(
    self, worker: int, generation: Any, task: _Task
  ) -> tuple[Any, _Job]:
    reference = self._workers[worker].run.remote(generation, task)
    return reference, _Job(worker, task.start, False, time.monotonic())

  def _next(self, ray: Any, running: dict[Any, _Job]) -> Any:
    """The finished tasks, or a task that took too long."""
    left, oldest = None, None
    if self._timeout is not None:
      tasks = {r: j for r, j in running.items() if j.start is not None}
      if tasks:
        oldest = min(tasks, key=lambda r: tasks[r].since)
        age = time.monotonic() - tasks[oldest].since
        left = max(0.0, self._timeout - age)
    done, _ = ray.wait(list(running), num_returns=1, timeout=left)
    return done[0] if done else oldest

  def _started(self) -> Any:
    """Ray, with all workers."""
    ray, started = ray_cluster.connect()
    self._started_ray = self._started_ray or started
    while len(self._workers) < self._num_workers:
      self._workers.append(self._new_worker(ray))
    return ray

  def _new_worker(self, ray: Any) -> Any:
    return ray.remote(_Worker).options(num_cpus=self._cpus).remote(self._make)

  def close(self) -> None:
    """Ends the workers, and Ray if it was started here."""
    if not self._workers:
      return
    ray = optional.load('ray', extra='ray')
    for worker in self._workers:
      ray.kill(worker)
    self._workers = []
    if self._started_ray:
      ray.shutdown()
      self._started_ray = False


def _assembled(
  tasks: list[_Task], parts: dict[int, vector_evaluator.Rollouts]
) -> tuple[vector_evaluator.Rollouts, Bool[np.ndarray, ' n']]:
  """All episodes in the order of rows, and which rows came back."""
  like = next(iter(parts.values()))

  def empty(task: _Task) -> vector_evaluator.Rollouts:
    size = len(task.keys.data)
    zeros = lambda x: np.zeros((*x.shape[:2], size, *x.shape[3:]), x.dtype)
    return jax.tree.map(zeros, like)

  found = [parts.get(t.start) or empty(t) for t in tasks]
  joined = jax.tree.map(lambda *x: np.concatenate(x, axis=2), *found)
  valid = [np.full(len(t.keys.data), t.start in parts) for t in tasks]
  return joined, np.concatenate(valid)
