"""Rows about training: the copy task and text.

Sizes of the small versions are chosen to end in minutes on two CPU cores; the
others are those of the published launcher.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import reproduce_common as common
import reproduce_slim_training as training

from benchmarks import slim_forms as forms
from performer.data import copying as copying_lib
from performer.data import text as text_lib
from runtime.record import verdicts

__all__ = [
  'Corpus',
  'agreement_finding',
  'below',
  'copying_rows',
  'copying_setting',
  'described',
  'long_copying_rows',
  'overlay',
  'regime_findings',
  'text_rows',
  'text_setting',
]

TOLERANCE = 1e-3  # Bits, between curves of one seed.
_FAST = 3
Curves = Mapping[str, Sequence[training.Curve]]  # One for each seed.


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Files of a text; the names choose the published settings.

  Attributes:
    name: 'sample', which ships, 'ptb' or 'enwik8'.
    train: path; None for the sample.
    valid: path; for enwik8 that of `train`.
  """

  name: str = 'sample'
  train: str | None = None
  valid: str | None = None


def copying_setting(scale: str) -> training.Setting:
  """The copy task at a scale."""
  if scale == 'paper':
    return training.Setting(
      copying_lib.Copying(max_length=511, vocab_size=256),
      forms.Sizes(256, 4, 1, 1024, 256, norm='pre'),
      batch=1,
      steps=15_000,
      rate=1e-2,
      drop_at=10_000,
      chunks=(128, 64),
      every=500,
    )
  return training.Setting(
    copying_lib.Copying(max_length=31, vocab_size=16, num_threads=0),
    forms.Sizes(64, 4, 1, 256, 16, norm='pre'),
    batch=8,
    steps=4000,
    rate=1e-3,  # See `copying_rows`.
    drop_at=2667,  # Two thirds, as above.
    chunks=(8,),
  )


def text_setting(corpus: Corpus) -> training.Setting:
  """Text of bytes: the sample at a small size, or published settings.

  Raises:
    ValueError: if the files that a published setting needs are not given.
  """
  if corpus.name == 'sample':
    return training.Setting(
      text_lib.Text(max_length=256, num_threads=0),
      forms.Sizes(128, 4, 2, 512, 256),
      batch=1,
      steps=2000,
      rate=1e-3,
      chunks=(64,),
    )
  if corpus.train is None or (corpus.name == 'ptb' and corpus.valid is None):
    raise ValueError(f'{corpus.name} needs files, got {corpus}')
  if corpus.name == 'ptb':
    files = {'train': corpus.train, 'valid': corpus.valid}
    return training.Setting(
      text_lib.Text(max_length=1023, files=files),
      forms.Sizes(512, 8, 3, 2048, 256),
      batch=1,
      steps=30_000,
      rate=1e-4,
      chunks=(512, 256),
      every=1000,
    )
  return training.Setting(
    text_lib.Text(
      max_length=4095,
      files={'train': corpus.train, 'valid': corpus.train},
      byte_ranges={
        'train': (0, 90_000_000),
        'valid': (90_000_000, 95_000_000),
      },
    ),
    forms.Sizes(1024, 16, 3, 4096, 256),
    batch=1,
    steps=100_000,
    rate=2e-4,
    chunks=(2048, 1366),
    every=5000,
  )


def copying_rows(
  scale: str, seeds: Sequence[int], *, setting: training.Setting | None = None
) -> list[common.Finding]:
  """Trains and judges the copy task; `setting` in the place of the scale's.

  At the small scale also at `_FAST` times the rate and without its drop, where
  training amplifies any rounding until curves part, those of whole sequences too.
  """
  setting = setting or copying_setting(scale)
  chance = setting.data.chance_bits
  text = f'The baseline of {chance:.4g} bits knows the format but not the word.'
  found = regime_findings(
    'copying',
    _trained(setting, seeds),
    baseline=chance,
    explanation=f'{text} {described(setting)}',
  )
  if scale == 'tiny':
    fast = dataclasses.replace(setting, rate=_FAST * setting.rate, drop_at=None)
    found.append(
      agreement_finding(
        'copying-fast',
        _trained(fast, seeds),
        baseline=chance,
        explanation=f'{text} {described(fast)}',
      )
    )
  return found


def long_copying_rows(
  scale: str, seeds: Sequence[int], *, setting: training.Setting | None = None
) -> list[common.Finding]:
  """The copy task in windows of 128 tokens, at the small size of the model."""
  del scale  # It has one size.
  setting = setting or dataclasses.replace(
    copying_setting('tiny'),
    data=copying_lib.Copying(max_length=127, vocab_size=16, num_threads=0),
    chunks=(32,),
  )
  return regime_findings(
    'copying-128',
    _trained(setting, seeds),
    baseline=setting.data.chance_bits,
    explanation='The baseline knows the format but not the word. '
    + described(setting),
  )


def text_rows(
  scale: str,
  seeds: Sequence[int],
  *,
  corpus: Corpus = Corpus(),
  setting: training.Setting | None = None,
) -> list[common.Finding]:
  """Trains and judges a model of text; `setting` replaces the corpus's."""
  del scale  # The corpus has it.
  setting = setting or text_setting(corpus)
  return regime_findings(
    f'text-{corpus.name}',
    _trained(setting, seeds),
    baseline=setting.data.unigram_bits('valid'),
    explanation='The baseline knows the frequencies of bytes. '
    + described(setting),
  )


def _trained(setting: training.Setting, seeds: Sequence[int]) -> Curves:
  runs = [training.regimes(setting, seed) for seed in seeds]
  return {name: [run[name] for run in runs] for name in runs[0]}


def described(setting: training.Setting) -> str:
  """The sizes of an experiment."""
  s = setting.sizes
  drop = ''
  if setting.drop_at is not None:
    drop = f', a tenth from step {setting.drop_at} on'
  return (
    f'L={setting.data.max_length}, d={s.width}, h={s.heads}, s={s.layers}, '
    f'f={s.inner}, V={s.vocab}, batch {setting.batch}, {setting.steps} steps of '
    f'Adam at {setting.rate:g}{drop}.'
  )


def overlay(curves: Curves, name: str) -> tuple[float, ...]:
  """Largest difference of a regime's curves from FULL, for each seed, in bits.

  Args:
    curves: of all regimes.
    name: of one.

  Returns:
    The largest over training losses and evaluations.
  """
  valid = [
    np.abs(one.valid - two.valid).max()
    for one, two in zip(curves[name], curves[training.FULL], strict=True)
  ]
  pairs = zip(_gaps(curves, name), valid, strict=True)
  return tuple(float(max(gap.max(), other)) for gap, other in pairs)


def regime_findings(
  task: str, curves: Curves, *, baseline: float, explanation: str
) -> list[common.Finding]:
  """Judges curves.

  Args:
    task: first word of the rows' names.
    curves: by regime, one for each seed.
    baseline: bits of who has not learnt.
    explanation: of the setting.

  Returns:
    One finding on the agreement of curves, one on what was learnt.
  """
  ends = {
    name: tuple(float(c.valid[-1]) for c in runs)
    for name, runs in curves.items()
    if name != training.CONTROL
  }
  hits = [float(c.accuracy[-1]) for name in ends for c in curves[name]]
  return [
    agreement_finding(task, curves, baseline=baseline, explanation=explanation),
    common.Finding(
      {
        'id': f'{task}-learns',
        'claim': 'Every regime learns (bits per target on validation).',
        'ours': ends | {'baseline': (float(baseline),)},
        'published': 'not found',
        'trend': 'below the baseline in every regime',
        'verdict': common.combine(
          [below(values, baseline) for values in ends.values()]
        ),
        'explanation': f'{explanation} Accuracy at the end: '
        f'{min(hits):.3f} to {max(hits):.3f}.',
      },
      functools.partial(_picture, curves, baseline),
    ),
  ]


def agreement_finding(
  task: str, curves: Curves, *, baseline: float, explanation: str
) -> common.Finding:
  """Judges whether regimes coincide; arguments as of `regime_findings`."""
  gaps = {n: overlay(curves, n) for n in curves if n != training.FULL}
  judged = [gaps[name] for name in gaps if name != training.CONTROL]
  apart = [
    int(np.argmax(gap > TOLERANCE)) + 1
    for name in gaps
    if name != training.CONTROL
    for gap in _gaps(curves, name)
    if (gap > TOLERANCE).any()
  ]
  where = f'First passed at step {min(apart)}. ' if apart else ''
  return common.Finding(
    {
      'id': f'{task}-regimes-agree',
      'claim': 'Chunks do not change training: the curves of FULL, of chunks '
      'from the start and of FINE-TUNE coincide for one seed (largest '
      'difference from FULL over all steps, bits).',
      'ours': gaps,
      'published': 'not found',
      'trend': f'below {TOLERANCE:g} bits at every step and evaluation',
      'verdict': common.combine([below(v, TOLERANCE) for v in judged]),
      'explanation': f'{explanation} {where}CONTROL is FULL from parameters '
      'changed in the last digit: it parts from FULL by '
      f'{max(gaps[training.CONTROL]):.2g} bits, through rounding alone.',
    },
    functools.partial(_picture, curves, baseline),
  )


def _gaps(curves: Curves, name: str) -> list[np.ndarray]:
  """Differences of training losses from FULL, for each seed."""
  pairs = zip(curves[name], curves[training.FULL], strict=True)
  return [np.abs(one.train - two.train) for one, two in pairs]


def below(values: Sequence[float], limit: float) -> verdicts.Verdict:
  """The verdict that values, one for each seed, are below a limit."""
  return verdicts.verdict(values, [limit], higher_is_better=False)


def _picture(curves: Curves, baseline: float, path: pathlib.Path) -> None:
  """Validation, and the distance of training losses from FULL."""
  fig, (left, right) = common.new_axes(2)
  for color, (name, runs) in zip(common.COLORS, curves.items(), strict=False):
    for seed, run in enumerate(runs):
      label = name if seed == 0 else None
      style = '-' if name == training.FULL else '--'
      left.plot(run.steps, run.valid, style, color=color, label=label, lw=1)
      if name != training.FULL:
        gap = np.maximum.accumulate(_gaps(curves, name)[seed])
        steps = np.arange(1, len(gap) + 1)
        right.plot(steps, gap, color=color, label=label, lw=1)
  left.axhline(baseline, color='0.5', ls=':', label='baseline')
  left.set_ylabel('bits per target, validation')
  left.set_ylim(bottom=0)
  right.axhline(TOLERANCE, color='0.5', ls=':', label='limit')
  right.set_xscale('log')
  right.set_yscale('log')
  right.set_ylabel('largest difference from FULL so far (bits)')
  for axis in (left, right):
    axis.set_xlabel('step')
    axis.legend(frameon=False, fontsize='small')
  common.save(fig, path)
