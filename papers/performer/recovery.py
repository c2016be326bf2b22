"""Fig. 10 to 13: what trained attention looks at.

A masked language model of proteins is trained, and its attention matrices are
recovered: rows sum to 1; some heads look at neighbours (bands along the
diagonal), others at the same few positions (vertical lines). Attention from
residue a to residue b, summed over sequences, layers and heads, over what the
frequencies of b would give, is compared with BLOSUM62: Pearson's correlation
over pairs of different residues (Fig. 13; this normalisation is our choice).
"""

import dataclasses
import itertools

import numpy as np

from papers import claims, figures, rows, study
from papers import training as papers_training
from papers.performer import learning, proteins
from performer import attention, residues, results
from performer.data import vocabulary
from performer.models import transformer
from runtime import loop
from runtime.record import ledger

NEAR = 2  # Positions, either way, that count as neighbours.
_STANDARD = vocabulary.NUM_STANDARD


@dataclasses.dataclass(frozen=True)
class Setting:
  """A run: training, then a look at some sequences."""

  training: proteins.Setting  # Model, data and lengths.
  sequences: int = 64  # Validation sequences that are looked at.


def look(
  model: transformer.Transformer, state: object, batches: list[dict]
) -> study.Record:
  """Patterns and similarity in the attention to some sequences.

  Args:
    model: the language model.
    state: `learner.TrainState`.
    batches: of one sequence each.

  Returns:
    `rows`, the largest distance of a row's sum from 1; `near`, the share of
    attention to neighbours of the head with most of it, and `vertical`, the
    share of the tenth of the keys that get most, of the head with most of it;
    `correlation` and `ratios`.
  """
  sums, off, near, vertical = np.zeros((2, _STANDARD, _STANDARD)), 0.0, [], []
  for batch in batches:
    length = int(batch['mask'].sum())
    # Of the whole window, so that all sequences share their programs.
    maps = results.attention_maps(
      model,
      state.eval_params,
      state.projections,
      batch,
      length=model.max_length,
    )
    maps = np.asarray(maps, float)[:, :, :length, :length]
    maps = maps.reshape(-1, length, length)
    off = max(off, np.abs(maps.sum(-1) - 1).max())
    apart = np.abs(np.arange(length)[:, None] - np.arange(length))
    near.append((maps * (apart <= NEAR)).sum(-1).mean(-1))
    columns = np.sort(maps.mean(1), -1)[:, ::-1]
    vertical.append(columns[:, : max(length // 10, 1)].sum(-1))
    # Hidden residues count as what they are.
    sums += residues.pair_sums(maps, batch['targets'][0, :length])
  ratios = residues.similarity(sums)
  return {
    'rows': off,
    'near': np.mean(near, 0).max(),
    'vertical': np.mean(vertical, 0).max(),
    'correlation': residues.correlation(ratios),
    'ratios': ratios,
  }


def run(setting: Setting, *, seed: int) -> study.Record:
  """Trains, and looks before and after.

  Returns:
    See `look`; names begin with `new ` before training.
  """
  trainer = proteins.trainer(setting.training)
  held_out = trainer.data.eval_batches(learning.JUDGED, batch_size=1)
  batches = [*itertools.islice(held_out, setting.sequences)]
  with papers_training.opened(trainer, seed=seed) as experiment:
    before = look(trainer.model, experiment.init(), batches)
    driven = loop.drive(experiment, setting.training.steps)
    after = look(trainer.model, driven.state, batches)
  return {f'new {k}': v for k, v in before.items()} | dict(after)


def _study(training: proteins.Setting, sequences: int) -> study.Study:
  mechanisms = {'exact': attention.Exact(), 'relu': proteins.RELU_KERNEL}
  arms = proteins.arms(training, mechanisms)
  return study.Study(run, {k: Setting(v, sequences) for k, v in arms.items()})


STUDY = {
  'tiny': _study(
    proteins.setting_of(128, (2, 2, 128, 256), steps=600, every=50), 64
  ),
  'paper': _study(
    proteins.setting_of(
      1024, (36, 8, 512, 1024), large=True, steps=1_000_000, every=1000
    ),
    800,
  ),
}
_NAMES = {'': 'trained', 'new ': 'new'}
_ROW_SUMS = [
  f'{arm}, {when}: rows'
  for arm in STUDY['tiny'].arms
  for when in _NAMES.values()
]


def _table(
  found: study.Results, *metrics: str, form: str = '{arm}, {when}: {metric}'
) -> dict[str, np.ndarray]:
  return {
    form.format(arm=arm, when=when, metric=metric): found(arm, prefix + metric)
    for metric in metrics
    for arm in found.arms
    for prefix, when in _NAMES.items()
  }


_shares = figures.bars(
  {
    f'{metric}, {when}': prefix + metric
    for metric in ('near', 'vertical')
    for prefix, when in _NAMES.items()
  },
  xlabel='share of attention',
)


def _ratios(found: study.Results) -> figures.Panel:
  letters = vocabulary.SYMBOLS[:_STANDARD]
  ratios = np.nanmean(found('exact', 'ratios'), axis=0)
  return figures.Shades(
    rows=letters,
    columns=letters,
    values=np.nan_to_num(ratios, nan=1.0),
    by_column=False,
    xlabel='attention between residues, over what chance gives',
  )


ROWS = (
  rows.Row(
    id='fig10-patterns',
    claim='Trained attention has heads that look at neighbours and heads that '
    'look at few positions (shares of attention, of the head with most).',
    study=STUDY,
    ours=lambda found: _table(found, 'near', 'vertical'),
    unlisted=lambda found: _table(found, 'rows'),
    published=ledger.Published(
      'pictures with diagonal and vertical patterns',
      'arXiv:2009.14794, Fig. 10 to 12',
    ),
    trend='rows sum to 1; both shares grow by training',
    claims=[
      claims.Check(
        'rows sum to 1 within 0.0001',
        lambda table: max(max(table[label]) for label in _ROW_SUMS) < 1e-4,
      ),
      *(
        claims.above(
          f'exact, trained: {kind}', than=f'exact, new: {kind}', paired=True
        )
        for kind in ('near', 'vertical')
      ),
    ],
    figure=_shares,
    headline='exact, trained: near',
  ),
  rows.Row(
    id='fig13-amino-acids',
    claim='Trained attention finds similar amino acids similar (correlation with '
    'BLOSUM62 over pairs of different residues).',
    study=STUDY,
    ours=lambda found: _table(found, 'correlation', form='{arm}, {when}'),
    published=ledger.Published(
      'pictures; D and E, F and Y are similar in both',
      'arXiv:2009.14794, Fig. 13',
    ),
    trend='above 0, and above that of a new model',
    claims=[
      claims.above('exact, trained', than=0.0),
      claims.above('exact, trained', than='exact, new', paired=True),
    ],
    figure=_ratios,
    headline='exact, trained',
  ),
)
