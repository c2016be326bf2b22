"""A row about a switch from whole sequences to chunks half way."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import reproduce_common as common
import reproduce_slim_curves as curves_lib
import reproduce_slim_training as training

from benchmarks import slim_forms as forms

__all__ = ['switch_finding', 'switch_rows']

JUMP = 1e-6  # Relative, of the loss.


def switch_rows(
  scale: str,
  seeds: Sequence[int],
  *,
  setting: training.Setting | None = None,
) -> list[common.Finding]:
  """Trains 500 steps on whole sequences, then goes on in chunks of L / 4."""
  del scale  # The sizes of text at the small scale.
  setting = setting or dataclasses.replace(
    curves_lib.text_setting(curves_lib.Corpus()), steps=1000
  )
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
      curves_lib.described(setting),
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
    found[str(form)] = float(loss)
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
      'verdict': common.combine(
        [curves_lib.below(v, JUMP) for v in jumps.values()]
      ),
      'explanation': f'{explanation} After the switch, training losses of runs '
      f'that go on either way differ by at most {apart:.2g} bits.',
    },
    functools.partial(_switch_picture, found),
  )


def _switch_picture(curves: curves_lib.Curves, path: pathlib.Path) -> None:
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
