"""Attention: ours, exact attention, other Performers.

Speed says nothing without the error, so each form carries its relative error
against exact attention at several scales of queries and keys. Forms that return
V bound what any attention can reach, and a matrix product, timed in the same
turns, tells the rate of the machine. The bars are for two CPU cores.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from benchmarks import attention_bars as bars
from benchmarks import attention_forms as forms
from benchmarks import attention_runs as runs
from benchmarks import harness, memory, programs

__all__ = ['SUBJECT', 'Sizes', 'cases']

Case = forms.Case
Results = harness.Results


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What is measured.

  Attributes:
    lengths: L of timed cases.
    compile_lengths: L at which the gradient of ours is only compiled.
    kinds: 'bidirectional', 'causal'.
    passes: 'forward', 'backward' (with the forward pass).
    forms: members of `attention_forms.NAMES`.
    batch: B.
    heads: H.
    width: d.
    features: r.
    dtype: 'float32', 'bfloat16' or 'float16'.
    scale: standard deviation of q and k while timing.
    error_scales: the same for the errors.
    matmul: rows of the square product that tells the rate of the machine.
    call_seconds: a form whose call should last longer is left out.
    memory_bytes: a form that needs more is left out.
  """

  lengths: tuple[int, ...] = tuple(2**n for n in range(8, 15))
  compile_lengths: tuple[int, ...] = (65536,)
  kinds: tuple[str, ...] = ('bidirectional', 'causal')
  passes: tuple[str, ...] = ('forward', 'backward')
  forms: tuple[str, ...] = forms.NAMES
  batch: int = 1
  heads: int = 8
  width: int = 64
  features: int = 256
  dtype: str = 'float32'
  scale: float = 1.0
  error_scales: tuple[float, ...] = (0.25, 0.5, 1.0)
  matmul: int = 2048
  call_seconds: float = 15.0
  memory_bytes: int = 6 * 2**30


def cases(sizes: Sizes) -> list[Case]:
  """Kinds, passes and lengths; those that are only compiled come last."""
  names = ('batch', 'heads', 'width', 'features', 'dtype')
  common = {name: getattr(sizes, name) for name in names}
  timed = [
    Case(kind == 'causal', what == 'backward', length, **common)
    for kind in sizes.kinds
    for what in sizes.passes
    for length in sizes.lengths
  ]
  return timed + [
    Case(kind == 'causal', True, length, **common, timed=False)
    for kind in sizes.kinds
    for length in sizes.compile_lengths
  ]


def forms_of(sizes: Sizes, case: Case) -> list[harness.Form]:
  """Forms of the case's kind, and a matrix product for each framework."""
  names = [name for name in sizes.forms if case.timed or name in forms.OURS]
  if not case.causal:
    names = [name for name in names if name != 'flash-linear-attention']
  found = [
    harness.Form(
      name,
      functools.partial(_program, name, sizes),
      functools.partial(_wrong, name),
      ours=name in forms.OURS,
      peer=name in forms.PEERS,
    )
    for name in names
  ]
  frameworks = (
    {forms.framework(name) for name in names} if case.timed else set()
  )
  return found + [
    harness.Form(
      bars.MATMUL + framework,
      functools.partial(_matmul, framework, sizes.matmul),
      peer=framework == 'torch',
    )
    for framework in sorted(frameworks)
  ]


def _program(name: str, sizes: Sizes, case: Case) -> programs.Program:
  """A form with its errors against exact attention."""
  built = runs.program(name, sizes.scale, case)
  if not case.timed or name in ('identity', 'flash-linear-attention'):
    return built  # It approximates nothing, or its features are not its own.
  key = name, case.causal, case.length, sizes
  if key not in _ERRORS:
    one = forms.make(name, case)
    _ERRORS[key] = {
      f'error_{scale:g}': runs.error(one, case, built, scale)
      for scale in sizes.error_scales
    }
  return dataclasses.replace(built, extras=_ERRORS[key])


# Errors of the forward pass serve the gradient of the same length too.
_ERRORS: dict[Any, dict[str, float]] = {}


def _wrong(name: str, case: Case, built: programs.Program) -> str | None:
  del built
  return _wrong_kind(name, dataclasses.replace(case, backward=True, length=1))


@functools.cache
def _wrong_kind(name: str, case: Case) -> str | None:
  return runs.check(forms.make(name, case), case)


def _matmul(framework: str, rows: int, case: Case) -> programs.Program:
  del case
  extras = {'flops': 2.0 * rows**3}
  if framework == 'torch':
    torch = programs.torch()
    x = torch.ones((rows, rows), device=forms.torch_device(torch))
    return programs.Program(lambda: x @ x, extras=extras)
  x = jnp.ones((rows, rows), jnp.float32)
  built = programs.compiled(jnp.matmul, lambda seed: (x, x))
  return dataclasses.replace(built, extras=extras)


def skip(
  sizes: Sizes, results: Results, case: Case, form: harness.Form
) -> str | None:
  """Says why a form does not fit: its memory, or its time at less length."""
  if form.key not in forms.NAMES or not case.timed:
    return None
  one = forms.make(form.key, case)
  needed = one.bytes_needed(case)
  if needed > sizes.memory_bytes:
    return f'needs about {needed / 2**30:.1f} GiB'
  before = bars.Grid(results).timed(form.key, case.causal, case.backward)
  if not before:
    return None
  growth_of_length = case.length / before[-1].case.length
  # The least, as a pause of the machine must not leave a form out.
  fastest = min(sample.wall for sample in before[-1].samples)
  expected = fastest * growth_of_length ** (1 if one.linear else 2)
  if expected > sizes.call_seconds:
    return f'would take about {expected:.0f} s a call'
  return None


def finish(results: Results) -> None:
  """Adds the memory of torch forms, measured in processes of their own."""
  for name in forms.TORCH:
    mine = [m for m in results if m.form == name]
    if not mine:
      continue
    make = functools.partial(runs.program, name, 1.0)
    found = memory.peaks(make, [m.case for m in mine])
    results.add(
      dataclasses.replace(m, temporary_bytes=size)
      for m, size in zip(mine, found, strict=True)
    )


SUBJECT = harness.Subject(
  'attention',
  Sizes(),
  quick=Sizes(
    lengths=(32,),
    compile_lengths=(64,),
    heads=2,
    width=8,
    features=16,
    error_scales=(0.5,),
    matmul=32,
  ),
  cases=cases,
  forms=forms_of,
  skip=skip,
  finish=finish,
  summary=bars.summary,
  panels=bars.panels,
  timed=lambda case: case.timed,
  beside=lambda one, two: one.ours and two.form in forms.NAMES[2:],
  packages=(
    *('jax', 'jaxlib', 'numpy', 'torch', 'performer-pytorch'),
    'flash-linear-attention',
  ),
)
