"""Policies by evolution strategies, as rows of several systems show them."""

from typing import Any

from papers import figures, study, training
from rl.es import policy_training

__all__ = ['curves', 'random_return']


def curves(results: study.Results, **axes: Any) -> figures.Lines:
  """The metric `returns` of all arms; options as those of `figures.Lines`."""
  return figures.by_arm(
    results,
    'returns',
    spread='mean',
    xlabel='generation',
    ylabel='mean return of the population',
    **axes,
  )


def random_return(trainer: policy_training.PolicyTrainer) -> study.Record:
  """The mean return of random actions, as `final`."""
  with training.opened(trainer, seed=0):  # It closes the environment.
    return {'final': trainer.random_returns(0)['center'].mean()}
