"""Ask and tell: OptFormer as an optimiser in four lines.

optimizer = asking.Optimizer(model, studies.Problem(space, 'MINIMIZE'))
for _ in range(50):
[point] = optimizer.ask()
optimizer.tell(point, objective(**point))
print(optimizer.best)
"""

from collections.abc import Iterable, Mapping

import jax

from hpo import spaces, studies
from hpo.optformer import decoding, suggesting
from hpo.optformer import trained as trained_lib

__all__ = ['Optimizer']


class Optimizer:
  """Asks the model for points, and remembers what it is told.

  The same seed and the same calls give the same points, on one kind of device.

  Attributes:
    problem: what is optimised.
    trials: all that are finished, in the order in which they were told.
    running: points that were asked for and not told yet.

  Args:
    trained: the model, such as `trained.load(path)`.
    problem: what is optimised.
    policy: how points are chosen.
    seed: of all draws, 0..2**32-1.
    trials: that were made before, such as those of an interrupted run.
  """

  def __init__(
    self,
    trained: trained_lib.Trained,
    problem: studies.Problem,
    *,
    policy: suggesting.Policy = suggesting.Policy(),
    seed: int = 0,
    trials: Iterable[studies.Trial] = (),
  ) -> None:
    self.problem = problem
    self.trials = list(trials)
    self.running: list[dict[str, spaces.Value]] = []
    studies.Study.of(problem, self.trials)
    self._trained = trained
    self._policy = policy
    self._key = jax.random.key(seed)
    self._history: decoding.History | None = None

  def ask(self, count: int = 1) -> list[dict[str, spaces.Value]]:
    """Points to try next, at once if there are several.

    Args:
      count: of the points.
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

  def tell(
    self, point: Mapping[str, spaces.Value], value: float | None
  ) -> None:
    """Records a result.

    Args:
      point: that was asked for, or any other.
      value: of the objective; None if the point turned out to be infeasible.

    Raises:
      ValueError: the point is not legal, or the value is not finite.
    """
    status = 'INFEASIBLE' if value is None else 'COMPLETED'
    trial = studies.Trial(dict(point), value, status)
    studies.Study.of(self.problem, [trial])
    if trial.parameters in self.running:
      self.running.remove(trial.parameters)
    self.trials.append(trial)

  @property
  def best(self) -> studies.Trial | None:
    """The best trial so far; None before any result."""
    known = [trial for trial in self.trials if trial.value is not None]
    key = lambda trial: self.problem.sign * trial.value
    return max(known, key=key, default=None)
