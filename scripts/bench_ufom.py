"""Time and memory of hypergradients against the number of inner steps.

  taskset -c 0 python scripts/bench_ufom.py

A five-way few-shot task of 28x28 pictures through three convolutions of stride 2
with 32 filters. Ours in every mode, and UFOM at q = 0.1 with draws in their
frequency; beside torch, unrolled by hand, and JAX's own differentiation of a
scan. The unrolling does what learn2learn's MAML does in each step less the
cloning of modules; learn2learn 0.2.0 itself has extensions that do not build on
the Pythons of this project. One that differs from the gradient in float64 is
not measured, one that is not installed is said. Forms of a case run in turns;
times are medians of wall clock and of CPU time; memory is what the compiler
plans beside inputs and outputs. On one core, torch has one thread too.

Prints tables; writes `benchmarks/results/ufom.json`.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import bench_attention_runs as runs
import bench_ufom_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from hpo import ufom
from runtime.record import provenance, tables

__all__ = [
  'agrees',
  'bars',
  'check',
  'main',
  'measure_memory',
  'measure_times',
  'pair_rows',
  'time_rows',
]

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = ('jax', 'jaxlib', 'flax', 'numpy', 'torch')
# Checks are after few steps: in many, rounding moves an input of a ReLU across 0.
_CHECK_STEPS = 4
_TOLERANCE = 1e-4
Records = dict[str, list[runs.Sample]]


def _flat(tree: PyTree) -> np.ndarray:
  leaves = jax.tree.leaves(tree)
  return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in leaves])


@functools.cache
def _reference(case: forms.Case) -> dict[str, np.ndarray]:
  """Exact and first-order gradients in float64."""
  theta, task = case.arrays()
  with jax.enable_x64(True):
    wide = lambda x: jnp.asarray(
      x, None if x.dtype.kind == 'i' else jnp.float64
    )
    shape = forms.problem('lax')
    found = jax.jit(
      lambda theta, task: ufom.exact_grad(
        shape, theta, task, case.r, forms.ALPHA, mode='store'
      )[1:3]
    )(*jax.tree.map(wide, (theta, task)))
  return {'exact': _flat(found[0]), 'fom': _flat(found[1])}


def agrees(name: str, grad: PyTree, case: forms.Case) -> bool:
  """Whether a gradient is the one that its name promises."""
  order = 'fom' if name.endswith('fom') else 'exact'
  wanted = _reference(case)[order]
  gap = np.linalg.norm(_flat(grad) - wanted) / np.linalg.norm(wanted)
  return bool(gap < _TOLERANCE)


@functools.cache
def _compiled(name: str, case: forms.Case) -> Any:
  theta, task = case.arrays()
  arrays = jax.tree.map(jnp.asarray, (theta, task))
  lowered = jax.jit(forms.form(name, case.r)).lower(*arrays, jax.random.key(0))
  return lowered.compile()


def measure_memory(
  names: Sequence[str], shots: int, steps: Sequence[int]
) -> list[dict[str, Any]]:
  """Temporary bytes of ours, by mode and number of inner steps."""
  rows = []
  for name in names:
    for r in steps:
      analysis = _compiled(name, forms.Case(shots, r)).memory_analysis()
      size = analysis.temp_size_in_bytes
      rows.append({'form': name, 'shots': shots, 'r': r, 'bytes': size})
  return rows


def _call(name: str, case: forms.Case) -> Callable[[], PyTree]:
  """Runs a form or a peer on a case."""
  if name not in forms.FORMS:
    return forms.peer(name, case)
  arrays = jax.tree.map(jnp.asarray, case.arrays())
  return functools.partial(_finish, _compiled(name, case), arrays)


def check(names: Sequence[str], shots: int) -> dict[str, str]:
  """Why some forms and peers are not measured.

  Args:
    names: of forms and peers; UFOM is made of two others.
    shots: pictures of a class.
  """
  case, refused = forms.Case(shots, _CHECK_STEPS), {}
  for name in names:
    try:
      if name != 'ufom' and not agrees(name, _call(name, case)(), case):
        refused[name] = 'its gradient differs'
    except forms.Refused as error:
      refused[name] = str(error)
  return refused


def _finish(program: Any, arrays: tuple, key: int = 0) -> PyTree:
  return jax.block_until_ready(program(*arrays, jax.random.key(key)))


def _draws(case: forms.Case) -> dict[str, Callable[[], PyTree]]:
  """UFOM's one program with a key of either draw."""
  program = _compiled('ufom', case)
  arrays = jax.tree.map(jnp.asarray, case.arrays())
  found: dict[str, Callable[[], PyTree]] = {}
  for key in range(200):
    xi = bool(jax.random.bernoulli(jax.random.key(key), 0.1))
    name = f'ufom xi={int(xi)}'
    found.setdefault(name, functools.partial(_finish, program, arrays, key))
  return found


def measure_times(
  names: Sequence[str], case: forms.Case, *, rounds: int, seconds: float
) -> Records:
  """Turns of forms and peers.

  Args:
    names: of those that passed the check.
    case: the task.
    rounds: turns of each at most.
    seconds: of each at most.
  """
  calls: dict[str, Callable[[], PyTree]] = {}
  for name in names:
    calls |= _draws(case) if name == 'ufom' else {name: _call(name, case)}
  wrapped = {n: functools.partial(_drop, call) for n, call in calls.items()}
  return runs.alternate(wrapped, rounds=rounds, seconds=seconds)


def _drop(call: Callable[[], PyTree]) -> None:
  call()


def _median(samples: Sequence[runs.Sample], clock: str) -> float:
  return statistics.median(getattr(s, clock) for s in samples)


def _expected(records: Records, clock: str) -> float:
  """UFOM's mean time at q = 0.1."""
  return 0.9 * _median(records['ufom xi=0'], clock) + 0.1 * _median(
    records['ufom xi=1'], clock
  )


def time_rows(records: Records, case: forms.Case) -> list[dict[str, Any]]:
  """Milliseconds of each form.

  Args:
    records: of one case.
    case: of the records.
  """
  return [
    {
      'form': name,
      'shots': case.shots,
      'r': case.r,
      'wall ms': 1e3 * _median(samples, 'wall'),
      'cpu ms': 1e3 * _median(samples, 'cpu'),
      'turns': len(samples),
    }
    for name, samples in records.items()
  ]


def pair_rows(records: Records, case: forms.Case) -> list[dict[str, Any]]:
  """Ours beside peers by CPU time; ratio below 1: ours is faster."""
  rows = []
  for ours, order in (('fom', 'fom'), ('store_phi', 'exact')):
    for kind in ('torch', 'autodiff'):
      peer = f'{kind} {order}'
      if ours in records and peer in records:
        one, two = (1e3 * _median(records[n], 'cpu') for n in (ours, peer))
        rows.append(
          {
            'case': f'{ours} beside {peer}, {case.shots} shots, r={case.r}',
            'ours': one,
            'peer': two,
            'ratio': one / two,
          }
        )
  return rows


def bars(
  memory: Sequence[Mapping[str, Any]],
  records: Mapping[forms.Case, Records],
  pairs: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
  """What was wanted beside what was found; None: not measured.

  Args:
    memory: rows of `measure_memory`.
    records: turns, by case.
    pairs: rows of `pair_rows`.
  """
  rows: list[dict[str, Any]] = []

  def add(bar: str, limit: float, found: float | None) -> None:
    met = None if found is None else bool(found <= limit)
    rows.append({'bar': bar, 'at most': limit, 'found': found, 'met': met})

  sizes = {(m['form'], m['r']): m['bytes'] for m in memory}
  for r, limit in ((50, 12.0), (200, 25.0)):
    exact = [sizes.get((name, r)) for name in ('store_phi', 'sqrt')]
    known = [x for x in exact if x is not None]
    add(
      f'exact, r={r}: MB of temporaries (the least mode)',
      limit,
      min(known) / 1e6 if known else None,
    )
  for name in ('fom', 'recompute'):
    found = [size for (form, _), size in sizes.items() if form == name]
    spread = max(found) / min(found) if found else None
    add(f'{name}: memory at any r over the least', 1.1, spread)
  for case, found in records.items():
    if {'fom', 'store_phi'} <= set(found):
      ratio = _median(found['store_phi'], 'cpu') / _median(found['fom'], 'cpu')
      add(
        f'exact (store_phi) over fom, {case.shots} shots, r={case.r}',
        3.3,
        ratio,
      )
    if {'ufom xi=0', 'ufom xi=1', 'recompute'} <= set(found):
      for clock in ('wall', 'cpu'):
        ratio = _expected(found, clock) / _median(found['recompute'], clock)
        bar = (
          f'UFOM q=0.1 over recompute, {clock}, {case.shots} shots, r={case.r}'
        )
        add(bar, 0.35, ratio)
  for pair in pairs:
    if 'torch' in pair['case']:
      add(
        pair['case'],
        1 / 1.5 if 'fom' in pair['case'] else 1 / 1.1,
        pair['ratio'],
      )
  return rows


def _versions() -> dict[str, str]:
  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  return found


def main(arguments: Sequence[str] | None = None) -> None:
  """Checks, measures, prints and writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--shots', type=int, nargs='+', default=[1, 5])
  add('--steps', type=int, default=50, help='inner steps that are timed')
  add('--memory_steps', type=int, nargs='+', default=[8, 50, 200, 512])
  everything = [*forms.FORMS, *forms.PEERS]
  add('--forms', nargs='+', choices=everything, default=everything)
  add('--rounds', type=int, default=15, help='turns of a form at most')
  add('--seconds', type=float, default=20.0, help='of a form')
  out = ROOT / 'benchmarks' / 'results' / 'ufom.json'
  add('--out', type=pathlib.Path, default=out)
  args = parser.parse_args(arguments)
  before, (revision, dirty) = os.getloadavg()[0], provenance.commit()
  refused = check(args.forms, args.shots[0])
  accepted = [name for name in args.forms if name not in refused]
  ours = [name for name in accepted if name in forms.FORMS]
  memory = measure_memory(ours, args.shots[0], args.memory_steps)
  records = {}
  for shots in args.shots:
    case = forms.Case(shots, args.steps)
    records[case] = measure_times(
      accepted, case, rounds=args.rounds, seconds=args.seconds
    )
  pairs = [row for case, r in records.items() for row in pair_rows(r, case)]
  device = jax.devices()[0]
  result = {
    'name': 'ufom',
    'device': f'{platform.machine()} {device.device_kind}, '
    f'{len(os.sched_getaffinity(0))} cores',
    'versions': _versions(),
    'commit': revision and revision[:12] + ('-dirty' if dirty else ''),
    'load': {'before': before, 'after': os.getloadavg()[0]},
    'settings': {'rounds': args.rounds, 'seconds': args.seconds},
    'rows': pairs,
    'times': [row for c, r in records.items() for row in time_rows(r, c)],
    'memory': memory,
    'bars': bars(memory, records, pairs),
    'refused': refused,
  }
  for name in ('memory', 'times', 'rows', 'bars'):
    print(f'\n{name}\n{tables.table(result[name])}')
  print(f'not measured: {refused}')
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps(result, indent=2) + '\n')
  print(f'wrote {args.out}')


if __name__ == '__main__':
  main()
