"""What more training studies are worth: the same steps on few, many and ever new ones.

Small models, trained on random search and hill climbing of generated functions, and
judged by other functions of the same families.
"""

import dataclasses

import numpy as np

from hpo.optformer import (
  bbob_studies,
  behaviours,
  presets,
  tokens,
  training,
  vocabulary,
)
from hpo.optformer import learner as learner_lib
from papers import claims, figures, rows, study
from papers import training as papers_training
from runtime import optimizers

_SPLITS = ('random_search', 'hill_climb')
_SCORES = {'objectives': 'objective_loss', 'parameters': 'param_loss'}
_MAKER = tokens.Tokenizer(
  vocabulary.Compact(),
  encoder_length=72,
  decoder_length=104,  # 20 trials of 2 parameters.
  infeasible_token=False,
)
_SOURCE = bbob_studies.Source(
  dimensions=(1, 2),
  trials=20,
  algorithms=tuple(
    b
    for b in behaviours.BEHAVIOURS
    if b.name.removeprefix('designer_') in _SPLITS
  ),
)


@dataclasses.dataclass(frozen=True)
class Setting:
  """A run."""

  studies: int | None  # Of training; None: no end of them.
  steps: int = 600  # Of 16 studies each.
  records: int = 6  # Times at which the model is judged.
  size: str = 'cpu'  # Of the model.
  judged: int = 64  # Studies of each split.


def _trainer(setting: Setting) -> training.OptFormerTrainer:
  data = bbob_studies.BbobStudies(
    _MAKER, source=_SOURCE, eval_studies=setting.judged, limit=setting.studies
  )
  return training.OptFormerTrainer(
    presets.make(
      _MAKER.vocabulary,
      setting.size,
      tied=True,
      fourier=True,
      places=True,
      copies=True,
    ),
    data,
    optimizers.adamw(
      learning_rate=2e-3,
      b2=0.98,
      weight_decay=0.01,
      decay_mask=optimizers.kernels,
      clip_norm=1.0,
      warmup_steps=50,
      decay_steps=setting.steps,
    ),
    batch_size=16,
    loss=learner_lib.Loss(legal_only=True),
    eval_splits=_SPLITS,
  )


def run(setting: Setting, *, seed: int) -> study.Record:
  """Trains, and judges on studies that were not trained on.

  Returns:
    Losses of objectives and of parameters, nats a token, means over the splits,
    at each record.
  """
  driven = papers_training.driven(
    _trainer(setting),
    seed=seed,
    steps=setting.steps,
    records=setting.records,
    judges=_SPLITS,
  )
  by_split = lambda metric: [
    driven.column(f'eval/{split}/{metric}') for split in _SPLITS
  ]
  losses = {
    name: np.mean(by_split(metric), axis=0) for name, metric in _SCORES.items()
  }
  return losses | {'step': driven.column('step')}


_FEW, _MANY, _ENDLESS = '64 studies', '512 studies', 'ever new studies'


ROWS = (
  rows.Row(
    id='ablation-data',
    claim='The more studies a model is trained on, the better it forecasts and '
    'imitates, after as many steps.',
    study={
      'tiny': study.Study(
        run, {_FEW: Setting(64), _MANY: Setting(512), _ENDLESS: Setting(None)}
      )
    },
    ours=rows.numbers(*_SCORES),
    trend='losses of objectives and of parameters on other studies: ever new '
    'studies below 512, and these below 64',
    claims=tuple(
      claims.below(f'{more}: {name}', than=f'{less}: {name}')
      for name in _SCORES
      for more, less in ((_ENDLESS, _MANY), (_MANY, _FEW))
    ),
    figure=figures.of_arms(
      {name: f'loss of {name} (nats)' for name in _SCORES},
      lambda results: results.curves(_ENDLESS, 'step')[0],
      spread='mean',
      xlabel='steps',
    ),
    explain='600 steps of 16 studies, random search and hill climbing with one and '
    'two real or listed parameters and 20 trials; 64 studies are read 150 times. The '
    'model has 2.0M parameters. Nats a token, on 64 other studies of each algorithm. '
    'A uniform guess over the bins has 6.9.',
    headline=f'{_ENDLESS}: objectives',
    curves=True,
  ),
)
