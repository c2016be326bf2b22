"""Attention: ours, exact attention, other Performers.

Speed says nothing without the error, so each form carries its relative error
against exact attention at several scales of queries and keys. The form that
returns V bounds what any attention can reach, and a matrix product, timed in the
same turns, tells the rate of the machine.
"""

import dataclasses
import functools

import jax.numpy as jnp

from benchmarks import attention_bars as bars
from benchmarks import attention_forms as forms
from benchmarks import attention_runs as runs
from benchmarks import harness, memory, programs

Case, Sizes = forms.Case, forms.Sizes


def cases(sizes: Sizes) -> list[Case]:
  """Kinds and lengths; gradients that are only compiled come last."""
  kinds = [forms.KINDS[name] for name in sizes.kinds]
  timed = [sizes.case(*kind, n) for kind in kinds for n in sizes.lengths]
  return timed + [
    sizes.case(*kind, n)
    for kind in kinds
    for n in sizes.compile_lengths
    if kind[1]
  ]


def _forms(sizes: Sizes, case: Case) -> list[harness.Form]:
  """Forms of the case's kind, and a matrix product for each framework."""
  timed = _timed(sizes, case)
  names = [name for name in sizes.forms if timed or name in forms.OURS]
  if not case.causal:
    names = [name for name in names if name != 'flash-linear-attention']
  frameworks = {forms.framework(name) for name in names} if timed else set()
  return [
    harness.Form(
      name,
      functools.partial(_program, name, sizes),
      functools.partial(_wrong, name),
      ours=name in forms.OURS,
      peer=name in forms.PEERS,
    )
    for name in names
  ] + [
    harness.Form(
      bars.MATMUL + framework,
      functools.partial(_matmul, framework, sizes.matmul),
      peer=framework == 'torch',
    )
    for framework in sorted(frameworks)
  ]


def _timed(sizes: Sizes, case: Case) -> bool:
  return case.length in sizes.lengths


def _program(name: str, sizes: Sizes, case: Case) -> programs.Program:
  """A form with its errors against exact attention."""
  built = runs.program(name, sizes.scale, case)
  if not _timed(sizes, case) or name in ('identity', 'flash-linear-attention'):
    return built  # It approximates nothing, or its features are not its own.
  key = name, dataclasses.replace(case, backward=False), sizes.error_scales
  if key not in _ERRORS:
    one = forms.make(name, case)
    _ERRORS[key] = {
      f'error_{scale:g}': runs.error(one, case, built, scale)
      for scale in sizes.error_scales
    }
  return dataclasses.replace(built, extras=_ERRORS[key])


# Errors of the forward pass serve the gradient of the same length too.
_ERRORS: dict[tuple, dict[str, float]] = {}


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


def _skip(
  sizes: Sizes, results: harness.Results, case: Case, form: harness.Form
) -> str | None:
  """Says why a form does not fit: its memory, or its time at less length."""
  if form.key not in forms.NAMES or not _timed(sizes, case):
    return None
  one = forms.make(form.key, case)
  needed = one.bytes_needed(case)
  if needed > sizes.memory_bytes:
    return f'needs about {needed / 2**30:.1f} GiB'
  before = bars.timed(results, form.key, case.causal, case.backward)
  if not before:
    return None
  length, last = max(before.items())
  # The least, as a pause of the machine must not leave a form out.
  fastest = min(sample.wall for sample in last.samples)
  expected = fastest * (case.length / length) ** (1 if one.linear else 2)
  if expected > sizes.call_seconds:
    return f'would take about {expected:.0f} s a call'
  return None


def _finish(results: harness.Results) -> None:
  """Adds the memory of torch forms, measured in processes of their own."""
  for name in forms.TORCH:
    mine = results.of(name)
    make = functools.partial(runs.program, name, 1.0)
    sizes = memory.peaks(make, list(mine)) if mine else []
    results.add(
      dataclasses.replace(
        m, program=dataclasses.replace(m.program, temporary_bytes=size)
      )
      for m, size in zip(mine.values(), sizes, strict=True)
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
  forms=_forms,
  skip=_skip,
  finish=_finish,
  summary=bars.summary,
  panels=lambda sizes, results: bars.panels(results),
  timed=_timed,
  beside=lambda one, two: one.ours and two.form in forms.NAMES[2:],
  packages=(
    *('jax', 'jaxlib', 'numpy', 'torch', 'performer-pytorch'),
    'flash-linear-attention',
  ),
)
