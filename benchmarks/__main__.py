r"""The benchmarks as a program.

  python -m benchmarks                          what is recorded
  python -m benchmarks --check                  which bars are missed
  python -m benchmarks attention --peers        measure a subject, record it
  python -m benchmarks attention --quick causal 'L=256'

A filter chooses the cases whose names contain it. A run that is quick, of some
cases or sizes only, or without the peers that the subject has is printed, but
replaces no record unless `--out` names a file. `--set` replaces a size of the
subject (`--set lengths=256,512`), the number of turns (`--set rounds=5`) or their
time (`--set seconds=2`). `--check` measures nothing; it exits with code 1 if a
recorded result, with a subject one of its own, misses its bar, else with 0.
"""

import argparse
import dataclasses
import importlib
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import harness, programs, record
from runtime import commands
from runtime.record import pictures, tables

SUBJECTS = (
  'attention',
  'slim',
  'loop',
  'es',
  'es_enas',
  'rl',
  'rl_procgen',
  'convolutions',
  'ufom',
  'ode',
  'rl_darts',
  'implicit_attention',
  'optformer',
  'autorl',
)


def main(arguments: Sequence[str] | None = None) -> int:
  """Lists, checks or measures; returns the exit code."""
  parser = _parser()
  args = parser.parse_intermixed_args(arguments)
  if args.check or args.subject is None:
    _refuse_measuring(parser, args)
    found = _read(args.results, args.subject)
    return _check(found) if args.check else _list(found)
  subject = importlib.import_module(f'benchmarks.{args.subject}').SUBJECT
  sizes = subject.quick if args.quick else subject.sizes
  settings = subject.settings
  try:
    for text in args.set:
      if hasattr(sizes, text.partition('=')[0]):
        sizes = _replaced(sizes, text)
      elif hasattr(settings, text.partition('=')[0]):
        settings = _replaced(settings, text)
      else:
        raise ValueError(f'{text!r} names none of {sizes} and {settings}')
    cases = harness.chosen(subject.cases(sizes), args.filters)
  except ValueError as error:
    parser.error(str(error))
  subject.prepare()
  _measure(subject, sizes, settings, cases, args)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('subject', nargs='?', choices=SUBJECTS)
  add('filters', nargs='*', help='texts in the names of the cases to measure')
  add('--check', action='store_true', help='print the bars that are missed')
  add('--peers', action='store_true', help='measure other packages too')
  add('--quick', action='store_true', help='small sizes')
  add('--set', action='append', default=[], metavar='NAME=VALUE')
  add('--note', help='a remark for the record, such as a change in a peer')
  add('--out', type=commands.path, help='the file to write')
  add('--results', type=commands.path, default=record.RESULTS,
      help='folder of the records')  # fmt: skip
  return parser


def _refuse_measuring(
  parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
  """Refuses options that would do nothing where nothing is measured."""
  given = ('filters', 'peers', 'quick', 'set', 'note', 'out')
  if any(getattr(args, name) for name in given):
    parser.error(
      'filters, --peers, --quick, --set, --note and --out are for measuring: '
      'name a subject, and leave --check out'
    )


def _read(
  folder: pathlib.Path, subject: str | None
) -> dict[str, record.Document]:
  """The records of a folder, or of one subject, by file; ValueError for none."""
  read = {p.stem: record.read(p) for p in sorted(folder.glob('*.json'))}
  found = {k: v for k, v in read.items() if subject in (None, v.name)}
  if not found:
    raise ValueError(f'no record of {subject or "a benchmark"} in {folder}')
  return found


def _list(found: Mapping[str, record.Document]) -> int:
  """Prints a line for each record."""
  counts = {'bars met': True, 'missed': False, 'not measured': None}
  rows = [
    {'record': name, 'date': one.details.get('date'), 'commit': one.commit}
    | {'device': one.device, 'rows': len(one.rows)}
    | {text: one.count(met) for text, met in counts.items()}
    for name, one in found.items()
  ]
  print(tables.table(rows))
  for name in SUBJECTS:
    if name not in found:
      print(f'no record of {name}')
  return 0


def _check(found: Mapping[str, record.Document]) -> int:
  """Prints the values that miss their bars; 1 if there are any."""
  rows = [
    row for name, one in found.items() for row in record.missed(one, name)
  ]
  print(tables.table(rows) if rows else 'all measured bars are met')
  return 1 if rows else 0


def _measure(
  subject: harness.Subject,
  sizes: Any,
  settings: programs.Settings,
  cases: Sequence[Any],
  args: argparse.Namespace,
) -> None:
  """Measures, prints and, for a whole run, writes."""
  before, revision = os.getloadavg()[0], record.commit()
  results = harness.run(subject, sizes, settings, cases, peers=args.peers)
  rows = harness.rows(subject, sizes, results)
  document = record.Document(
    subject.name,
    record.machine(),
    record.versions(subject.packages),
    revision,
    {'before': before, 'after': os.getloadavg()[0]},
    [row for group in rows.values() for row in group],
    details={
      'unit': subject.unit,
      'date': record.today(),
      'sizes': dataclasses.asdict(sizes),
      'settings': dataclasses.asdict(settings),
      'notes': args.note,
      'left_out': results.left_out,
    },
  )
  print(f'\n{document.device}; load {document.load}; {subject.unit}')
  for name, group in rows.items():
    if group:
      print(f'\n{name}\n{tables.table([_cells(row) for row in group])}')
  out = args.out
  forms = (f for case in cases for f in subject.forms(sizes, case))
  part = args.quick or args.filters or args.set
  if not (out or part or (not args.peers and any(f.peer for f in forms))):
    out = args.results / f'{subject.name}.json'
  if out is None:
    return
  print(f'wrote {record.write(document, out)}')
  if subject.panels is not None:
    if not pictures.can_draw():
      print('no picture: matplotlib is not installed')
      return
    title = f'{document.device}, commit {document.commit}'
    panels = subject.panels(sizes, results)
    path = pictures.log_lines(panels, out.with_suffix('.png'), title=title)
    print(f'wrote {path}')


def _cells(row: record.Row) -> dict[str, Any]:
  """A row for the terminal: numbers, the bar in words, the verdict."""
  line = row.to_json()
  line['bar'] = row.bar and str(row.bar)
  return line | ({} if row.met() is None else {'met': row.met()})


def _replaced(fields: Any, text: str) -> Any:
  """A dataclass with the field that `NAME=VALUE` names, read as its type."""
  name, _, value = text.partition('=')
  before, parts = getattr(fields, name), value.split(',') if value else []
  try:
    if dataclasses.is_dataclass(before):
      kinds = map(type, dataclasses.astuple(before))
      read = (kind(x) for kind, x in zip(kinds, parts, strict=False))
      after = type(before)(*read)
    elif isinstance(before, tuple):
      after = tuple(map(type(before[0]) if before else int, parts))
    else:
      after = type(before)(value)
  except ValueError as error:
    raise ValueError(f'{name} must be like {before!r}, got {text!r}') from error
  return dataclasses.replace(fields, **{name: after})


if __name__ == '__main__':
  commands.run(lambda: sys.exit(main()))
