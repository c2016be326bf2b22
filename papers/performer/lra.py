"""Long Range Arena: how many features ListOps needs.

The released Performer of ListOps has softmax with two features, so that its
published accuracy says little about the mechanism. Here the number of features
varies, beside exact attention and the ReLU kernel. At `tiny` the expressions are
short (8 to 63 symbols). The optimiser is that of the other rows at both scales;
`configs/performer/lra_listops.gin` has the released one, which clips no
gradients and whose rate falls with the root of the step.
"""

import functools

from papers import claims, rows, study
from papers.performer import learning, proteins
from performer import attention
from performer.data import listops
from performer.models import classifier
from runtime.record import ledger

FEW, MANY = 'softmax, r=2', 'softmax, r=64'
PUBLISHED = {'exact': 36.37, FEW: 18.01}
# Points of accuracy that count as a clear difference.
MARGIN = 3.0


_MECHANISMS = {
  f'softmax, r={r}': attention.Favor(
    kernel='softmax_pos', features=r, norm='chi'
  )
  for r in (2, 64, 256)
} | {'relu': proteins.RELU_KERNEL, 'exact': attention.Exact()}
_model = functools.partial(
  proteins.model,
  classifier.Classifier,
  vocab_size=17,
  num_classes=10,
  causal=False,
)
_SETTINGS = {
  'tiny': proteins.Setting(
    _model(max_length=64, sizes=(2, 4, 64, 128)),
    listops.ListOps(
      grammar=listops.Grammar(4, 5, 7, 64), num_train=20_000, num_eval=500
    ),
    batch=32,
    steps=1500,
    every=100,
    rate=2e-3,
    warmup=100,
  ),
  'paper': proteins.Setting(
    _model(max_length=2000, sizes=(4, 8, 512, 1024), dropout=0.1),
    listops.ListOps(),
    batch=32,
    steps=5000,
    every=250,
    # The peak of the released schedule, 0.05 / sqrt(1000).
    rate=0.05 / 1000**0.5,
    warmup=1000,
  ),
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


ROWS = (
  rows.Row(
    id='lra-listops-features',
    claim='Two softmax features, as in the released configuration of ListOps, '
    'are too few (percent of expressions, validation).',
    study={
      scale: study.Study(
        learning.run, proteins.arms(setting, _MECHANISMS), seeds=5
      )
      for scale, setting in _SETTINGS.items()
    },
    ours=rows.numbers('accuracy', factor=100),
    published=ledger.Published(PUBLISHED, 'arXiv:2011.04006, Table 1'),
    trend=f'r = 2 at least {MARGIN:g} points below r = 64 and r = 256',
    claims=[
      claims.below(FEW, than=label, margin=MARGIN, paired=True)
      for label in (MANY, 'softmax, r=256')
    ],
    figure=learning.curves('accuracy', 'accuracy, validation'),
    explain=_explain,
    headline=FEW,
  ),
)
