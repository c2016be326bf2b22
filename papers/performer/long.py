"""Fig. 7, right: concatenated proteins, long windows.

The cost of a step by length, with one window a step; and the accuracy that
windows of concatenated proteins reach.
"""

from typing import Any

import numpy as np

from papers import claims, figures, rows, study
from papers.performer import learning, proteins
from performer import attention, cost
from performer.data import proteins as protein_data
from performer.models import transformer
from runtime.record import ledger

LENGTHS = (1024, 2048, 4096, 8192)
LONGEST_EXACT = 2048
FAVOR, EXACT = 'relu', 'exact'
SHORT_WINDOWS, LONG_WINDOWS = 'windows of 256', 'windows of 1024'


def _model(**sizes: Any) -> transformer.Transformer:
  return transformer.Transformer(vocab_size=29, causal=True, **sizes)


def favor() -> attention.Favor:
  """The generalised Performer."""
  return attention.Favor(kernel='relu', features=None, projection=False)


def costs(model: transformer.Transformer, *, at: int) -> study.Record:
  """Milliseconds per position and MiB of a gradient of one window."""
  if isinstance(model.attention, attention.Exact) and at > LONGEST_EXACT:
    return {}
  found = cost.step_cost(model.clone(max_length=at), at)
  return {'us': 1e3 * found['ms'] / at, 'MiB': found['MiB']}


def _costs(**sizes: int) -> study.Study:
  mechanisms = {FAVOR: favor(), EXACT: attention.Exact()}
  arms = {
    name: _model(
      max_length=LENGTHS[-1], attention=mechanism, dropout=0.0, **sizes
    )
    for name, mechanism in mechanisms.items()
  }
  return study.Study(costs, arms, seeds=None, at=LENGTHS)


def _label(arm: str, length: int, unit: str) -> str:
  return f'{arm}, L={length}, {unit}'


def _cost_table(results: study.Results) -> dict[str, np.ndarray]:
  return {
    _label(arm, length, unit): results(arm, unit, at=length)
    for arm in (FAVOR, EXACT)
    for length in LENGTHS
    for unit in ('us', 'MiB')
    if arm == FAVOR or length <= LONGEST_EXACT
  }


def _steady(table: claims.Table) -> bool:
  times = [table[_label(FAVOR, length, 'us')][0] for length in LENGTHS]
  return max(times) <= 1.25 * min(times)


def _cost_figure(results: study.Results) -> list[figures.Panel]:
  titles = {'us': 'microseconds per position', 'MiB': 'MiB of a gradient'}
  table = _cost_table(results)
  panels = []
  for unit, title in titles.items():
    lines = []
    for arm in (FAVOR, EXACT):
      known = [n for n in LENGTHS if _label(arm, n, unit) in table]
      values = [[table[_label(arm, n, unit)][0] for n in known]]
      lines.append(figures.Line(arm, known, np.array(values)))
    panels.append(
      figures.Lines(
        lines=lines,
        xlabel='length of a window',
        ylabel=title,
        xscale='log2',
        yscale='log',
      )
    )
  return panels


def _setting(length: int, files: dict[str, str] | None) -> proteins.Setting:
  tiny = files is None
  sizes = (2, 2, 64, 128) if tiny else (6, 8, 512, 2048)
  return proteins.Setting(
    _model(
      max_length=length,
      attention=favor(),
      dropout=0.0 if tiny else 0.1,
      **dict(
        zip(('num_layers', 'num_heads', 'd_model', 'd_ff'), sizes, strict=True)
      ),
    ),
    protein_data.Proteins(
      task='causal', max_length=length, concatenate=True, files=files
    ),
    # As many positions a step at every length.
    batch=(8192 if tiny else 2048 * 8192) // length,
    steps=300 if tiny else 100_000,
    rate=3e-3 if tiny else 1e-3,
    warmup=30 if tiny else None,
    every=50 if tiny else 5000,
  )


def _accuracy(scale: str) -> study.Study:
  lengths, files = (256, 1024), None
  if scale == 'paper':
    lengths = (1024, 8192)
    files = {
      split: f'data/trembl/{split}.fasta.gz'
      for split in ('train', *protein_data.SAMPLE_SPLITS[1:])
    }
  labels = (SHORT_WINDOWS, LONG_WINDOWS)
  arms = {
    name: _setting(length, files)
    for name, length in zip(labels, lengths, strict=True)
  }
  return study.Study(learning.run, arms)


def _rise(results: study.Results) -> dict[str, np.ndarray]:
  """Accuracies at the end, and half way."""
  curves = results(LONG_WINDOWS, 'accuracy')
  middle = curves.shape[1] // 2 - 1
  return {
    f'{LONG_WINDOWS}, half way': 100 * curves[:, middle],
    f'{LONG_WINDOWS}, at the end': 100 * curves[:, -1],
    SHORT_WINDOWS: 100 * results.last(SHORT_WINDOWS, 'accuracy'),
  }


def _figure(results: study.Results) -> figures.Panel:
  return figures.by_arm(
    results,
    'accuracy',
    learning.steps_of(results.settings[LONG_WINDOWS]),
    spread='mean',
    xlabel='step',
    ylabel='accuracy, validation',
  )


ROWS = (
  rows.Row(
    id='fig7-long-cost',
    claim='A step of the Performer costs the same per position at any length; '
    'the memory of exact attention grows with the square (microseconds per '
    'position; MiB).',
    study={
      'tiny': _costs(num_layers=2, num_heads=4, d_model=128, d_ff=256),
      'paper': _costs(num_layers=6, num_heads=8, d_model=512, d_ff=2048),
    },
    ours=_cost_table,
    published=ledger.Published(
      'exact attention does not fit at the regular size, batch 1',
      'arXiv:2009.14794, Section 4.5',
    ),
    trend='Performer: time per position within 25 % from 1,024 to 8,192; exact '
    'attention: memory at least 3 times at twice the length',
    claims=[
      claims.Check('times per position agree within 25 %', _steady),
      claims.Check(
        'memory of exact attention grows at least threefold',
        lambda table: (
          table[_label(EXACT, 2048, 'MiB')][0]
          >= 3 * table[_label(EXACT, 1024, 'MiB')][0]
        ),
      ),
    ],
    figure=_cost_figure,
    headline=_label(FAVOR, 8192, 'us'),
  ),
  rows.Row(
    id='fig7-long-accuracy',
    claim='The Performer keeps learning on long windows of concatenated proteins '
    '(percent of residues, validation).',
    study={scale: _accuracy(scale) for scale in ('tiny', 'paper')},
    ours=_rise,
    published=ledger.Published(
      'about 24 % at L = 8192, still rising; exact attention of a size that fits '
      'stays at 19 %',
      'arXiv:2009.14794, Fig. 7 (right)',
    ),
    trend='accuracy at the end above that half way',
    claims=[
      claims.above(
        f'{LONG_WINDOWS}, at the end',
        than=f'{LONG_WINDOWS}, half way',
        paired=True,
      )
    ],
    figure=_figure,
    headline=f'{LONG_WINDOWS}, at the end',
  ),
)
