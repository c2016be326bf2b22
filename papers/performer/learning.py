"""Runs of models that learn, as several tables compare them."""

import time
import warnings
from typing import Any

import numpy as np

from papers import study
from papers import training as papers_training
from papers.performer import proteins
from performer import attention
from performer.models import classifier, transformer
from runtime import loop
from runtime.record import metrics

__all__ = ['JUDGED', 'arms', 'favor', 'run', 'steps_of']

JUDGED = 'valid'  # The split that curves are of.


def run(setting: proteins.Setting, *, seed: int) -> study.Record:
  """Trains, and judges the model at every record.

  A run whose loss is not finite ends there. Accuracy 0 and the loss of a
  uniform guess stand for it, so that it counts as worse than others.

  Args:
    setting: model, data and lengths.
    seed: of parameters, data and random matrices.

  Returns:
    Curves on the validation split, `accuracy` and `loss` in nats; the training
    loss; `finite`, 1 or 0; and `seconds` per step with its share of judging.
  """
  count, start = setting.steps // setting.every, time.monotonic()
  with papers_training.opened(
    proteins.trainer(setting), seed=seed, judges=(JUDGED,)
  ) as experiment:
    try:
      driven = loop.drive(experiment, setting.steps, count)
    except metrics.NonFiniteError:
      guess = np.full(count, np.log(_choices(setting.model)))
      return {
        'accuracy': np.zeros(count),
        'loss': guess,
        'training': guess,
        'finite': 0.0,
        'seconds': np.nan,
      }
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


def arms(
  setting: proteins.Setting, mechanisms: dict[str, Any]
) -> dict[str, Any]:
  """Settings that differ in the mechanism of attention."""
  models = {k: setting.model.clone(attention=v) for k, v in mechanisms.items()}
  return study.vary(setting, 'model', models)


def favor(**options: Any) -> attention.Favor:
  """Fast attention, without the warning that a kernel is signed.

  That is the subject of the rows that have such kernels.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return attention.Favor(**options)


def steps_of(setting: proteins.Setting) -> np.ndarray:
  """The steps of the records."""
  count = setting.steps // setting.every
  return np.arange(1, count + 1) * setting.every
