"""A row about memory that does not grow: a gradient of 131072 positions."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import reproduce_common as common

from benchmarks import programs
from benchmarks import slim_bars as targets
from benchmarks import slim_forms as forms
from runtime.record import verdicts

__all__ = ['constant_finding', 'constant_rows']

_MIB = 2**20


def constant_rows(
  scale: str,
  seeds: Sequence[int],
  *,
  lengths: tuple[int, int] = (8192, 131072),
  chunk: int = 64,
) -> list[common.Finding]:
  """Compiles at two lengths and takes a step at the longer one.

  Args:
    scale: the size is the same at both.
    seeds: of parameters and tokens.
    lengths: L, the short and the long one.
    chunk: C.

  Returns:
    The finding.
  """
  del scale
  sizes = forms.Sizes(32, 4, 1, 128, 64)
  model = forms.build(sizes)
  names = ('subtract', 'checkpoint2')
  memory: dict[str, list[int]] = {}
  steps: dict[str, Any] = {}
  for length in lengths:
    batch = forms.inputs(sizes.vocab, length, seed=0)
    params, _ = forms.parameters(model, 0)
    for name in names:
      function = jax.jit(forms.gradient(forms.Form(name, chunk), model))
      steps[name] = function.lower(params, batch, None).compile()
      memory.setdefault(name, []).append(programs.temporary_bytes(steps[name]))
  gaps = []
  for seed in seeds:
    params, _ = forms.parameters(model, seed)
    batch = forms.inputs(sizes.vocab, lengths[1], seed=seed)
    grads = [steps[name](params, batch, None)[1] for name in names]
    gaps.append(forms.apart(*grads))
  return [constant_finding(memory, gaps, lengths, chunk)]


def constant_finding(
  memory: Mapping[str, Sequence[int]],
  gaps: Sequence[float],
  lengths: tuple[int, int],
  chunk: int,
) -> common.Finding:
  """Judges memory at a short and a long sequence.

  Args:
    memory: temporary bytes at both lengths, by strategy.
    gaps: relative distance of the two gradients at the long one, for each seed.
    lengths: L.
    chunk: C.

  Returns:
    The finding.
  """
  short, long = memory['subtract']
  beyond = targets.beyond_inputs(lengths[1], long, lengths[0], short)
  parts = [
    'holds' if max(long, memory['checkpoint2'][1]) < 8 * _MIB else 'fails',
    'holds' if abs(beyond) <= 0.1 * short else 'fails',
    verdicts.verdict(gaps, [1e-4], higher_is_better=False),
  ]
  ours = {
    f'{name} L={length} MiB': (size / _MIB,)
    for name, sizes in memory.items()
    for length, size in zip(lengths, sizes, strict=True)
  }
  return common.Finding(
    {
      'id': 'constant-memory',
      'claim': 'The gradient of a very long sequence fits into constant memory '
      '(MiB of temporaries; distance of the gradients by subtraction and from '
      'stored states at the longer length).',
      'ours': ours | {f'gradients apart, L={lengths[1]}': tuple(gaps)},
      'published': 'not found',
      'trend': f'below 8 MiB at L={lengths[1]}; subtract within 10 % of '
      f'L={lengths[0]}, where {targets.INPUT_BYTES} bytes per position may be '
      'copies of inputs; gradients closer than 1e-4',
      'verdict': common.combine(parts),
      'explanation': f'C={chunk}, d=32, s=1. Gradients were computed, not only '
      f'compiled. Growth of subtract: {(long - short) / _MIB:.3g} MiB.',
    },
    functools.partial(_constant_picture, memory, lengths),
  )


def _constant_picture(
  memory: Mapping[str, Sequence[int]],
  lengths: tuple[int, int],
  path: pathlib.Path,
) -> None:
  fig, (axis,) = common.new_axes(1)
  for color, (name, sizes) in zip(common.COLORS, memory.items(), strict=False):
    values = [size / _MIB for size in sizes]
    axis.plot(lengths, values, 'o-', color=color, label=name)
  axis.axhline(8, color='0.5', ls=':', label='limit')
  axis.set_xscale('log', base=2)
  axis.set_ylim(bottom=0)
  axis.set_xlabel('length L')
  axis.set_ylabel('temporary memory (MiB)')
  axis.legend(frameon=False, fontsize='small')
  common.save(fig, path)
