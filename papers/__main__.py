r"""Runs the tables and figures of the papers, and lists what is recorded.

    python -m papers                       all rows: verdict, minutes, date
    python -m papers ufom                  the rows of one system
    python -m papers ufom fewshot-digits   runs a row
    python -m papers ufom --all            runs what is missing or stale
    python -m papers page                  writes docs/results.md anew
    python -m papers power                 seeds that would decide open rows

Finished runs are kept in runs/papers: an interrupted row goes on, and rows share
runs. Prepared data are read from data/, where scripts/prepare_*.py write them.
"""

import argparse
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence

import jax

from papers import rows as rows_lib
from papers import running
from runtime import commands
from runtime.record import ledger, tables

__all__ = ['main']

Chosen = Sequence[tuple[rows_lib.System, rows_lib.Row]]
Recorded = Mapping[tuple[str, str], ledger.Row]  # By paper and id.


def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line and runs the command."""
  parser = _parser()
  args = parser.parse_args(arguments)
  _check_options(parser, args)
  # Runs of one arm are one program; workers inherit the variable.
  cache = os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '.cache/jax')
  jax.config.update('jax_compilation_cache_dir', cache)
  if args.system == 'page':
    print(f'wrote {rows_lib.write_page(args.root)}')
    return
  found = rows_lib.find()
  recorded = {(r.paper, r.id): r for r in ledger.read_all(args.root)}
  if args.system == 'power':
    print(_power(_chosen(found, None, None), recorded))
    return
  try:
    chosen = _chosen(found, args.system, args.row)
    if args.row is not None:
      chosen[0][1].seeds(args.scale, args.seeds)
  except ValueError as error:
    parser.error(str(error))
  if args.row is None and not args.all:
    print(_listed(chosen, recorded))
    return
  if args.all:
    chosen = [
      (system, row)
      for system, row in chosen
      if _is_due(row, recorded.get((system.paper, row.id)), args.scale)
    ]
  _run(chosen, args)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m papers',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('system', nargs='?', help='a system, `page` or `power`')
  parser.add_argument('row', nargs='?', help='a row of the system')
  parser.add_argument(
    '--scale', choices=('tiny', 'paper'), help='of the runs (tiny)'
  )
  parser.add_argument(
    '--seeds', type=commands.positive, help="the default is the row's"
  )
  parser.add_argument(
    '--workers', type=commands.positive, default=1, help='runs at a time'
  )
  parser.add_argument(
    '--ray_address', help="HOST:PORT of a Ray cluster, or 'local'"
  )
  parser.add_argument(
    '--fresh', action='store_true', help='repeat finished runs'
  )
  parser.add_argument(
    '--all', action='store_true', help='missing or stale rows'
  )
  parser.add_argument('--root', type=commands.path, default='docs/results')
  return parser


def _check_options(
  parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
  """Refuses options that would do nothing."""
  runs = args.row is not None or args.all
  if args.system in ('page', 'power') and runs:
    parser.error(f'{args.system} takes no row')
  if not runs and not args.root.is_dir():
    parser.error(f'--root: there is no folder {args.root}')
  spread = args.workers > 1 or args.ray_address is not None
  scaled = args.scale is not None
  if not runs and (args.seeds or args.fresh or spread or scaled):
    parser.error(
      '--scale, --seeds, --fresh, --workers and --ray_address need a row or --all'
    )
  args.scale = args.scale or 'tiny'
  if args.all and args.seeds:
    parser.error('--seeds is for one row; --all takes those of each row')


def _chosen(
  found: Mapping[str, rows_lib.System], system: str | None, row: str | None
) -> Chosen:
  """The rows that a command line names; all where it names none."""
  if system is None:
    return [(s, r) for s in found.values() for r in s.rows.values()]
  _check('system', system, found)
  rows = found[system].rows
  if row is None:
    return [(found[system], r) for r in rows.values()]
  _check(f'row of {system}', row, rows)
  return [(found[system], rows[row])]


def _check(kind: str, name: str, known: Iterable[str]) -> None:
  """Raises ValueError for an unknown name, with near ones."""
  known = list(known)
  if name not in known:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    raise ValueError(f'no {kind} is called {name!r}: {", ".join(near)}?')


def _run(chosen: Chosen, args: argparse.Namespace) -> None:
  options = running.Options(
    workers=args.workers,
    ray_address=args.ray_address,
    fresh=args.fresh,
    log=lambda s: print(s, flush=True),
  )
  for system, row in chosen:
    print(f'== {system.name} {row.id}: {row.claim}', flush=True)
    written = rows_lib.publish(
      row,
      args.scale,
      system=system,
      root=args.root,
      seeds=args.seeds,
      options=options,
    )
    for finding in written.findings:
      print(f'  {finding}')
    print(f'{row.id}: {written.verdict}', flush=True)
  print(f'wrote {rows_lib.write_page(args.root)}')


def _is_due(row: rows_lib.Row, known: ledger.Row | None, scale: str) -> bool:
  """Whether a row is missing at a scale that it has, or stale."""
  if known is None or known.scale != scale:
    return row.has_scale(scale)
  return row.is_stale(known)


def _listed(chosen: Chosen, recorded: Recorded) -> str:
  lines = []
  for system, row in chosen:
    known = recorded.get((system.paper, row.id))
    line = {'system': system.name, 'row': row.id, 'verdict': 'missing'}
    if known is not None:
      line |= {
        'verdict': ledger.mark(known.verdict),
        'stale': row.is_stale(known),
        'scale': known.scale,
        'seeds': len(known.seeds),
        'minutes': known.minutes,
        'date': known.date,
      }
    lines.append(line)
  return tables.table(lines)


def _power(chosen: Chosen, recorded: Recorded) -> str:
  """Number of seeds that would decide each open row, by its spread."""
  lines = []
  for system, row in chosen:
    known = recorded.get((system.paper, row.id))
    if known is not None and known.verdict == 'inconclusive':
      lines += [
        {
          'system': system.name,
          'row': row.id,
          'seeds': len(known.seeds),
          **line,
        }
        for line in rows_lib.power(row, known)
      ]
  return tables.table(lines) if lines else 'no row is open'


if __name__ == '__main__':
  commands.run(main)
