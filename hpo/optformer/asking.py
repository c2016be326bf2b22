"""Ask and tell: OptFormer as an optimiser in four lines.

A loop with it, for the shipped model or any other:

  optimizer = asking.Optimizer(model, studies.Problem(space, 'MINIMIZE'))
  for _ in range(50):
    [point] = optimizer.ask()
    optimizer.tell(point, objective(**point))
  print(optimizer.best)
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from hpo import spaces, studies
from hpo.optformer import decoding, suggesting
from hpo.optformer import trained as trained_lib
from runtime import seeds

__all__ = ['Optimizer']


class Optimizer:
  """Asks the model for points, and remembers what it is told.

  The same seed and the same calls give the same points, on one kind of device.

  Attributes:
    problem: the objective and its space.
    trials: all that are finished, in the order in which they were told.
    running: points that were asked for and not told yet.

  Args:
    trained: the model, such as `trained.load(path)`.
    problem: the objective and its space.
    policy: how points are chosen; None: `suggesting.usual`.
    seed: of all draws, 0..2**32-1.
    trials: that were made before, such as those of an interrupted run; points
      of the pending ones count as running.

  Raises:
    ValueError: a trial is not legal, or the seed is out of range.
  """

  def __init__(
    self,
    trained: trained_lib.Trained,
    problem: studies.Problem,
    *,
    policy: suggesting.Policy | None = None,
    seed: int = 0,
    trials: Iterable[studies.Trial] = (),
  ) -> None:
    seeds.check(seed)
    self.problem = problem
    known = studies.Study.of(problem, trials).trials
    self.trials = [trial for trial in known if trial.status != 'PENDING']
    self.running: list[dict[str, spaces.Value]] = [
      dict(trial.parameters) for trial in known if trial.status == 'PENDING'
    ]
    self._trained = trained
    self._policy = policy
    self._key = jax.random.key(seed)
    self._history: decoding.History | None = None

  def ask(self, count: int = 1) -> list[dict[str, spaces.Value]]:
    """Points to try next.

    Args:
      count: number of points; they differ, so that they can run at once.
    """
    waiting = [studies.Trial(point, None, 'PENDING') for point in self.running]
    number = len(self.trials) + len(self.running)
    found = suggesting.suggest(
      self._trained,
      self.problem,
      [*self.trials, *waiting],
      jax.random.fold_in(self._key, number),
      count=count,
      policy=self._policy,
      history=self._history,
    )
    self._history = found.history
    self.running += found.points
    return found.points

  def tell(self, point: Mapping[str, Any], value: Any) -> None:
    """Records a result.

    Args:
      point: one that was asked for, or any other.
      value: of the objective, a number or a scalar of NumPy or JAX; None if the
        point turned out to be infeasible.

    Raises:
      ValueError: the point is not legal, or the value is not finite.
    """
    status = 'INFEASIBLE' if value is None else 'COMPLETED'
    told = studies.Trial(point, value, status)
    # In plain numbers, whatever the objective computes with.
    [trial] = studies.Study.of(self.problem, [told]).trials
    if trial.parameters in self.running:
      self.running.remove(trial.parameters)
    self.trials.append(trial)

  @property
  def best(self) -> studies.Trial | None:
    """The best trial so far; None before any result."""
    known = [trial for trial in self.trials if trial.value is not None]
    key = lambda trial: self.problem.sign * trial.value
    return max(known, key=key, default=None)
