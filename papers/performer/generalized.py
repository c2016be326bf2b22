"""Fig. 16 to 18: nine kernels, with and without renormalisation.

Masked language models of proteins. Kernels that can be negative may divide by
nothing; a run whose loss is not finite ends there and counts as accuracy 0. As in
the released code there is no projection, so that elu + 1 is the kernel of the
Linear Transformer; it and ReLU are also tried at a rate ten times higher.
"""

import dataclasses

import numpy as np

from papers import claims, figures, rows, study
from papers.performer import learning, proteins
from performer import attention
from performer.data import proteins as protein_data
from performer.models import transformer
from runtime.record import ledger

POSITIVE = ('relu', 'exp', 'sigmoid', 'abs', 'elu1')
SIGNED = ('gelu', 'tanh', 'cos', 'identity')
KERNELS = POSITIVE + SIGNED
FASTER = ('relu, fast', 'elu1, fast')


def label(kernel: str, renormalize: bool) -> str:
  """Label of an arm."""
  return kernel if renormalize else f'{kernel}, not renormalised'


def _study(setting: proteins.Setting) -> study.Study:
  found = learning.arms(
    setting,
    {
      label(kernel, renormalize): learning.favor(
        kernel=kernel,
        features=None,
        projection=False,
        renormalize=renormalize,
      )
      for renormalize in (True, False)
      for kernel in KERNELS
    },
  )
  for name in FASTER:
    usual = found[name.partition(',')[0]]
    found[name] = dataclasses.replace(usual, rate=10 * usual.rate)
  return study.Study(learning.run, found)


def _setting(
  length: int, files: dict[str, str] | None, **sizes: int
) -> proteins.Setting:
  return proteins.Setting(
    transformer.Transformer(
      vocab_size=29,
      max_length=length,
      attention=attention.Exact(),
      causal=False,
      num_layers=sizes['layers'],
      num_heads=sizes['heads'],
      d_model=sizes['width'],
      d_ff=sizes['d_ff'],
      dropout=0.0 if files is None else 0.1,
    ),
    protein_data.Proteins(
      task='mlm', max_length=length, masking='bert', files=files
    ),
    batch=sizes['batch'],
    steps=sizes['steps'],
    rate=1e-3 if files else 3e-3,
    warmup=None if files else 30,
    every=sizes['steps'] // 10,
  )


_TREMBL = {
  split: f'data/trembl/{split}.fasta.gz'
  for split in ('train', *protein_data.SAMPLE_SPLITS[1:])
}
_TINY = {'layers': 2, 'heads': 2, 'width': 64, 'd_ff': 128, 'batch': 16}
_PAPER = {'layers': 6, 'heads': 8, 'width': 512, 'd_ff': 2048, 'batch': 2048}
STUDY = {
  'tiny': _study(_setting(128, None, steps=300, **_TINY)),
  'paper': _study(_setting(512, _TREMBL, steps=200_000, **_PAPER)),
}


def _accuracies(results: study.Results) -> dict[str, np.ndarray]:
  found = rows.table(results, 'accuracy', form='{arm}')
  return {arm: 100 * values for arm, values in found.items()}


def _finite(results: study.Results) -> dict[str, np.ndarray]:
  return {f'{arm}, finite': results(arm, 'finite') for arm in results.arms}


def _explain(results: study.Results) -> str:
  lost = [
    f'{arm} {int((1 - results(arm, "finite")).sum())}'
    for arm in results.arms
    if results(arm, 'finite').min() < 1
  ]
  seeds = len(results.seeds)
  return f'Of {seeds} seeds these were lost: {", ".join(lost) or "none"}.'


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
    ours=_accuracies,
    unlisted=_finite,
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
    explain=_explain,
    headline='relu',
  ),
  rows.Row(
    id='fig18-linear-transformer',
    claim='The Linear Transformer (elu + 1) is less stable than ReLU at a high '
    'rate (percent of hidden residues, validation).',
    study=STUDY,
    ours=lambda results: {
      arm: values
      for arm, values in _accuracies(results).items()
      if arm in ('relu', 'elu1', *FASTER)
    },
    published=ledger.Published(
      'curves: elu + 1 explodes, ReLU does not',
      'arXiv:2009.14794, Fig. 18',
    ),
    trend='at the high rate elu + 1 below ReLU',
    claims=[claims.below(FASTER[1], than=FASTER[0], paired=True)],
    figure=_figure,
    explain=_explain,
    headline=FASTER[1],
  ),
)
