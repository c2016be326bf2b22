"""Time and memory of hypergradients against the number of inner steps.

A five-way few-shot task of 28x28 pictures through three convolutions of stride 2
with 32 filters. Ours in every mode, and UFOM at q = 0.1 with either draw; beside
torch, unrolled by hand, and JAX's own differentiation of a scan. The unrolling
does what learn2learn's MAML does in each step less the cloning of modules;
learn2learn 0.2.0 itself has extensions that do not build on the Pythons of this
project. Measure on one core (`taskset -c 0`): torch has one thread too then.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jaxtyping import PyTree

from benchmarks import harness, programs, record
from benchmarks import ufom_forms as forms
from hpo import ufom

# Checks are after few steps: in many, rounding moves an input of a ReLU across 0.
_CHECK_STEPS = 4
_TOLERANCE = 1e-4
_Q = 0.1  # UFOM's, as in `ufom_forms.form`.
_DRAWS = ('ufom xi=0', 'ufom xi=1')
# Ours beside a peer: by CPU time at most, times that of torch.
_PAIRS = {'fom': ('fom', 1 / 1.5), 'store_phi': ('exact', 1 / 1.1)}
_EXACT_MB = {50: 12.0, 200: 25.0}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and settings of the measurement."""

  shots: tuple[int, ...] = (1, 5)  # Pictures of a class, of timed cases.
  steps: int = 50  # Inner steps that are timed.
  memory_steps: tuple[int, ...] = (8, 50, 200, 512)  # Ours, only compiled.


@functools.cache
def _reference(case: forms.Case) -> dict[str, PyTree]:
  """Exact and first-order gradients in float64."""
  shape = forms.problem('lax')
  both = lambda theta, task: ufom.exact_grad(
    shape, theta, task, case.r, forms.ALPHA, mode='store'
  )[1:3]
  found = programs.in_float64(both, *case.arrays())
  return dict(zip(('exact', 'fom'), found, strict=True))


def differs(name: str, grad: PyTree, case: forms.Case) -> str | None:
  """Says by how much a gradient is not the one that its name promises."""
  wanted = _reference(case)['fom' if name.endswith('fom') else 'exact']
  gap = programs.distance(grad, wanted)
  return programs.judged({'gradient': gap}, _TOLERANCE)


@functools.cache
def _wrong(name: str, shots: int) -> str | None:
  case = forms.Case(shots, _CHECK_STEPS)
  make = forms.program if name in forms.FORMS else forms.peer
  return differs(name, make(name, case).bound()(), case)


def _draw(name: str, case: forms.Case) -> programs.Program:
  """UFOM's one program with a key whose draw is the one in the name."""
  xi = lambda key: jax.random.bernoulli(jax.random.key(key), _Q)
  named = (key for key in range(200) if name == f'ufom xi={int(xi(key))}')
  return forms.program('ufom', case, next(named))


def _forms(sizes: Sizes, case: forms.Case) -> list[harness.Form]:
  """Ours in every mode, and for timed cases UFOM's draws and the peers."""

  def one(name: str, make: Callable[..., Any], **options: bool) -> harness.Form:
    check = lambda case, built: _wrong(name, sizes.shots[0])
    return harness.Form(name, functools.partial(make, name), check, **options)

  modes = [name for name in forms.FORMS if name != 'ufom']
  found = [one(name, forms.program, ours=True) for name in modes]
  # Made of two others, which are checked.
  draws = [
    harness.Form(name, functools.partial(_draw, name), ours=True)
    for name in (_DRAWS if case.timed else _DRAWS[:1])
  ]
  peers = forms.PEERS if case.timed else ()
  return [*found, *draws] + [
    one(name, forms.peer, peer=name.startswith('torch')) for name in peers
  ]


def _beside(one: harness.Measured, two: harness.Measured) -> bool:
  order, _ = _PAIRS.get(one.form, (None, None))
  return two.form in (f'torch {order}', f'autodiff {order}')


def summary(sizes: Sizes, results: harness.Results) -> Iterator[record.Row]:
  """The bars; those on memory are about the cases that are only compiled."""
  size = {(m.form, m.case.r): m.bytes for m in results if not m.case.timed}
  for r, limit in _EXACT_MB.items():
    exact = [
      size[key] for key in (('store_phi', r), ('sqrt', r)) if key in size
    ]
    yield record.value_row(
      f'exact, r={r}: MB of temporaries (the least mode)',
      min(exact) / 1e6 if exact else None,
      at_most=limit,
    )
  for name in ('fom', 'recompute'):
    found = [x for (form, _), x in size.items() if form == name]
    yield record.value_row(
      f'{name}: memory at any r over the least',
      max(found) / min(found) if found else None,
      at_most=1.1,
    )
  for shots in sizes.shots:
    yield from _times(results, forms.Case(shots, sizes.steps))


def _times(results: harness.Results, case: forms.Case) -> Iterator[record.Row]:
  yield record.value_row(
    f'exact (store_phi) over fom, {case}',
    results.ratio(case, 'store_phi', 'fom').cpu,
    at_most=3.3,
  )
  for clock in programs.CLOCKS:
    mixed = [results.median(case, n, clock) for n in (*_DRAWS, 'recompute')]
    value = None
    if all(mixed):
      zero, one, recompute = mixed
      value = ((1 - _Q) * zero + _Q * one) / recompute
    yield record.value_row(
      f'UFOM q=0.1 over recompute, {clock}, {case}', value, at_most=0.35
    )
  for ours, (order, limit) in _PAIRS.items():
    ratio = results.ratio(case, ours, f'torch {order}').cpu
    text = f'{ours} beside torch {order}, {case}'
    yield record.value_row(text, ratio, at_most=limit)


SUBJECT = harness.Subject(
  'ufom',
  Sizes(),
  quick=Sizes(shots=(1,), steps=4, memory_steps=(2, 8)),
  cases=lambda sizes: [
    *(forms.Case(sizes.shots[0], r, False) for r in sizes.memory_steps),
    *(forms.Case(shots, sizes.steps) for shots in sizes.shots),
  ],
  forms=_forms,
  beside=_beside,
  summary=summary,
  timed=lambda sizes, case: case.timed,
  settings=programs.Settings(rounds=15, seconds=20.0),
  clock='cpu',
  unit='CPU ms',
  packages=('jax', 'jaxlib', 'flax', 'numpy', 'torch'),
)
