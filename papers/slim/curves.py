"""Training curves: the copy task and text, in all regimes, and a switch.

Sizes of the small versions are chosen to end in minutes on two CPU cores; the
others are those of the published launcher.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks import slim_forms as forms
from papers import claims, figures, rows, study
from papers.slim import runs
from performer.data import copying, text
from performer.slim import options as slim_options

TOLERANCE = 1e-3  # Bits, between curves of one seed.
JUMP = 1e-6  # Relative, of the loss.
BASELINE = 'baseline'
Studies = study.Study | Mapping[str, study.Study]


def _knows_format(data: copying.Copying) -> study.Record:
  return {'bits': data.chance_bits}


def _knows_bytes(data: text.Text) -> study.Record:
  return {'bits': data.unigram_bits('valid')}


def _with_baseline(setting: runs.Setting, chunks: Sequence[int]) -> study.Study:
  """All regimes, beside the bits of a model that has not learnt."""
  is_text = isinstance(setting.data, text.Text)
  baseline = functools.partial(
    _knows_bytes if is_text else _knows_format, setting.data
  )
  return runs.regimes(setting, chunks, fixed={BASELINE: baseline})


def _explain(results: study.Results) -> str:
  setting = results.settings[runs.FULL]
  is_text = isinstance(setting.data, text.Text)
  what = 'the frequencies of bytes' if is_text else 'the format, not the word'
  bits = results(BASELINE, 'bits')[0]
  return (
    f'The baseline of {bits:.4g} bits knows {what}. {runs.described(setting)}'
  )


def _distances(results: study.Results, arm: str) -> np.ndarray:
  """Of the training losses from those of FULL, [seeds, steps]."""
  return np.abs(results(arm, 'train') - results(runs.FULL, 'train'))


def gaps(results: study.Results) -> dict[str, np.ndarray]:
  """Largest difference of a regime's curves from FULL, for each seed, in bits.

  Curves are of training losses and of evaluations.
  """
  valid = {arm: results(arm, 'valid') for arm in results.arms}
  return {
    arm: np.maximum(
      _distances(results, arm).max(1),
      np.abs(valid[arm] - valid[runs.FULL]).max(1),
    )
    for arm in results.arms
    if arm != runs.FULL
  }


def _explain_gaps(results: study.Results) -> str:
  """The setting, where regimes part first, and how far rounding alone goes."""
  found = gaps(results)
  apart = [
    int(np.argmax(line > TOLERANCE)) + 1
    for arm in found
    if arm != runs.CONTROL
    for line in _distances(results, arm)
    if (line > TOLERANCE).any()
  ]
  where = f'The limit is first passed at step {min(apart)}. ' if apart else ''
  return (
    f'{_explain(results)} {where}CONTROL is FULL, from parameters whose last '
    f'digit is changed. Rounding alone takes CONTROL '
    f'{found[runs.CONTROL].max():.2g} bits away from FULL.'
  )


def _explain_ends(results: study.Results) -> str:
  hits = [*_last(results, 'accuracy').values()]
  return (
    f'{_explain(results)} Accuracy at the end: {np.min(hits):.3f} to '
    f'{np.max(hits):.3f}.'
  )


def _last(results: study.Results, metric: str) -> dict[str, np.ndarray]:
  """Last values of all regimes."""
  regimes = [arm for arm in results.arms if arm != runs.CONTROL]
  return rows.table(results, metric, form='{arm}', arms=regimes)


def _figure(results: study.Results) -> list[figures.Panel]:
  """Validation, and the distance of training losses from FULL."""
  valid, distances = [], []
  for color, arm in enumerate(results.arms):
    style = '-' if arm == runs.FULL else '--'
    steps = results(arm, 'steps')[0]
    valid.append(
      figures.Line(arm, steps, results(arm, 'valid'), style=style, color=color)
    )
    if arm != runs.FULL:
      farthest = np.maximum.accumulate(_distances(results, arm), axis=1)
      at = np.arange(1, farthest.shape[1] + 1)
      distances.append(figures.Line(arm, at, farthest, color=color))
  return [
    figures.Lines(
      lines=valid,
      levels={BASELINE: results(BASELINE, 'bits')[0]},
      xlabel='step',
      ylabel='bits per target, validation',
      options={'ylim': (0, None)},
    ),
    figures.Lines(
      lines=distances,
      levels={'limit': TOLERANCE},
      xlabel='step',
      ylabel='largest difference from FULL so far (bits)',
      xscale='log',
      yscale='log',
    ),
  ]


def agreement_row(task: str, studies: Studies) -> rows.Row:
  """Whether the curves of all regimes coincide."""
  return rows.Row(
    id=f'{task}-regimes-agree',
    claim='Chunks do not change training: the curves of FULL, of chunks from the '
    'start and of FINE-TUNE coincide for one seed (largest difference from FULL '
    'over all steps, bits).',
    study=studies,
    ours=gaps,
    trend=f'below {TOLERANCE:g} bits at every step and evaluation',
    claims=lambda table: [
      claims.below(arm, than=TOLERANCE) for arm in table if arm != runs.CONTROL
    ],
    figure=_figure,
    explain=_explain_gaps,
  )


def learning_row(task: str, studies: Studies) -> rows.Row:
  """Whether all regimes learn."""
  return rows.Row(
    id=f'{task}-learns',
    claim='Every regime learns (bits per target on validation).',
    study=studies,
    ours=lambda results: (
      _last(results, 'valid') | {BASELINE: results(BASELINE, 'bits')}
    ),
    trend='below the baseline in every regime',
    claims=lambda table: [
      claims.below(arm, than=BASELINE) for arm in table if arm != BASELINE
    ],
    figure=_figure,
    explain=_explain_ends,
  )


def switch_row(setting: runs.Setting) -> rows.Row:
  """Whether the loss jumps when chunks of a quarter take over half way."""
  chunk = -(-setting.data.max_length // 4)
  probed = tuple(
    forms.Form(kind, chunk)
    for kind in ('subtract', 'checkpoint', 'checkpoint2')
  )
  switched = f'C={chunk}'
  arms = {
    runs.FULL: setting,
    switched: dataclasses.replace(
      setting, second=slim_options.Slim('subtract', chunk), probed=probed
    ),
  }

  def explain(results: study.Results) -> str:
    return (
      f'{runs.described(results.settings[runs.FULL])} After the switch, the '
      'training losses of the run on whole sequences and of the run in chunks '
      f'differ by at most {_distances(results, switched).max():.2g} bits.'
    )

  def figure(results: study.Results) -> list[figures.Panel]:
    at = np.arange(setting.steps)
    distances = np.maximum(_distances(results, switched), 1e-9)
    return [
      figures.Lines(
        lines=[
          figures.Line(arm, at, results(arm, 'train'), style=style)
          for arm, style in ((runs.FULL, '-'), (switched, '--'))
        ],
        xlabel='step',
        ylabel='bits per target, training',
      ),
      figures.lines(
        {'': distances},
        at,
        xlabel='step',
        ylabel='difference of the two runs (bits)',
        yscale='log',
      ),
    ]

  return rows.Row(
    id='switch-half-way',
    claim='A run on whole sequences goes on in chunks, with the same parameters '
    'and the same loss (relative jump of the loss at the switch).',
    study=study.Study(runs.run, arms),
    ours=lambda results: {
      str(form): results(switched, f'jump {form}') for form in probed
    },
    trend=f'below {JUMP:g}',
    claims=[claims.below(str(form), than=JUMP) for form in probed],
    figure=figure,
    explain=explain,
  )


# At three times the rate and without its drop training amplifies any rounding
# until curves part, those of whole sequences too.
_COPYING = runs.Setting(
  copying.Copying(max_length=31, vocab_size=16, num_threads=0),
  forms.build(forms.Sizes(64, 4, 1, 256, 16, norm='pre')),
  batch=8,
  steps=4000,
  rate=1e-3,
  drop_at=2667,  # Two thirds, as published.
)
_FAST = dataclasses.replace(_COPYING, rate=3e-3, drop_at=None)
_COPYING_128 = dataclasses.replace(
  _COPYING, data=copying.Copying(max_length=127, vocab_size=16, num_threads=0)
)
_COPYING_PUBLISHED = runs.Setting(
  copying.Copying(max_length=511, vocab_size=256),
  forms.build(forms.Sizes(256, 4, 1, 1024, 256, norm='pre')),
  batch=1,
  steps=15_000,
  rate=1e-2,
  drop_at=10_000,
  every=500,
)
_SAMPLE = runs.Setting(
  text.Text(max_length=256, num_threads=0),
  forms.build(forms.Sizes(128, 4, 2, 512, 256)),
  batch=1,
  steps=2000,
  rate=1e-3,
)
_PTB = runs.Setting(
  text.Text(
    max_length=1023,
    files={s: f'data/ptb/ptb.{s}.txt' for s in ('train', 'valid')},
  ),
  forms.build(forms.Sizes(512, 8, 3, 2048, 256)),
  batch=1,
  steps=30_000,
  rate=1e-4,
  every=1000,
)
_ENWIK8 = runs.Setting(
  text.Text(
    max_length=4095,
    files=dict.fromkeys(('train', 'valid'), 'data/enwik8'),
    byte_ranges={'train': (0, 90_000_000), 'valid': (90_000_000, 95_000_000)},
  ),
  forms.build(forms.Sizes(1024, 16, 3, 4096, 256)),
  batch=1,
  steps=100_000,
  rate=2e-4,
  every=5000,
)
STUDIES: dict[str, Studies] = {
  'copying': {
    'tiny': _with_baseline(_COPYING, (8,)),
    'paper': _with_baseline(_COPYING_PUBLISHED, (128, 64)),
  },
  'copying-128': _with_baseline(_COPYING_128, (32,)),
  'text-sample': {'tiny': _with_baseline(_SAMPLE, (64,))},
  'text-ptb': {'paper': _with_baseline(_PTB, (512, 256))},
  'text-enwik8': {'paper': _with_baseline(_ENWIK8, (2048, 1366))},
}
ROWS = (
  *(agreement_row(task, studies) for task, studies in STUDIES.items()),
  *(learning_row(task, studies) for task, studies in STUDIES.items()),
  agreement_row('copying-fast', {'tiny': _with_baseline(_FAST, (8,))}),
  switch_row(dataclasses.replace(_SAMPLE, steps=1000)),
)
