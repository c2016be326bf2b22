"""Runs of optimisers on tasks: a seed of a study is the number of a task."""

import dataclasses
import time

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from hpo import studies
from papers import study as study_lib
from papers.optformer import methods, tasks
from rl import ranges

__all__ = ['Setting', 'log_regrets', 'run']

_LEAST_REGRET = 1e-4  # What is nearer to the best known point counts as that.


@dataclasses.dataclass(frozen=True)
class Setting:
  """One method on the tasks of one source.

  Raises:
    ValueError: nothing is left to choose.
  """

  method: methods.Method  # Chooses points.
  source: tasks.Source = tasks.Bbob()  # Of the tasks.
  trials: int = 40  # Of a run, the first ones included.
  starts: int = 5  # Trials at uniform points, the same for all methods.
  # Runs of each task, from other first points; records are means.
  repeats: int = 1

  def __post_init__(self) -> None:
    ranges.check_counts(repeats=self.repeats)
    ranges.check_counts(least=0, starts=self.starts)
    if self.trials <= self.starts:
      raise ValueError(
        'there must be more trials than first ones, '
        f'got trials={self.trials} starts={self.starts}'
      )


def run(
  setting: Setting, *, seed: int, at: str | None = None
) -> study_lib.Record:
  """Optimises one task.

  Args:
    setting: what to run.
    seed: number of the task.
    at: a table that takes the place of those of the source; the seed is then that
      of the run.

  Returns:
    The best scores so far [trials], the last one, the logarithm to base 10 of its
    regret, the mean score after the first trials, and the CPU seconds of a
    suggestion, in which compiling counts.
  """
  source = setting.source
  if at is not None:
    source = dataclasses.replace(source, names=(at,))
  task = source.task(seed)
  found = [_run(setting, task, (seed, r)) for r in range(setting.repeats)]
  best = np.mean([scores for scores, _ in found], axis=0)
  return {
    'best': best,
    'final': best[-1],
    'log_regret': log_regrets(best[-1]),
    'mean': best[setting.starts :].mean(),
    'seconds': np.mean([seconds for _, seconds in found]),
  }


def log_regrets(scores: npt.ArrayLike) -> Float[np.ndarray, '...']:
  """Logarithms to base 10 of what scores lack to 1, at least of 1e-4."""
  return np.log10(np.maximum(1 - np.asarray(scores), _LEAST_REGRET))


def _run(
  setting: Setting, task: tasks.Task, seeds: tuple[int, int]
) -> tuple[np.ndarray, float]:
  """The best scores so far, and CPU seconds of a suggestion."""
  space, count = task.problem.space, setting.starts
  rng = np.random.default_rng((*seeds, 0))
  codes = np.zeros((setting.trials, len(space)))
  codes[:count] = space.sample(rng, count)
  if task.starts:
    codes[:count] = task.starts[seeds[1] % len(task.starts)][:count]
  values = [task.observe(number, codes[number]) for number in range(count)]
  seed = int(rng.integers(2**31))
  choose = setting.method.start(task.problem, seed, setting.trials)
  spent = 0.0
  for number in range(count, setting.trials):
    study = studies.Study(
      task.problem,
      codes[:number],
      np.array(values, np.float64),
      np.zeros(number, np.int8),
    )
    begin = time.process_time()
    codes[number] = task.snap(choose(study))
    spent += time.process_time() - begin
    values.append(task.observe(number, codes[number]))
  return task.best_scores(codes), spent / (setting.trials - count)
