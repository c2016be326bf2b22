"""Policies by evolution strategies, as rows of several systems show them."""

import functools

from papers import figures, study, training
from rl.es import policy_training

__all__ = ['curves', 'random_return']


# The figure of a row, of the metric `returns` of all arms.
curves = functools.partial(
  figures.of_arms,
  {'returns': 'mean return of the population'},
  spread='mean',
  xlabel='generation',
)


def random_return(trainer: policy_training.PolicyTrainer) -> study.Record:
  """The mean return of random actions, as `final`."""
  with training.opened(trainer, seed=0):  # It closes the environment.
    return {'final': trainer.random_returns(0)['center'].mean()}
