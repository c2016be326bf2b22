"""Time and memory of neural ODEs: ours, a hand-written scan, and peers.

  python scripts/bench_ode.py

Cases: a loss and its gradient through 40 RK4 steps of a field 64-64-128-64, at
batches of 1 and 64, beside a scan by hand, diffrax with its default adjoint and
torchdiffeq; the flow of matrices of ODEtoODE (d = 64, N = 100) and its gradient,
beside the same with the general matrix exponential.

A form is compared with float64 first; one that differs is not measured. All
forms of a case run in one process, in turns; times are medians of wall clock and
CPU time, ratios medians over common turns. A peer that is not installed is said
and left out. Prints tables; writes `benchmarks/results/ode.json`.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import bench_attention_runs as runs
import bench_ode_forms as forms
import jax
import numpy as np

from rl.odetoode import retractions
from runtime.record import provenance, tables

__all__ = [
  'Case',
  'disagreement',
  'main',
  'measure_flow',
  'measure_ode',
  'targets',
]

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = ('jax', 'jaxlib', 'numpy', 'diffrax', 'torch', 'torchdiffeq')
# Of loss and gradients against float64, relative to the largest entry.
_TOLERANCE = 2e-5
EXPM = 'general exponential'


@dataclasses.dataclass
class Case:
  """What was measured side by side.

  Attributes:
    name: of the case.
    samples: turns, by form.
    temporary_bytes: of the program, by form.
    compile_s: CPU seconds, by form.
    errors: against float64, by form.
    refused: why a form was not measured.
  """

  name: str
  samples: dict[str, list[runs.Sample]] = dataclasses.field(
    default_factory=dict
  )
  temporary_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
  compile_s: dict[str, float] = dataclasses.field(default_factory=dict)
  errors: dict[str, float] = dataclasses.field(default_factory=dict)
  refused: dict[str, str] = dataclasses.field(default_factory=dict)

  def median(self, form: str, clock: str) -> float:
    """Seconds."""
    return statistics.median(getattr(s, clock) for s in self.samples[form])

  def ratio(self, one: str, two: str, clock: str) -> float | None:
    """Time of one form over that of another, over common turns."""
    if not (self.samples.get(one) and self.samples.get(two)):
      return None
    pairs = zip(self.samples[one], self.samples[two], strict=False)
    return statistics.median(
      getattr(a, clock) / getattr(b, clock) for a, b in pairs
    )


def disagreement(found: Any, expected: Any) -> float:
  """The largest distance of leaves, relative to their largest entry."""
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
  return max(
    float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b))))
    / max(float(np.max(np.abs(b))), 1e-30)
    for a, b in pairs
  )


def _compile(
  case: Case, name: str, function: Callable[..., Any], arguments: tuple
) -> Callable[..., Any]:
  start = time.process_time()  # Other processes must not count.
  compiled = jax.jit(function).lower(*arguments).compile()
  case.compile_s[name] = time.process_time() - start
  case.temporary_bytes[name] = compiled.memory_analysis().temp_size_in_bytes
  return compiled


def _in_float64(function: Callable[..., Any], arguments: tuple) -> Any:
  with jax.enable_x64(True):
    doubles = jax.tree.map(lambda x: np.asarray(x, np.float64), arguments)
    return jax.tree.map(np.asarray, jax.jit(function)(*doubles))


def _accept(case: Case, name: str, found: Any, expected: Any) -> bool:
  case.errors[name] = disagreement(found, expected)
  if case.errors[name] <= _TOLERANCE:
    return True
  case.refused[name] = f'off by {case.errors[name]:.2g}'
  print(f'not measured: {name}: {case.refused[name]}', flush=True)
  return False


def measure_ode(
  sizes: forms.Sizes,
  batch: int,
  *,
  rounds: int,
  seconds: float,
  peers: Sequence[str] = (forms.DIFFRAX, forms.TORCH),
) -> Case:
  """Times all forms of the gradient through the solver.

  Args:
    sizes: of the field.
    batch: states.
    rounds: turns of a form at most.
    seconds: of a form at most.
    peers: those to try.
  """
  case = Case(f'RK4, {sizes.steps} steps, batch {batch}')
  arguments = forms.inputs(sizes, batch)
  chosen = forms.jax_forms(sizes)
  expected = _in_float64(chosen[forms.HAND], arguments)
  calls = {}
  for name, function in chosen.items():
    if name == forms.DIFFRAX and name not in peers:
      continue
    try:
      compiled = _compile(case, name, function, arguments)
    except ImportError as error:
      case.refused[name] = str(error)
      continue
    placed = jax.tree.map(jax.device_put, arguments)
    if _accept(case, name, compiled(*placed), expected):
      calls[name] = lambda f=compiled, p=placed: jax.block_until_ready(f(*p))
  if forms.TORCH in peers:
    _add_torch(case, calls, sizes, arguments, expected)
  case.samples = runs.alternate(calls, rounds=rounds, seconds=seconds)
  return case


def _add_torch(
  case: Case,
  calls: dict[str, Callable[[], Any]],
  sizes: forms.Sizes,
  arguments: tuple,
  expected: Any,
) -> None:
  try:
    call = forms.torch_call(sizes, *arguments)
  except ImportError as error:
    case.refused[forms.TORCH] = str(error)
    return
  loss, gradients = call()
  if _accept(case, forms.TORCH, [loss, *gradients], expected):
    calls[forms.TORCH] = call


def measure_flow(sizes: forms.Sizes, *, rounds: int, seconds: float) -> Case:
  """Times the flow of matrices; arguments as `measure_ode`."""
  case = Case(f'flow of W, d={sizes.flow_width}, N={sizes.flow_steps}')
  arguments = forms.flow_inputs(sizes)
  exact = forms.flow_function(sizes, retractions.Exp())
  expected = _in_float64(exact, arguments)
  calls = {}
  for name, function in (
    (forms.OURS, forms.flow_function(sizes, retractions.Guarded())),
    (EXPM, exact),
  ):
    compiled = _compile(case, name, function, arguments)
    # W_N alone: how exact gradients are is a matter of the backward pass.
    case.errors[name] = disagreement(compiled(*arguments)[1], expected[1])
    calls[name] = lambda f=compiled: jax.block_until_ready(f(*arguments))
  case.samples = runs.alternate(calls, rounds=rounds, seconds=seconds)
  return case


def _rows(cases: Sequence[Case]) -> list[dict[str, Any]]:
  """Ours beside each other form."""
  rows = []
  for case in cases:
    for name in case.samples:
      if name == forms.OURS:
        continue
      row = {
        'case': f'{case.name}, ours against {name}',
        'ours': 1e3 * case.median(forms.OURS, 'wall'),
        'peer': 1e3 * case.median(name, 'wall'),
        'ratio': case.ratio(forms.OURS, name, 'wall'),
        'cpu_ratio': case.ratio(forms.OURS, name, 'cpu'),
      }
      rows.append(row)
  return rows


def _form_rows(cases: Sequence[Case]) -> list[dict[str, Any]]:
  return [
    {
      'case': case.name,
      'form': name,
      'wall_ms': 1e3 * case.median(name, 'wall'),
      'cpu_ms': 1e3 * case.median(name, 'cpu'),
      'turns': len(case.samples[name]),
      'temporary_kib': case.temporary_bytes.get(name, 0) / 1024 or None,
      'compile_cpu_s': case.compile_s.get(name),
      'error': case.errors.get(name),
    }
    for case in cases
    for name in case.samples
  ]


def _bar(bar: str, wanted: float, wall: Any, cpu: Any, least: bool) -> dict:
  """A row: met if both clocks say so; None where nothing was measured."""
  known = [x for x in (wall, cpu) if x is not None]
  inside = (lambda x: x >= wanted) if least else (lambda x: x <= wanted)
  return {
    'bar': bar,
    'wanted': f'{"at least" if least else "at most"} {wanted:g}',
    'wall': wall,
    'cpu': cpu,
    'met': all(map(inside, known)) if known else None,
  }


def targets(
  by_batch: Mapping[int, Case], flow: Case | None
) -> list[dict[str, Any]]:
  """Compares what was measured with the bars.

  Args:
    by_batch: cases of the solver.
    flow: the case of the flow of matrices.

  Returns:
    A row per bar.
  """
  rows = []
  for batch, case in by_batch.items():
    for text, one, two, wanted, least in (
      ('time over that of a scan by hand', forms.OURS, forms.HAND, 1.1, False),
      ('checkpointed over all stored, time', forms.OURS, forms.STORED, 1.1, False),
      ('times faster than diffrax', forms.DIFFRAX, forms.OURS, 2.0, True),
      (
        'times faster than torchdiffeq', forms.TORCH, forms.OURS,
        25.0 if batch == 1 else 3.0, True,
      ),
    ):  # fmt: skip
      clocks = [case.ratio(one, two, clock) for clock in ('wall', 'cpu')]
      rows.append(_bar(f'batch {batch}: {text}', wanted, *clocks, least))
    memory = case.temporary_bytes
    found = None
    if forms.STORED in memory:
      found = memory[forms.STORED] / max(memory[forms.OURS], 1)
    bar = f'batch {batch}: times less memory than all stored'
    rows.append(_bar(bar, 10.0, found, None, True))
  if flow is not None:
    clocks = [flow.ratio(EXPM, forms.OURS, clock) for clock in ('wall', 'cpu')]
    bar = 'flow of W: times faster than with the general exponential'
    rows.append(_bar(bar, 3.0, *clocks, True))
    accuracy = flow.errors[forms.OURS] / flow.errors[EXPM]
    bar = 'flow of W: error over that with the general exponential'
    rows.append(_bar(bar, 1.5, accuracy, None, False))
  return rows


def _version(name: str) -> str | None:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--batches', type=int, nargs='+', default=[1, 64])
  defaults = forms.Sizes()
  add('--widths', type=int, nargs='+', default=list(defaults.widths))
  for name in ('steps', 'flow_width', 'flow_steps'):
    add(f'--{name}', type=int, default=getattr(defaults, name))
  names = [forms.DIFFRAX, forms.TORCH]
  add('--peers', nargs='*', choices=names, default=names)
  add('--rounds', type=int, default=15, help='turns of a form at most')
  add('--seconds', type=float, default=8.0, help='of a form in a case')
  out = ROOT / 'benchmarks' / 'results' / 'ode.json'
  add('--out', type=pathlib.Path, default=out)
  args = parser.parse_args(arguments)
  if args.widths[0] != args.widths[-1] or len(args.widths) < 2:
    parser.error(f'a field ends as wide as it begins, got {args.widths}')
  return args


def main(arguments: Sequence[str] | None = None) -> None:
  """Checks, measures, prints and writes."""
  args = _parse(arguments)
  sizes = forms.Sizes(
    tuple(args.widths), args.steps, args.flow_width, args.flow_steps
  )
  before = os.getloadavg()[0]
  revision, dirty = provenance.commit()
  clock = {'rounds': args.rounds, 'seconds': args.seconds}
  by_batch = {
    batch: measure_ode(sizes, batch, peers=args.peers, **clock)
    for batch in args.batches
  }
  flow = measure_flow(sizes, **clock)
  cases = [*by_batch.values(), flow]
  result = {
    'name': 'ode',
    'device': f'{platform.machine()} {jax.devices()[0].device_kind}, '
    f'{len(os.sched_getaffinity(0))} cores',
    'versions': {'python': platform.python_version()}
    | {name: _version(name) for name in _PACKAGES},
    'commit': revision and revision[:12] + ('-dirty' if dirty else ''),
    'load': {'before': before, 'after': os.getloadavg()[0]},
    'sizes': dataclasses.asdict(sizes),
    'settings': clock | {'torch_threads': 1},
    'rows': _rows(cases),
    'forms': _form_rows(cases),
    'targets': targets(by_batch, flow),
    'refused': {case.name: case.refused for case in cases if case.refused},
  }
  print(f'\n{result["device"]}; load {result["load"]}')
  for key, text in (
    ('forms', 'forms'),
    ('rows', 'ours beside others, ms; ratio = ours / other'),
    ('targets', 'bars'),
  ):
    print(f'{text}\n{tables.table(result[key])}')
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps(result, indent=2) + '\n')
  print(f'wrote {args.out}')


if __name__ == '__main__':
  main()
