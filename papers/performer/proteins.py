"""Table 2: masked and causal language models of proteins.

Trains the softmax Performer, the ReLU Performer and exact attention with the
same parameters, data and seeds, as `performer.train` does with
`configs/performer/protein_*_tiny.gin` and `trembl_36layer_*.gin`.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
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
TREMBL = {
  split: f'data/trembl/{split}.fasta.gz' for split in proteins.SAMPLE_SPLITS
}
# Layers, heads, width, and width of the MLPs.
TINY, REGULAR = (2, 2, 64, 128), (6, 8, 512, 2048)
RELU_KERNEL = attention.Favor(kernel='relu', features=None, projection=False)
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
  every: int  # Steps between records.
  rate: float = 1e-3  # Of AdamW, at its peak.
  # Steps in which the rate rises; None: it is constant.
  warmup: int | None = None


def model(
  make: Callable[..., transformer.Transformer] = transformer.Transformer,
  *,
  sizes: tuple[int, int, int, int],
  **options: Any,
) -> transformer.Transformer:
  """A model with exact attention; 29 tokens and no dropout unless told.

  Args:
    make: makes it.
    sizes: layers, heads, width, and width of the MLPs.
    **options: of `make`.
  """
  names = ('num_layers', 'num_heads', 'd_model', 'd_ff')
  common = {'vocab_size': 29, 'dropout': 0.0, 'attention': attention.Exact()}
  return make(**common | dict(zip(names, sizes, strict=True)) | options)


def setting_of(
  length: int,
  sizes: tuple[int, int, int, int],
  *,
  task: str = 'mlm',
  concatenate: bool = False,
  large: bool = False,
  options: Mapping[str, Any] = types.MappingProxyType({}),
  **run: Any,
) -> Setting:
  """A model of proteins and its training: of minutes, or as published.

  Args:
    length: of the windows.
    sizes: as for `model`.
    task: of `data.proteins.Proteins`, like `concatenate`.
    concatenate: whether proteins fill windows.
    large: on TrEMBL with dropout; else on the small sample.
    options: more of the model.
    **run: more of the setting, in the place of usual values.
  """
  usual: dict[str, Any] = {'batch': 16, 'rate': 3e-3, 'warmup': 50}
  if large:
    usual = {'batch': 2048}
  return Setting(
    model(
      causal=task == 'causal',
      max_length=length,
      sizes=sizes,
      dropout=0.1 if large else 0.0,
      **options,
    ),
    proteins.Proteins(
      task=task,
      max_length=length,
      masking='bert' if task == 'mlm' else None,
      concatenate=concatenate,
      files=TREMBL if large else None,
    ),
    **usual | run,
  )


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
  # In the causal task every token is a target, not one in seven.
  steps = 400 if task == 'mlm' else 300
  tiny = setting_of(256, (2, 2, 128, 256), task=task, steps=steps, every=20)
  large = setting_of(
    1024,
    (36, 8, 512, 1024),
    task=task,
    large=True,
    options={'dtype': 'bfloat16', 'remat': True},
    steps=1_000_000,
    every=1000,
  )
  return {'tiny': _study(tiny, features=64), 'paper': _study(large, 256)}


def arms(setting: Setting, mechanisms: dict[str, Any]) -> dict[str, Setting]:
  """Settings that differ in the mechanism of attention."""
  models = {k: setting.model.clone(attention=v) for k, v in mechanisms.items()}
  return study.vary(setting, 'model', models)


def _study(setting: Setting, features: int) -> study.Study:
  softmax = attention.Favor(kernel='softmax_hyp', features=features, norm='chi')
  mechanisms = {SOFTMAX: softmax, RELU: RELU_KERNEL, EXACT: attention.Exact()}
  return study.Study(run, arms(setting, mechanisms))


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


def steps_of(results: study.Results) -> np.ndarray:
  """Steps of training at the records of any arm."""
  setting = results.settings[results.arms[0]]
  return np.arange(1, setting.steps // setting.every + 1) * setting.every


def _rows(task: str) -> tuple[rows.Row, ...]:
  common: dict[str, Any] = {
    'study': studies(task),
    'figure': figures.of_arms(
      {name: f'{name}, training' for name in ('loss', 'accuracy')},
      steps_of,
      xlabel='step',
    ),
  }
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
