"""Memory and time of gradients: SLiM's strategies and what they replace.

  python scripts/bench_slim.py

Memory is what the compiler plans besides inputs and outputs. Forms of one
length are timed in one process, in turns, by wall clock and CPU time; ratios
are medians over common turns. Each form is first compared with the gradient of
the whole sequence in float64: one that differs is not measured. Forms that
keep all activations are measured up to `--whole_up_to`.

Prints tables; writes `benchmarks/results/slim.json` and `.png`.
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

import bench_slim_forms as forms
import bench_slim_report as report
import bench_slim_runs as runs
import bench_slim_targets as targets
import jax

from runtime.record import provenance, tables
from runtime.record import report as runtime_report

__all__ = ['document', 'main']

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = ('jax', 'jaxlib', 'flax', 'numpy')
_SWEPT = ('subtract', 'checkpoint')


def document(
  bench: runs.Bench,
  *,
  sizes: forms.Sizes,
  refused: Sequence[Mapping[str, str]],
  settings: Mapping[str, Any],
  load: Mapping[str, float],
  commit: str | None,
) -> dict[str, Any]:
  """All results as JSON: `rows` are ours beside each peer.

  Args:
    bench: after measuring.
    sizes: of the model.
    refused: forms that failed their check.
    settings: how it was measured.
    load: of the machine before and after.
    commit: of the code when it started; None outside a checkout.

  Returns:
    An object for `json.dumps`.
  """
  device = jax.devices()[0]
  sigma = forms.state_bytes(bench.model)
  return {
    'name': 'slim',
    'device': f'{platform.machine()} {device.device_kind}, '
    f'{len(os.sched_getaffinity(0))} cores',
    'versions': {
      'python': platform.python_version(),
      **{name: metadata.version(name) for name in _PACKAGES},
    },
    'commit': commit,
    'load': dict(load),
    'sizes': dataclasses.asdict(sizes) | {'state_bytes': sigma},
    'settings': dict(settings),
    'rows': report.pair_rows(bench.records),
    'forms': report.form_rows(bench.records),
    'plans': report.plan_rows(bench.records),
    'targets': targets.targets(bench.records, sigma),
    'refused': list(refused),
  }


def _show(result: Mapping[str, Any]) -> None:
  """Prints the tables."""
  print(f'\n{result["device"]}; load {result["load"]}; {result["sizes"]}')
  print(tables.table(result['forms']))
  print('ours beside the peers; ratio = ours / peer, memory = peer / ours')
  print(tables.table(result['rows']))
  print('what the planner expects; ratio = planner / compiler')
  print(tables.table(result['plans']))
  print('bars')
  print(tables.table(result['targets']))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  powers = [2**n for n in range(10, 17)]
  add('--lengths', type=int, nargs='+', default=powers)
  add('--chunks', type=int, nargs='+', default=[64, 256])
  kinds = (*forms.OURS, *forms.PEERS)
  add('--kinds', nargs='+', choices=kinds, default=list(kinds))
  add('--sweep', type=int, nargs='*', default=[2**n for n in range(4, 12)],
      help='chunks at --sweep_length')  # fmt: skip
  add('--sweep_length', type=int, default=16384)
  add('--timed_up_to', type=int, default=16384)
  add('--whole_up_to', type=int, default=16384)
  add('--rounds', type=int, default=7, help='turns of a form at most')
  add('--seconds', type=float, default=12.0, help='of a form at a length')
  for field in dataclasses.fields(forms.Sizes):
    if field.name in ('width', 'heads', 'layers', 'inner', 'vocab'):
      add(f'--{field.name}', type=int, default=field.default)
  out = ROOT / 'benchmarks' / 'results' / 'slim.json'
  add('--out', type=pathlib.Path, default=out)
  args = parser.parse_args(arguments)
  for name in ('lengths', 'chunks', 'sweep'):
    if any(value < 1 for value in getattr(args, name)):
      parser.error(f'{name} must be positive, got {getattr(args, name)}')
  for length in args.lengths:
    if any(length % min(chunk, length) for chunk in args.chunks):
      parser.error(f'chunks must divide lengths, got {args.chunks} {length}')
  return args


def _accept(
  chosen: Sequence[forms.Form], sizes: forms.Sizes
) -> tuple[list[forms.Form], list[dict[str, str]]]:
  """Sorts out the forms whose gradient is right."""
  reference = runs.Reference(sizes)
  accepted, refused = [], []
  for form in chosen:
    reason = reference.disagreement(forms.gradient(form, reference.model))
    if reason is None:
      accepted.append(form)
      continue
    print(f'not measured: {form.name}: {reason}', flush=True)
    refused.append({'form': form.name, 'reason': reason})
  return accepted, refused


def _forms(kinds: Sequence[str], chunks: Sequence[int]) -> list[forms.Form]:
  return [
    forms.Form(kind, chunk)
    for chunk in (None, *chunks)
    for kind in kinds
    if (kind in forms.WHOLE) == (chunk is None)
  ]


def main(arguments: Sequence[str] | None = None) -> None:
  """Checks, measures, prints and writes."""
  args = _parse(arguments)
  names = ('width', 'heads', 'layers', 'inner', 'vocab')
  sizes = forms.Sizes(**{name: getattr(args, name) for name in names})
  before = os.getloadavg()[0]
  revision, dirty = provenance.commit()
  chosen = _forms(args.kinds, args.chunks)
  swept = [
    form
    for form in _forms([k for k in _SWEPT if k in args.kinds], args.sweep)
    if form not in chosen and args.sweep_length in args.lengths
  ]
  accepted, refused = _accept([*chosen, *swept], sizes)
  bench = runs.Bench(
    sizes,
    rounds=args.rounds,
    seconds=args.seconds,
    whole_up_to=args.whole_up_to,
  )
  for length in sorted(set(args.lengths)):
    print(f'== L={length}', flush=True)
    with_sweep = length == args.sweep_length
    here = [f for f in accepted if f in chosen or with_sweep]
    bench.measure(here, length, timed=length <= args.timed_up_to)
  result = document(
    bench,
    sizes=sizes,
    refused=refused,
    settings={'rounds': args.rounds, 'seconds': args.seconds},
    load={'before': before, 'after': os.getloadavg()[0]},
    commit=revision and revision[:12] + ('-dirty' if dirty else ''),
  )
  _show(result)
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps(result, indent=2) + '\n')
  print(f'wrote {args.out}')
  if runtime_report.can_draw():
    title = f'{result["device"]}; d={sizes.width}, s={sizes.layers}'
    path = report.picture(
      bench.records,
      args.out.with_suffix('.png'),
      title=title,
      sweep_length=args.sweep_length,
    )
    print(f'wrote {path}')
  else:
    print('no picture: matplotlib is not installed')


if __name__ == '__main__':
  main()
