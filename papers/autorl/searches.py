"""OptFormer, a Gaussian process and random search tune PPO."""

import dataclasses
import time
from typing import Any

import numpy as np

from hpo.autorl import accounts, asking
from hpo.autorl.search import gp, learned, simple, training
from hpo.optformer import suggesting
from papers import claims, figures, rows, study
from papers import training as papers_training
from papers.autorl import problems
from papers.optformer import methods

_ITERATIONS, _UPDATES = 8, 5  # 40,960 environment steps of each trial.
_TEST = (1000, 1001, 1002, 1003, 1004)


@dataclasses.dataclass(frozen=True)
class Shipped:
  """OptFormer with the model of the package."""

  # Has `load`.
  model: methods.Model = dataclasses.field(default_factory=methods.Model)
  policy: suggesting.Policy = suggesting.Policy()  # How points are chosen.

  def made(self) -> learned.OptFormer:
    """The method with its model."""
    return learned.OptFormer(
      self.model.load, self.policy, 'PPO that swings a pole up', 'return'
    )


@dataclasses.dataclass(frozen=True)
class Setting:
  """A search."""

  method: Any  # Chooses the trials; or `Shipped`.
  trials: int = 20  # Number of trials.

  @property
  def steps(self) -> int:
    """Environment steps of all trials."""
    inner = problems.swing_up(_ITERATIONS)
    return inner.steps * _UPDATES * self.trials


class _Timed:
  """A method whose proposals are timed."""

  def __init__(self, method: asking.Method) -> None:
    self._method = method
    self.seconds: list[float] = []

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`."""
    begin = time.process_time()
    found = self._method.propose(history, count)
    self.seconds.append(time.process_time() - begin)
    return found


def run(setting: Setting, *, seed: int) -> study.Record:
  """Tunes with one seed, and trains the best settings with five others."""
  is_shipped = isinstance(setting.method, Shipped)
  method = setting.method.made() if is_shipped else setting.method
  timed = _Timed(method)
  trainer = training.SearchTrainer(
    problems.swing_up(_ITERATIONS),
    timed,
    problems.SPACE,
    jobs=setting.trials,
    updates=_UPDATES,
    seeds=accounts.Seeds((0,), _TEST),
  )
  driven, tested = papers_training.judged(
    trainer,
    seed=seed,
    steps=setting.trials,
    records=setting.trials,
    judges=['test'],
  )
  return {
    'test': tested['eval/test/score'],
    'best': driven.column('train/best_score'),
    'seconds': timed.seconds,
  }


_ARMS = {
  'random': Setting(simple.Random()),
  'GP, EI': Setting(gp.GP()),
  'OptFormer': Setting(Shipped()),
}


def _explain(results: study.Results) -> str:
  times = results.told('.2g', 'seconds', mean=np.median)
  steps = results.study.arms['random'].steps
  return (
    f'{problems.TEXT} 20 trials of 40,960 steps, one after the other: {steps:,} '
    'steps of tuning. The best settings are trained anew with five other seeds; '
    'listed are their mean returns in 64 episodes each. Median CPU seconds of a '
    f'suggestion: {times}.'
  )


ROWS = (
  rows.Row(
    id='tuning-ppo',
    claim='OptFormer tunes PPO at least as well as random search.',
    study=study.Study(run, _ARMS, seeds=10),
    ours=rows.numbers('test'),
    trend='OptFormer not below random search by more than 10 (of 500)',
    claims=(claims.above('OptFormer', 'random', margin=-10.0),),
    figure=figures.of_arms(
      {'best': 'best score so far'}, spread='quartiles', xlabel='trial'
    ),
    explain=_explain,
    headline='OptFormer',
  ),
)
