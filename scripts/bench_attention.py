"""Speed and memory of attention: ours, exact attention, other Performers.

  pip install -r benchmarks/requirements-peers.txt
  python scripts/bench_attention.py --recipe=fast_attention.py

All forms run in one process, in turns, so that a busy machine slows all alike;
times are medians, ratios medians over common turns, by wall clock and by CPU
time. Each form is first compared with its float64 definition, in value and
gradient: one that differs is not timed. Speed stands beside the error against
exact attention, at several scales of queries and keys. Peers that are missing
are reported and left out.

Prints tables; writes `benchmarks/results/attention.json` and `.png`.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import bench_attention_forms as forms
import bench_attention_lib as lib
import bench_attention_report as report
import bench_attention_targets as targets
import jax

from runtime.record import report as runtime_report
from runtime.record import tables

__all__ = ['document', 'main']

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = (
  *('jax', 'jaxlib', 'numpy', 'torch', 'performer-pytorch'),
  'flash-linear-attention',
)


def document(
  bench: lib.Bench,
  *,
  cases: Sequence[forms.Case],
  refused: Sequence[Mapping[str, str]],
  missing: Sequence[Mapping[str, str]],
  settings: lib.Settings,
  load: Mapping[str, float],
) -> dict[str, Any]:
  """All results as JSON: `rows` are ours beside each peer.

  Args:
    bench: after measuring.
    cases: what was asked for.
    refused: forms that failed their check.
    missing: peers that cannot run here.
    settings: how it was measured.
    load: of the machine before and after.

  Returns:
    An object for `json.dumps`.
  """
  results = report.Results(bench.records)
  first = cases[0]
  found = {}
  for name in _PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      found[name] = None
  device = jax.devices()[0]
  return {
    'name': 'attention',
    'device': f'{platform.machine()} {device.device_kind}, '
    f'{len(os.sched_getaffinity(0))} cores',
    'versions': {'python': platform.python_version(), **found},
    'load': dict(load),
    'sizes': {
      key: getattr(first, key)
      for key in ('batch', 'heads', 'width', 'features', 'dtype')
    },
    'settings': dataclasses.asdict(settings),
    'rows': report.pair_rows(results),
    'forms': report.form_rows(results),
    'growth': report.curves(results),
    'targets': {
      name: targets.targets(results, name)
      for name in results.names()
      if name.startswith(report.OURS)
    },
    'refused': list(refused),
    'missing': list(missing),
    'skipped': bench.skipped,
  }


def _show(result: Mapping[str, Any]) -> None:
  """Prints the tables."""
  print(f'\n{result["device"]}; load {result["load"]}; {result["sizes"]}')
  print('\nmilliseconds, medians; error_s: against exact, q, k ~ N(0, s^2)')
  print(tables.table(result['forms']))
  print('ours beside the peers; speedup = peer / ours')
  print(tables.table(result['rows']))
  print('growth and crossover')
  print(tables.table(result['growth']))
  for name, rows in result['targets'].items():
    print(f'bars: {name}')
    print(tables.table(rows))
  for row in (*result['missing'], *result['skipped']):
    print('left out:', ', '.join(row.values()))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  powers = [2**n for n in range(8, 15)]
  add('--lengths', type=int, nargs='+', default=powers)
  add('--compile_lengths', type=int, nargs='*', default=[65536])
  add('--forms', nargs='+', choices=forms.names(), default=forms.names())
  add('--kinds', nargs='+', default=['bidirectional', 'causal'],
      choices=('bidirectional', 'causal'))  # fmt: skip
  add('--what', nargs='+', default=['forward', 'backward'],
      choices=('forward', 'backward'), help='backward: with the forward pass')  # fmt: skip
  add('--dtype', default='float32', choices=('float32', 'bfloat16', 'float16'))
  for name, default in (('batch', 1), ('heads', 8), ('width', 64)):
    add(f'--{name}', type=int, default=default)
  add('--features', type=int, default=256, help='r')
  add('--recipe', type=pathlib.Path, help='the published fast_attention.py')
  for field in dataclasses.fields(lib.Settings):
    kind = {'float': float, 'int': int}.get(getattr(field.type, '__name__', ''))
    if kind is not None:
      add(f'--{field.name}', type=kind, default=field.default)
  add(
    '--error_scales', type=float, nargs='+', default=lib.Settings.error_scales
  )
  add('--no_torch_memory', action='store_true')
  out = ROOT / 'benchmarks' / 'results' / 'attention.json'
  add('--out', type=pathlib.Path, default=out)
  args = parser.parse_args(arguments)
  for name in ('lengths', 'compile_lengths'):
    if any(length < 1 for length in getattr(args, name)):
      parser.error(f'{name} must be positive, got {getattr(args, name)}')
  return args


def _cases(
  args: argparse.Namespace, lengths: Sequence[int]
) -> list[forms.Case]:
  sizes = {
    key: getattr(args, key)
    for key in ('batch', 'heads', 'width', 'features', 'dtype')
  }
  return [
    forms.Case(kind == 'causal', what == 'backward', length, **sizes)
    for kind in args.kinds
    for what in args.what
    for length in sorted(set(lengths))
  ]


def main(arguments: Sequence[str] | None = None) -> None:
  """Checks, measures, prints and writes."""
  args = _parse(arguments)
  settings = lib.Settings(
    **{
      field.name: getattr(args, field.name)
      for field in dataclasses.fields(lib.Settings)
      if field.name != 'error_scales'
    },
    error_scales=tuple(args.error_scales),
  )
  cases = _cases(args, args.lengths)
  chosen, missing = {}, []
  for name in args.forms:
    try:
      chosen[name] = forms.make(name, cases[0], recipe=args.recipe)
    except forms.MissingError as error:
      missing.append({'form': name, 'reason': str(error)})
      print(f'left out: {name}: {error}', flush=True)
  before = os.getloadavg()[0]
  accepted, refused = lib.accept(chosen, cases)
  bench = lib.Bench(accepted, settings)
  for case in cases:
    print(f'== {case}', flush=True)
    bench.time(case)
  for case in _cases(args, args.compile_lengths):
    if case.backward:
      bench.compile_only(case)
  if not args.no_torch_memory:
    bench.torch_memory()
  result = document(
    bench,
    cases=cases,
    refused=refused,
    missing=missing,
    settings=settings,
    load={'before': before, 'after': os.getloadavg()[0]},
  )
  _show(result)
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps(result, indent=2) + '\n')
  print(f'wrote {args.out}')
  if runtime_report.can_draw():
    title = f'{result["device"]}; ' + ', '.join(
      f'{key} {value}' for key, value in result['sizes'].items()
    )
    path = args.out.with_suffix('.png')
    print(f'wrote {report.picture(report.Results(bench.records), path, title)}')
  else:
    print('no picture: matplotlib is not installed')


if __name__ == '__main__':
  main()
