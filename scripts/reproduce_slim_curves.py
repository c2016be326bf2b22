"""Rows about training: the copy task, text, and a switch half way.

Sizes of the small versions are chosen to end in minutes on two CPU cores; the
others are those of the published launcher.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import bench_slim_forms as forms
import jax
import numpy as np
import reproduce_performer_common as common
import reproduce_slim_training as training

from performer.data import copying as copying_lib
from performer.data import text as text_lib
from runtime import verdicts

__all__ = [
  'Corpus',
  'copying_rows',
  'copying_setting',
  'overlay',
  'regime_findings',
  'switch_finding',
  'switch_rows',
  'text_rows',
  'text_setting',
]

TOLERANCE = 1e-3  # Bits, between curves of one seed.
JUMP = 1e-6  # Relative, of the loss at a switch.
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
    rate=3e-3,
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
  """Trains and judges the copy task; `setting` in the place of the scale's."""
  setting = setting or copying_setting(scale)
  chance = setting.data.chance_bits
  return regime_findings(
    'copying',
    _trained(setting, seeds),
    baseline=chance,
    explanation=f'The baseline of {chance:.4g} bits knows the format but not the '
    'word; 0 bits are perfect. ' + _described(setting),
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
    + _described(setting),
  )


def _trained(setting: training.Setting, seeds: Sequence[int]) -> Curves:
  runs = [training.regimes(setting, seed) for seed in seeds]
  return {name: [run[name] for run in runs] for name in runs[0]}


def _described(setting: training.Setting) -> str:
  s = setting.sizes
  return (
    f'L={setting.data.max_length}, d={s.width}, h={s.heads}, s={s.layers}, '
    f'f={s.inner}, V={s.vocab}, batch {setting.batch}, {setting.steps} steps of '
    f'Adam at {setting.rate:g}.'
  )


def overlay(
  curves: Curves, name: str, *, steps: int | None = None
) -> tuple[float, ...]:
  """Largest difference of a regime's curves from FULL, for each seed.

  Args:
    curves: of all regimes.
    name: of one.
    steps: only the first so many; None: all, and the evaluations too.

  Returns:
    Bits.
  """
  found = []
  for one, two in zip(curves[name], curves[training.FULL], strict=True):
    gaps = np.abs(one.train - two.train)[:steps]
    evaluated = np.abs(one.valid - two.valid) if steps is None else [0.0]
    found.append(float(max(gaps.max(), *evaluated)))
  return tuple(found)


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
  gaps = {n: overlay(curves, n) for n in curves if n != training.FULL}
  early = {f'{n}, 100 steps': overlay(curves, n, steps=100) for n in gaps}
  ends = {
    n: tuple(float(c.valid[-1]) for c in runs) for n, runs in curves.items()
  }
  hits = [float(c.accuracy[-1]) for runs in curves.values() for c in runs]
  final = max(
    abs(a - b)
    for values in ends.values()
    for a, b in zip(values, ends[training.FULL], strict=True)
  )
  draw = functools.partial(_picture, curves, baseline)
  return [
    common.Finding(
      {
        'id': f'{task}-regimes-agree',
        'claim': 'Chunks do not change training: the curves of FULL, of chunks '
        'from the start and of FINE-TUNE coincide for one seed (largest '
        'difference from FULL over all steps, bits).',
        'ours': gaps | early,
        'published': 'not found',
        'trend': f'below {TOLERANCE:g} bits at every step and evaluation',
        'verdict': common.combine(
          [_below(values, TOLERANCE) for values in gaps.values()]
        ),
        'explanation': f'{explanation} At the end validation differs from FULL '
        f'by at most {final:.2g} bits. Training is chaotic: a difference in '
        'rounding, such as that of two compilers, grows with the steps.',
      },
      draw,
    ),
    common.Finding(
      {
        'id': f'{task}-learns',
        'claim': 'Every regime learns (bits per target on validation).',
        'ours': ends | {'baseline': (float(baseline),)},
        'published': 'not found',
        'trend': 'below the baseline in every regime',
        'verdict': common.combine(
          [_below(values, baseline) for values in ends.values()]
        ),
        'explanation': f'{explanation} Accuracy at the end: '
        f'{min(hits):.3f} to {max(hits):.3f}.',
      },
      draw,
    ),
  ]


def _below(values: Sequence[float], limit: float) -> verdicts.Verdict:
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
        gap = np.abs(run.train - curves[training.FULL][seed].train)
        gap = np.maximum.accumulate(gap)
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


def switch_rows(
  scale: str,
  seeds: Sequence[int],
  *,
  setting: training.Setting | None = None,
) -> list[common.Finding]:
  """Trains 500 steps on whole sequences, then goes on in chunks of L / 4."""
  del scale  # The sizes of text at the small scale.
  setting = setting or dataclasses.replace(text_setting(Corpus()), steps=1000)
  chunk = -(-setting.data.max_length // 4)
  half = setting.steps // 2
  ours: dict[str, list[float]] = {}
  curves = []
  for seed in seeds:
    full, chunked = forms.Form('full'), forms.Form('subtract', chunk)
    start = training.begin(setting, seed)
    state, first = training.train(setting, full, start, seed, (0, half))
    batch = next(training.resume(setting, seed, half))
    for name, gap in _jumps(setting, state.params, batch, chunk).items():
      ours.setdefault(name, []).append(gap)
    runs = [
      training.train(setting, form, state, seed, (half, setting.steps))[1]
      for form in (full, chunked)
    ]
    curves.append([first.joined(run) for run in runs])
  return [
    switch_finding(
      {name: tuple(values) for name, values in ours.items()},
      curves,
      chunk,
      _described(setting),
    )
  ]


def _jumps(
  setting: training.Setting, params: Any, batch: Any, chunk: int
) -> dict[str, float]:
  """Relative change of the loss when the strategy changes."""
  model = forms.build(setting.sizes)
  found = {}
  for kind in ('full', 'subtract', 'checkpoint', 'checkpoint2'):
    form = forms.Form(kind, None if kind == 'full' else chunk)
    loss, *_ = jax.jit(forms.gradient(form, model))(params, batch, None)
    found[form.name] = float(loss)
  whole = found.pop('full')
  return {name: abs(loss / whole - 1) for name, loss in found.items()}


def switch_finding(
  jumps: Mapping[str, tuple[float, ...]],
  curves: Sequence[Sequence[training.Curve]],
  chunk: int,
  explanation: str,
) -> common.Finding:
  """Judges the jumps.

  Args:
    jumps: relative, by strategy, one for each seed.
    curves: of runs that go on as before and in chunks, for each seed.
    chunk: C after the switch.
    explanation: of the setting.

  Returns:
    The finding.
  """
  apart = max(float(np.abs(a.train - b.train).max()) for a, b in curves)
  found = {'FULL': [c[0] for c in curves], f'C={chunk}': [c[1] for c in curves]}
  return common.Finding(
    {
      'id': 'switch-half-way',
      'claim': 'A run on whole sequences goes on in chunks, with the same '
      'parameters and the same loss (relative jump of the loss at the switch).',
      'ours': dict(jumps),
      'published': 'not found',
      'trend': f'below {JUMP:g}',
      'verdict': common.combine([_below(v, JUMP) for v in jumps.values()]),
      'explanation': f'{explanation} After the switch, training losses of runs '
      f'that go on either way differ by at most {apart:.2g} bits.',
    },
    functools.partial(_switch_picture, found),
  )


def _switch_picture(curves: Curves, path: pathlib.Path) -> None:
  fig, (left, right) = common.new_axes(2)
  for color, (name, runs) in zip(common.COLORS, curves.items(), strict=False):
    for seed, run in enumerate(runs):
      style = '-' if name == training.FULL else '--'
      label = name if seed == 0 else None
      left.plot(run.train, style, color=color, lw=0.7, label=label)
  half = len(run.train) // 2
  for one, two in zip(*curves.values(), strict=True):
    gap = np.maximum(np.abs(one.train - two.train), 1e-9)
    right.plot(gap, color=common.COLORS[0], lw=0.7)
  for axis in (left, right):
    axis.axvline(half, color='0.5', ls=':')
    axis.set_xlabel('step')
  left.legend(frameon=False, fontsize='small')
  left.set_ylabel('bits per target, training')
  right.set_yscale('log')
  right.set_ylabel('difference of the two runs (bits)')
  common.save(fig, path)
