"""Fig. 16 to 18: nine kernels, with and without renormalisation.

Masked language models of proteins. Kernels that can be negative may divide by
nothing; a run whose loss is not finite ends there and counts as accuracy 0. As in
the released code there is no projection, so that elu + 1 is the kernel of the
Linear Transformer; it and ReLU are also tried at a rate ten times higher.
"""

import dataclasses

import numpy as np

from papers import claims, figures, mechanisms, rows, study
from papers.performer import learning, proteins
from runtime.record import ledger

POSITIVE = ('relu', 'exp', 'sigmoid', 'abs', 'elu1')
SIGNED = ('gelu', 'tanh', 'cos', 'identity')
KERNELS = POSITIVE + SIGNED
FASTER = ('relu, fast', 'elu1, fast')


def label(kernel: str, renormalize: bool) -> str:
  """Label of an arm."""
  return kernel if renormalize else f'{kernel}, not renormalised'


def _study(setting: proteins.Setting) -> study.Study:
  found = proteins.arms(
    setting,
    {
      label(kernel, renormalize): mechanisms.favor(
        kernel=kernel, features=None, projection=False, renormalize=renormalize
      )
      for renormalize in (True, False)
      for kernel in KERNELS
    },
  )
  for name in FASTER:
    usual = found[name.partition(',')[0]]
    found[name] = dataclasses.replace(usual, rate=10 * usual.rate)
  return study.Study(learning.run, found)


STUDY = {
  'tiny': _study(
    proteins.setting_of(128, proteins.TINY, steps=300, every=30, warmup=30)
  ),
  'paper': _study(
    proteins.setting_of(
      512, proteins.REGULAR, large=True, steps=200_000, every=20_000
    )
  ),
}


def _explain(results: study.Results) -> str:
  lost = [f'{arm} {count}' for arm, count in learning.lost(results).items()]
  seeds = len(results.seeds)
  return f'Of {seeds} seeds these were lost: {", ".join(lost) or "none"}.'


def _explain_ranks(results: study.Results) -> str:
  found = [100 * results.last(kernel, 'accuracy') for kernel in KERNELS]
  best = sorted((each.mean() for each in found), reverse=True)
  spread = np.mean([each.std(ddof=1) for each in found])
  return (
    f'{_explain(results)} Ranks of the renormalised kernels: the first and the '
    f'sixth differ by {best[0] - best[5]:.2f}; seeds of one kernel have a standard '
    f'deviation of {spread:.2f}.'
  )


def _among_best(table: claims.Table) -> bool:
  means = {kernel: np.mean(table[kernel]) for kernel in KERNELS}
  return sorted(means, key=means.get)[-3:].count('relu') == 1


def _figure(results: study.Results) -> figures.Panel:
  columns = ('renormalised', 'not')
  values = [
    [
      100 * results.last(label(kernel, flag), 'accuracy').mean()
      for flag in (True, False)
    ]
    for kernel in KERNELS
  ]
  return figures.Shades(rows=KERNELS, columns=columns, values=values)


ROWS = (
  rows.Row(
    id='fig16-kernels',
    claim='Of the generalised kernels, ReLU is among the best (percent of hidden '
    'residues, validation).',
    study=STUDY,
    ours=rows.numbers('accuracy', factor=100),
    unlisted=rows.numbers('finite', form='{arm}, {metric}'),
    published=ledger.Published(
      'curves: ReLU is best with large batches; several kernels stop with NaN',
      'arXiv:2009.14794, Fig. 16 and 17',
    ),
    trend='ReLU: all runs finite, and among the three most accurate of nine '
    'kernels',
    claims=[
      claims.Check(
        'all runs of ReLU are finite',
        lambda table: min(table['relu, finite']) == 1,
      ),
      claims.Check('ReLU is among the best three', _among_best),
    ],
    figure=_figure,
    explain=_explain_ranks,
    headline='relu',
  ),
  rows.Row(
    id='fig18-linear-transformer',
    claim='The Linear Transformer (elu + 1) is less stable than ReLU at a high '
    'rate (percent of hidden residues, validation).',
    study=STUDY,
    ours=rows.numbers('accuracy', factor=100, arms=('relu', 'elu1', *FASTER)),
    published=ledger.Published(
      'curves: elu + 1 explodes, ReLU does not', 'arXiv:2009.14794, Fig. 18'
    ),
    trend='at the high rate elu + 1 below ReLU',
    claims=[claims.below(FASTER[1], than=FASTER[0], paired=True)],
    figure=figures.of_arms(
      {'accuracy': 'accuracy of hidden residues'},
      proteins.steps_of,
      arms=('relu', 'elu1', *FASTER),
      xlabel='step',
    ),
    explain=_explain,
    headline=FASTER[1],
  ),
)
