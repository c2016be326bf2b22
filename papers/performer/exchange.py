"""Fig. 5, left, and Fig. 14: a trained language model with its attention exchanged.

A model of bytes is trained with exact attention, gets fast attention with all of
its parameters, and is trained on for a tenth of the steps. Errors of the residual
stream grow from layer to layer.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from papers import claims, figures, mechanisms, rows, study
from papers import training as papers_training
from papers.performer import learning, proteins
from performer import attention
from performer import learner as learner_lib
from performer.data import dataset, documents, subwords, text
from performer.models import compare
from runtime import loop
from runtime.devices import mesh as mesh_lib
from runtime.record import ledger

RECOVERED = 0.95  # Of the accuracy with exact attention.
HYP, REG, TRIG = 'hyp', 'hyp_reg', 'trig'
KERNELS = {HYP: 'softmax_hyp', REG: 'softmax_hyp_reg', TRIG: 'softmax_trig'}
_opened = functools.partial(papers_training.opened, judges=(learning.JUDGED,))


@dataclasses.dataclass(frozen=True)
class Setting:
  """A run: one training, and an exchange for each mechanism."""

  training: proteins.Setting  # With exact attention.
  mechanisms: Mapping[str, attention.Favor]  # By label.
  tuning: int  # Steps after the exchange.


def run(setting: Setting, *, seed: int) -> study.Record:
  """Trains with exact attention, and goes on with each mechanism.

  Returns:
    `exact`, the accuracy on the validation split; `chance`, that of the
    commonest token of training; by mechanism `... start` and `... end`,
    accuracies before and after further training, and `... errors`, relative
    errors of the residual stream by layer.
  """
  trainer = proteins.trainer(setting.training)
  with _opened(trainer, seed=seed) as experiment:
    driven = loop.drive(experiment, setting.training.steps)
  trained = jax.device_get(driven.state)
  record: dict[str, Any] = {
    'exact': driven.last(f'eval/{learning.JUDGED}/accuracy'),
    'chance': _chance(trainer.data),
  }
  for name, mechanism in setting.mechanisms.items():
    model = trainer.model.clone(attention=mechanism)
    found = dataclasses.replace(setting.training, model=model)
    record |= {
      f'{name} {k}': v
      for k, v in _exchanged(found, trained, setting.tuning, seed).items()
    }
  return record


def _chance(data: dataset.DataSet) -> float:
  """Accuracy of the token that is commonest in training."""
  batches = data.eval_batches(learning.JUDGED, batch_size=4)
  return data.baselines()['empirical baseline'].evaluate(batches).accuracy


def _exchanged(
  setting: proteins.Setting,
  trained: learner_lib.TrainState,
  tuning: int,
  seed: int,
) -> study.Record:
  """Goes on with another mechanism."""
  trainer = proteins.trainer(setting)
  learner = trainer.learner(seed=seed, mesh=mesh_lib.MeshConfig().make())
  # A copy for each mechanism, as a run takes over the buffers.
  state = jax.tree.map(jnp.array, trained)
  state = learner.redraw(state.replace(projections=None))
  batch = next(trainer.data.eval_batches(learning.JUDGED, batch_size=2))
  errors = compare.layer_errors(
    trainer.model,
    state.eval_params,
    jnp.asarray(batch['tokens']),
    mask=jnp.asarray(batch['mask']),
    projections=state.projections,
  )
  with _opened(trainer, seed=seed) as experiment:
    driven = loop.drive(experiment, tuning, (0, tuning), state=state)
  start, end = driven.column(f'eval/{learning.JUDGED}/accuracy')
  return {'start': start, 'end': end, 'errors': np.asarray(errors.hidden)}


_TINY = proteins.Setting(
  proteins.model(
    vocab_size=256, causal=True, max_length=256, sizes=(4, 4, 128, 256)
  ),
  text.Text(max_length=256, order='shuffled'),
  batch=8,
  steps=1000,
  every=1000,
)
_LARGE = proteins.Setting(
  proteins.model(
    vocab_size=32770,
    causal=True,
    max_length=512,
    sizes=proteins.REGULAR,
    dropout=0.1,
  ),
  subwords.Subwords(
    task='causal',
    max_length=512,
    model='data/lm1b/unigram32768.model',
    documents=documents.lm1b(),
  ),
  batch=256,
  steps=300_000,
  every=300_000,
)


def _study(training: proteins.Setting) -> study.Study:
  """The rate stays, so that training can go on."""
  chosen = {
    name: mechanisms.favor(kernel=kernel, features=256)
    for name, kernel in KERNELS.items()
  }
  setting = Setting(training, chosen, tuning=training.steps // 10)
  return study.Study(run, {'text': setting})


STUDY = {'tiny': _study(_TINY), 'paper': _study(_LARGE)}


_WHEN = [f'{name} {when}' for name in KERNELS for when in ('start', 'end')]


def _errors(results: study.Results) -> dict[str, np.ndarray]:
  (arm,) = results.arms
  errors = results(arm, f'{HYP} errors')
  return {f'layer {i}': errors[:, i] for i in range(errors.shape[1])}


_accuracies = rows.numbers('exact', 'chance', *_WHEN, form='{metric}')


def _bars(results: study.Results) -> figures.Panel:
  found = {name: x.mean() for name, x in _accuracies(results).items()}
  return figures.Bars(
    names=[*found], groups={'': [*found.values()]}, xlabel='accuracy'
  )


def _layers(results: study.Results) -> figures.Panel:
  (arm,) = results.arms
  errors = {name: results(arm, f'{name} errors') for name in KERNELS}
  return figures.lines(
    errors,
    range(1, errors[HYP].shape[1] + 1),
    spread='mean',
    xlabel='layer',
    ylabel='relative error of the residual stream',
    yscale='log',
  )


_SOURCE = 'arXiv:2009.14794, Fig. 5 (left)'
ROWS = (
  rows.Row(
    id='fig5-exchange',
    claim='A language model trained with exact attention keeps some accuracy '
    'with fast attention, and recovers it in a tenth of the steps (accuracy of '
    'the next token, validation).',
    study=STUDY,
    ours=_accuracies,
    published=ledger.Published(0.07, f'{_SOURCE}: after the exchange'),
    trend='between chance and the original after the exchange; at least '
    f'{RECOVERED:.0%} of the original after further training; hyp starts above '
    'trig',
    claims=[
      claims.above(f'{HYP} start', than='chance', paired=True),
      claims.below(f'{HYP} start', than='exact', paired=True),
      claims.above(
        f'{HYP} end',
        than=claims.computed(
          f'{RECOVERED:.0%} of the original', lambda x: RECOVERED * x, 'exact'
        ),
        paired=True,
      ),
      claims.above(f'{HYP} start', than=f'{TRIG} start', paired=True),
    ],
    figure=_bars,
    headline=f'{HYP} end',
  ),
  rows.Row(
    id='fig14-layers',
    claim='The error of exchanged attention grows from layer to layer (relative '
    'error of the residual stream).',
    study=STUDY,
    ours=_errors,
    published=ledger.Published(
      'curves: errors grow with the number of layers',
      'arXiv:2009.14794, Fig. 14',
    ),
    trend='each layer above the one before it',
    claims=lambda table: [claims.grows([*table])],
    figure=_layers,
    headline='layer 0',
  ),
)
