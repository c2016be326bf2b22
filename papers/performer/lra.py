"""Long Range Arena: how many features ListOps needs.

The released Performer of ListOps has softmax with two features, so that its
published accuracy says little about the mechanism. Here the number of features
varies, beside exact attention and the ReLU kernel. At `tiny` the expressions are
short (8 to 63 symbols). The optimiser is that of the other rows at both scales;
`configs/performer/lra_listops.gin` has the released one, which clips no
gradients and whose rate falls with the root of the step.
"""

from typing import Any

import numpy as np

from papers import claims, figures, rows, study
from papers.performer import learning, proteins
from performer import attention
from performer.data import listops
from performer.models import classifier
from runtime.record import ledger

FEW, MANY = 'softmax, r=2', 'softmax, r=64'
PUBLISHED = {'exact': 36.37, FEW: 18.01}
# Points of accuracy that count as a clear difference.
MARGIN = 3.0


def mechanisms() -> dict[str, Any]:
  """Attention by label."""
  made = {
    f'softmax, r={r}': attention.Favor(
      kernel='softmax_pos', features=r, norm='chi'
    )
    for r in (2, 64, 256)
  }
  return made | {
    'relu': attention.Favor(kernel='relu', features=None, projection=False),
    'exact': attention.Exact(),
  }


def _setting(**sizes: Any) -> classifier.Classifier:
  return classifier.Classifier(
    vocab_size=17,
    num_classes=10,
    attention=attention.Exact(),
    causal=False,
    **sizes,
  )


def studies() -> dict[str, study.Study]:
  """The mechanisms at both scales."""
  tiny = proteins.Setting(
    _setting(
      max_length=64,
      num_layers=2,
      num_heads=4,
      d_model=64,
      d_ff=128,
      dropout=0.0,
    ),
    listops.ListOps(
      grammar=listops.Grammar(4, 5, 7, 64), num_train=20_000, num_eval=500
    ),
    batch=32,
    steps=1500,
    rate=2e-3,
    warmup=100,
    every=100,
  )
  large = proteins.Setting(
    _setting(
      max_length=2000,
      num_layers=4,
      num_heads=8,
      d_model=512,
      d_ff=1024,
      dropout=0.1,
    ),
    listops.ListOps(),
    batch=32,
    steps=5000,
    # The peak of the released schedule, 0.05 / sqrt(1000).
    rate=0.05 / 1000**0.5,
    warmup=1000,
    every=250,
  )
  return {
    scale: study.Study(
      learning.run, learning.arms(setting, mechanisms()), seeds=5
    )
    for scale, setting in (('tiny', tiny), ('paper', large))
  }


def _ours(results: study.Results) -> dict[str, np.ndarray]:
  return {
    arm: 100 * accuracy
    for arm, accuracy in rows.table(results, 'accuracy', form='{arm}').items()
  }


def _explain(results: study.Results) -> str:
  setting = results.settings[MANY]
  grammar = setting.data.grammar
  return (
    f'Expressions have {grammar.min_length + 1} to {grammar.max_length - 1} '
    f'symbols, to depth {grammar.max_depth}. {setting.steps} steps of '
    f'{setting.batch}. Chance is 10 %, and the commonest value more. The '
    'published numbers are those of expressions of 500 to 2,000 symbols.'
  )


def _figure(results: study.Results) -> figures.Panel:
  return figures.by_arm(
    results,
    'accuracy',
    learning.steps_of(results.settings[MANY]),
    spread='mean',
    xlabel='step',
    ylabel='accuracy, validation',
  )


ROWS = (
  rows.Row(
    id='lra-listops-features',
    claim='Two softmax features, as in the released configuration of ListOps, '
    'are too few (percent of expressions, validation).',
    study=studies(),
    ours=_ours,
    published=ledger.Published(PUBLISHED, 'arXiv:2011.04006, Table 1'),
    trend=f'r = 2 at least {MARGIN:g} points below r = 64 and r = 256',
    claims=[
      claims.below(FEW, than=label, margin=MARGIN, paired=True)
      for label in (MANY, 'softmax, r=256')
    ],
    figure=_figure,
    explain=_explain,
    headline=FEW,
  ),
)
