"""Fig. 5, right, and Fig. 15: redrawing random matrices, and luck.

Masked language models of proteins with the same parameters, data and seeds, but
other attention: exact, trigonometric or positive features, Linformer. Matrices
stay, or are redrawn every so many steps. At `tiny` a run is 400 steps, so that
the intervals are shorter than the published practice of 1,000; at `paper` the
text is PG-19.
"""

import numpy as np

from papers import claims, mechanisms, rows, study
from papers.performer import learning, proteins
from performer import attention
from performer.baselines import linformer
from performer.data import documents, subwords
from runtime.record import ledger

EXACT, TRIG, LINFORMER = 'exact', 'trig, redrawn', 'Linformer, redrawn'
STAYS, REDRAWN = 'pos, never', 'pos, redrawn'
EVERY_STEP, OFTEN = 'pos, every step', 'pos, often'
REGULARIZED = 'pos_reg, redrawn'


_TINY = proteins.setting_of(128, proteins.TINY, steps=400, every=50)
_LARGE = proteins.Setting(
  proteins.model(
    vocab_size=32770,
    causal=False,
    max_length=8192,
    sizes=proteins.REGULAR,
    dropout=0.1,
    dtype='bfloat16',
    remat=True,
  ),
  subwords.Subwords(
    task='mlm',
    max_length=8192,
    model='data/pg19/unigram32768.model',
    documents=documents.pg19(),
    pieces_per_word=subwords.pg19_pieces_per_word(),
  ),
  batch=64,
  steps=300_000,
  every=10_000,
)


def _study(
  setting: proteins.Setting, *, r: int, k: int, every: int, often: int
) -> study.Study:
  """Features r, rows k of Linformer; steps between redraws, usual and fewer."""

  def favor(kernel: str, redraw_every: int | None) -> attention.Favor:
    return mechanisms.favor(
      kernel=kernel, features=r, redraw_every=redraw_every
    )

  found = {
    EXACT: attention.Exact(),
    STAYS: favor('softmax_pos', None),
    REDRAWN: favor('softmax_pos', every),
    OFTEN: favor('softmax_pos', often),
    EVERY_STEP: favor('softmax_pos', 1),
    REGULARIZED: favor('softmax_pos_reg', every),
    TRIG: favor('softmax_trig', every),
    LINFORMER: linformer.Linformer(setting.model.max_length, k, every),
  }
  return study.Study(learning.run, proteins.arms(setting, found), seeds=5)


STUDY = {
  'tiny': _study(_TINY, r=32, k=32, every=100, often=10),
  'paper': _study(_LARGE, r=256, k=600, every=1000, often=100),
}


_losses = rows.numbers('loss')


def apart(label: str) -> claims.Derived:
  """Distance of each seed from the median of its arm."""
  distance = lambda x: np.abs(x - np.median(x))
  return claims.computed(f'spread of {label}', distance, label)


def _gap(label: str) -> claims.Derived:
  """Distance of each seed from exact attention with that seed."""
  distance = lambda x, exact: np.abs(x - exact)
  return claims.computed(f'{label} less exact', distance, label, EXACT)


def _finite(results: study.Results) -> str:
  lost = learning.lost(results)
  return (
    f'Runs that were not finite: {lost}.' if lost else 'All runs stayed finite.'
  )


def _costs(results: study.Results) -> str:
  each = {
    arm: results(arm, 'seconds').mean() / results(STAYS, 'seconds').mean()
    for arm in (REDRAWN, OFTEN, EVERY_STEP)
  }
  text = ', '.join(f'{arm} {ratio:.2f}' for arm, ratio in each.items())
  return f'{_finite(results)} Time of a step over that of {STAYS}: {text}.'


_figure = learning.curves('loss', 'nats per hidden token, validation')
ROWS = (
  rows.Row(
    id='fig5-redraw',
    claim='With redrawing, positive features train as exact attention does; '
    'features that stay, and Linformer, train worse (loss in nats, validation).',
    study=STUDY,
    ours=_losses,
    published=ledger.Published(
      'curves: redrawn positive features equal exact attention; those that stay '
      'and Linformer plateau; trigonometric ones are unstable',
      'arXiv:2009.14794, Fig. 5 (right)',
    ),
    trend='redrawn positive features closer to exact attention than features '
    'that stay, Linformer and trigonometric features are, and with a lower loss',
    claims=[
      claim
      for label in (STAYS, LINFORMER, TRIG)
      for claim in (
        claims.below(_gap(REDRAWN), than=_gap(label), paired=True),
        claims.below(REDRAWN, than=label, paired=True),
      )
    ],
    figure=_figure,
    explain=_finite,
    headline=REDRAWN,
  ),
  rows.Row(
    id='fig15-seeds',
    claim='Redrawing removes the luck of the draw: seeds differ less (loss in '
    'nats, validation).',
    study=STUDY,
    ours=_losses,
    published=ledger.Published(
      'curves: one of two seeds degrades without redrawing, none with it',
      'arXiv:2009.14794, Fig. 15 (left)',
    ),
    trend='distance of a seed from the median of its arm: smaller with redrawing '
    'than without (test of Brown and Forsythe)',
    claims=[claims.below(apart(OFTEN), than=apart(STAYS))],
    figure=_figure,
    explain=_costs,
    headline=OFTEN,
  ),
)
