"""Fig. 7, right: concatenated proteins, long windows.

The cost of a step by length, with one window a step; and the accuracy that
windows of concatenated proteins reach.
"""

import numpy as np

from papers import claims, figures, rows, study
from papers.performer import learning, proteins
from performer import attention, cost
from performer.models import transformer
from runtime.record import ledger

LENGTHS = (1024, 2048, 4096, 8192)
LONGEST_EXACT = 2048
FAVOR, EXACT = 'relu', 'exact'
SHORT_WINDOWS, LONG_WINDOWS = 'windows of 256', 'windows of 1024'


def costs(model: transformer.Transformer, *, at: int) -> study.Record:
  """Milliseconds per position and MiB of a gradient of one window."""
  if isinstance(model.attention, attention.Exact) and at > LONGEST_EXACT:
    return {}
  found = cost.step_cost(model.clone(max_length=at), at)
  return {'us': 1e3 * found['ms'] / at, 'MiB': found['MiB']}


def _costs(*sizes: int) -> study.Study:
  model = proteins.model(causal=True, max_length=LENGTHS[-1], sizes=sizes)
  mechanisms = {FAVOR: proteins.RELU_KERNEL, EXACT: attention.Exact()}
  arms = {k: model.clone(attention=v) for k, v in mechanisms.items()}
  return study.Study(costs, arms, seeds=None, at=LENGTHS)


_label = '{}, L={}, {}'.format


def _steady(table: claims.Table) -> bool:
  times = [table[_label(FAVOR, length, 'us')][0] for length in LENGTHS]
  return max(times) <= 1.25 * min(times)


def _setting(length: int, *, tiny: bool) -> proteins.Setting:
  run = {'steps': 100_000, 'every': 5000}
  if tiny:
    run = {'steps': 300, 'every': 50, 'warmup': 30}
  return proteins.setting_of(
    length,
    proteins.TINY if tiny else proteins.REGULAR,
    task='causal',
    concatenate=True,
    large=not tiny,
    options={'attention': proteins.RELU_KERNEL},
    # As many positions a step at every length.
    batch=(8192 if tiny else 2048 * 8192) // length,
    **run,
  )


def _accuracy(*lengths: int, tiny: bool) -> study.Study:
  arms = {
    name: _setting(length, tiny=tiny)
    for name, length in zip((SHORT_WINDOWS, LONG_WINDOWS), lengths, strict=True)
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


ROWS = (
  rows.Row(
    id='fig7-long-cost',
    claim='A step of the Performer costs the same per position at any length; '
    'the memory of exact attention grows with the square (microseconds per '
    'position; MiB).',
    study={'tiny': _costs(2, 4, 128, 256), 'paper': _costs(*proteins.REGULAR)},
    ours=rows.numbers('us', 'MiB', form='{arm}, L={at}, {metric}'),
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
    figure=figures.of_arms(
      {'us': 'microseconds per position', 'MiB': 'MiB of a gradient'},
      xlabel='length of a window',
      xscale='log2',
      yscale='log',
    ),
    headline=_label(FAVOR, 8192, 'us'),
  ),
  rows.Row(
    id='fig7-long-accuracy',
    claim='The Performer keeps learning on long windows of concatenated proteins '
    '(percent of residues, validation).',
    study={
      'tiny': _accuracy(256, 1024, tiny=True),
      'paper': _accuracy(1024, 8192, tiny=False),
    },
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
    figure=learning.curves('accuracy', 'accuracy, validation'),
    headline=f'{LONG_WINDOWS}, at the end',
  ),
)
