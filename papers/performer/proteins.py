"""Table 2: masked and causal language models of proteins.

Trains the softmax Performer, the ReLU Performer and exact attention with the
same parameters, data and seeds, as `performer.train` does with
`configs/performer/protein_*_tiny.gin` and `trembl_36layer_*.gin`.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from papers import claims, figures, rows, study
from papers import training as papers_training
from performer import attention, training
from performer.data import dataset, proteins
from performer.models import transformer
from runtime import loop, optimizers
from runtime.record import ledger

SOURCE = 'arXiv:2009.14794, Table 2'
SOFTMAX, RELU, EXACT = 'softmax', 'relu', 'exact'
# Copying the visible tokens scores well without modelling proteins.
BASELINE = {'mlm': 'empirical, copying', 'causal': 'empirical baseline'}
# Accuracy in percent and perplexity: Performer generalised, softmax,
# Transformer, empirical baseline.
PUBLISHED = {
  'mlm': {
    'softmax test': (33.00, 9.24),
    'relu test': (36.09, 8.36),
    'exact test': (33.32, 9.22),
    'baseline test': (9.92, 17.80),
    'softmax ood': (23.48, 12.41),
    'relu ood': (24.10, 12.26),
    'exact ood': (25.07, 12.09),
    'baseline ood': (9.07, 17.93),
  },
  'causal': {
    'relu test': (31.58, 9.17),
    'exact test': (30.80, 9.37),
    'baseline test': (9.92, 17.80),
    'relu ood': (18.44, 13.63),
    'exact ood': (19.70, 13.20),
    'baseline ood': (9.07, 17.93),
  },
}


@dataclasses.dataclass(frozen=True)
class Setting:
  """A run."""

  model: transformer.Transformer  # The language model, or another.
  data: dataset.DataSet  # Proteins, or others.
  batch: int  # Sequences per step.
  steps: int  # Of training, after which the rate has fallen to 0, if it falls.
  rate: float  # Of AdamW, at its peak.
  warmup: int | None  # Steps in which the rate rises; None: it is constant.
  every: int  # Steps between records.


def trainer(setting: Setting) -> training.LanguageModelTrainer:
  """The trainer of a setting, with the optimiser of the paper."""
  schedule = {}
  if setting.warmup is not None:
    schedule = {'warmup_steps': setting.warmup, 'decay_steps': setting.steps}
  # arXiv:2009.14794, Appendix A.2.
  optimizer = optimizers.adamw(
    learning_rate=setting.rate,
    b1=0.9,
    b2=0.98,
    eps=1e-9,
    weight_decay=0.1,
    clip_norm=0.5,
    **schedule,
  )
  return training.LanguageModelTrainer(
    setting.model, setting.data, optimizer, setting.batch
  )


def run(setting: Setting, *, seed: int) -> study.Record:
  """Trains, then judges the model and the baselines on all splits.

  Returns:
    Curves of training, and by predictor and column the final table.
  """
  with papers_training.opened(trainer(setting), seed=seed) as experiment:
    records = setting.steps // setting.every
    driven = loop.drive(experiment, setting.steps, records)
    tables = experiment.tables(loop.Finished(driven.state, driven.rows, 0.0))
  return {
    name: driven.column(f'train/{name}') for name in ('loss', 'accuracy')
  } | {
    f'{row["predictor"]} {column}': value
    for row in tables['scores']
    for column, value in row.items()
    if column != 'predictor'
  }


def studies(task: str) -> dict[str, study.Study]:
  """The mechanisms at both scales."""
  common: dict[str, Any] = {'vocab_size': 29, 'causal': task == 'causal'}
  masks = 'bert' if task == 'mlm' else None
  tiny = Setting(
    transformer.Transformer(
      attention=attention.Exact(),
      max_length=256,
      num_layers=2,
      num_heads=2,
      d_model=128,
      d_ff=256,
      dropout=0.0,
      **common,
    ),
    proteins.Proteins(task=task, max_length=256, masking=masks),
    batch=16,
    # In the causal task every token is a target, not one in seven.
    steps=400 if task == 'mlm' else 300,
    rate=3e-3,
    warmup=50,
    every=20,
  )
  splits = ('train', *proteins.SAMPLE_SPLITS[1:])
  large = Setting(
    transformer.Transformer(
      attention=attention.Exact(),
      max_length=1024,
      num_layers=36,
      num_heads=8,
      d_model=512,
      d_ff=1024,
      dropout=0.1,
      dtype='bfloat16',
      remat=True,
      **common,
    ),
    proteins.Proteins(
      task=task,
      max_length=1024,
      masking=masks,
      files={split: f'data/trembl/{split}.fasta.gz' for split in splits},
    ),
    batch=2048,
    steps=1_000_000,
    rate=1e-3,
    warmup=None,
    every=1000,
  )
  return {'tiny': _study(tiny, features=64), 'paper': _study(large, 256)}


def _study(setting: Setting, features: int) -> study.Study:
  mechanisms = {
    SOFTMAX: attention.Favor(
      kernel='softmax_hyp', features=features, norm='chi'
    ),
    RELU: attention.Favor(kernel='relu', features=None, projection=False),
    EXACT: attention.Exact(),
  }
  models = {k: setting.model.clone(attention=v) for k, v in mechanisms.items()}
  return study.Study(run, study.vary(setting, 'model', models))


def _table(results: study.Results, column: str) -> dict[str, np.ndarray]:
  """One column of the final tables: mechanisms, then the baseline."""
  split, setting = column.split()[0], results.settings[SOFTMAX]
  baseline = results(SOFTMAX, f'{BASELINE[setting.data.task]} {column}')[:1]
  found = rows.table(results, f'model {column}', form=f'{{arm}} {split}')
  return found | {f'baseline {split}': baseline}


def _harder(results: study.Results) -> dict[str, np.ndarray]:
  """Perplexities over that of the baseline on the same split."""
  found = {}
  for split in ('test', 'ood'):
    values = _table(results, f'{split} perpl.')
    baseline = values.pop(f'baseline {split}')
    found |= {label: value / baseline for label, value in values.items()}
  return found


def _evidence(results: study.Results) -> str:
  values = _table(results, 'test acc. %')
  gap = values['exact test'].mean() - values['baseline test'][0]
  return (
    f'The baseline itself is {gap:.1f} points below exact attention. The smaller '
    'this gap is, the weaker is the evidence of agreement.'
  )


def _published(task: str, split: str, index: int) -> ledger.Published:
  values = {k: v[index] for k, v in PUBLISHED[task].items() if split in k}
  return ledger.Published(values, SOURCE)


def _published_ratios(task: str) -> ledger.Published:
  table = PUBLISHED[task]
  return ledger.Published(
    {
      f'{name} {split}': table[f'{name} {split}'][1]
      / table[f'baseline {split}'][1]
      for name in (RELU, EXACT)
      for split in ('test', 'ood')
    },
    f'{SOURCE} (ratios computed here)',
  )


def _figure(results: study.Results) -> list[figures.Panel]:
  setting = results.settings[SOFTMAX]
  steps = np.arange(1, setting.steps // setting.every + 1) * setting.every
  return [
    figures.by_arm(
      results, metric, steps, xlabel='step', ylabel=f'{metric}, training'
    )
    for metric in ('loss', 'accuracy')
  ]


def _rows(task: str) -> tuple[rows.Row, ...]:
  common: dict[str, Any] = {'study': studies(task), 'figure': _figure}
  return (
    rows.Row(
      id=f'table2-{task}-perplexity',
      claim='Performers predict residues of unseen proteins better than '
      'frequencies do (perplexity on test).',
      ours=functools.partial(_table, column='test perpl.'),
      published=_published(task, 'test', 1),
      trend=f'softmax Performer below the baseline ({BASELINE[task]})',
      claims=(claims.below('softmax test', than='baseline test'),),
      **common,
    ),
    rows.Row(
      id=f'table2-{task}-accuracy',
      claim='Softmax Performer and exact attention are equally accurate (percent '
      'on test).',
      ours=functools.partial(_table, column='test acc. %'),
      published=_published(task, 'test', 0),
      trend='softmax Performer within 1 point of exact attention',
      claims=(claims.close('softmax test', to='exact test', within=1.0),),
      explain=_evidence,
      **common,
    ),
    rows.Row(
      id=f'table2-{task}-ood',
      claim='Held-out families are harder (perplexity over that of the baseline '
      'on the same split).',
      ours=_harder,
      published=_published_ratios(task),
      trend='softmax Performer: ratio on ood above ratio on test',
      claims=(claims.above('softmax ood', than='softmax test', paired=True),),
      headline='softmax ood',
      **common,
    ),
  )


ROWS = (*_rows('mlm'), *_rows('causal'))
