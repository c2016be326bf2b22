"""Runs of models that learn, as several tables compare them."""

import time
from collections.abc import Callable

import numpy as np

from papers import figures, study
from papers import training as papers_training
from papers.performer import proteins
from performer.models import classifier, transformer
from runtime.record import metrics

__all__ = ['JUDGED', 'curves', 'lost', 'run']

JUDGED = 'valid'  # The split that curves are of.


def run(setting: proteins.Setting, *, seed: int) -> study.Record:
  """Trains, and judges the model at every record.

  A run whose loss is not finite ends there. Accuracy 0 and the loss of a
  uniform guess stand for it, so that it counts as worse than others. The seed is
  of parameters, data and random matrices.

  Returns:
    Curves on the validation split, `accuracy` and `loss` in nats; the training
    loss; `finite`, 1 or 0; and `seconds` per step with its share of judging.
  """
  count, start = setting.steps // setting.every, time.monotonic()
  try:
    driven = papers_training.driven(
      proteins.trainer(setting),
      seed=seed,
      steps=setting.steps,
      records=count,
      judges=(JUDGED,),
    )
  except metrics.NonFiniteError:
    guess = np.full(count, np.log(_choices(setting.model)))
    found = {'accuracy': np.zeros(count), 'loss': guess, 'training': guess}
    return found | {'finite': 0.0, 'seconds': np.nan}
  return {
    name: driven.column(f'eval/{JUDGED}/{name}')
    for name in ('accuracy', 'loss')
  } | {
    'training': driven.column('train/loss'),
    'finite': 1.0,
    'seconds': (time.monotonic() - start) / setting.steps,
  }


def _choices(model: transformer.Transformer) -> int:
  """What a target may be: a class or a token."""
  if isinstance(model, classifier.Classifier):
    return model.num_classes
  return model.vocab_size


def curves(
  metric: str, ylabel: str
) -> Callable[[study.Results], list[figures.Lines]]:
  """The figure of a metric of all arms over the steps of the records."""
  return figures.of_arms(
    {metric: ylabel}, proteins.steps_of, spread='mean', xlabel='step'
  )


def lost(results: study.Results) -> dict[str, int]:
  """Number of seeds whose run was not finite, by arm that has some."""
  counts = {
    arm: int((1 - results(arm, 'finite')).sum()) for arm in results.arms
  }
  return {arm: count for arm, count in counts.items() if count}
