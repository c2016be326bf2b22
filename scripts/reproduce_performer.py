"""Reproduces figures of the Performer paper about attention alone.

    python scripts/reproduce_performer.py E1 --scale tiny
    python scripts/reproduce_performer.py E2 --scale tiny
    python scripts/reproduce_performer.py E3 --scale tiny

E1: error of the output of attention over the number of features (Fig. 4), for
inputs of high and of low norm. E2: errors of the kernel estimators, closed
forms and Monte Carlo, over angle and length of the inputs (Fig. 2). E3: time
over the length of the sequence, against exact attention and against attention
that returns V (Fig. 3). Writes rows of the ledger with pictures.

`--scale paper` measures E3 at lengths that need an accelerator; E1 and E2 have
the published sizes at both scales.
"""

import argparse
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence

import jax
import reproduce_performer_errors as errors
import reproduce_performer_speed as speed
import reproduce_performer_theory as theory

from runtime import ledger, provenance

__all__ = ['main', 'write']

PAPER = '2009.14794'
ROWS: dict[str, Callable[..., list]] = {
  'E1': errors.rows,
  'E2': theory.rows,
  'E3': speed.rows,
}


def _hardware() -> str:
  device = jax.devices()[0]
  if device.platform == 'cpu':
    return f'{platform.machine()} CPU, {os.cpu_count()} cores'
  return device.device_kind


def write(
  name: str,
  scale: str,
  *,
  seeds: Sequence[int],
  root: str | os.PathLike[str],
  command: str,
) -> list[ledger.Row]:
  """Runs an experiment and writes its rows.

  Args:
    name: a key of `ROWS`.
    scale: 'tiny' or 'paper'.
    seeds: of the runs.
    root: folder of the ledger.
    command: that the rows name.

  Returns:
    The rows.
  """
  start = time.monotonic()
  revision, dirty = provenance.commit()
  if revision is None:
    raise ValueError('rows name the commit: run this in a checkout')
  findings = ROWS[name](scale, seeds)
  common = {
    'paper': PAPER,
    'scale': scale,
    'hardware': _hardware(),
    'seeds': tuple(seeds),
    'command': command,
    'commit': f'{revision[:12]}{"-dirty" if dirty else ""}',
    'minutes': (time.monotonic() - start) / 60,
  }
  written = []
  for finding in findings:
    row = ledger.Row(**finding.fields, **common)
    path, _ = ledger.write(row, root)
    finding.draw(path.with_suffix('.png'))
    print(f'{row.id}: {row.verdict}', flush=True)
    written.append(row)
  return written


def main() -> None:
  """Runs one experiment."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('row', choices=tuple(ROWS))
  parser.add_argument('--scale', choices=('tiny', 'paper'), default='tiny')
  parser.add_argument('--seeds', type=int, help='default 15, 10 or 5')
  parser.add_argument('--root', type=pathlib.Path, default='docs/results')
  args = parser.parse_args()
  number = args.seeds or {'E1': 15, 'E2': 10, 'E3': 5}[args.row]
  write(
    args.row,
    args.scale,
    seeds=tuple(range(number)),
    root=args.root,
    command=shlex.join(['python', *sys.argv]),
  )
  print(f'wrote {ledger.write_page(args.root)}')


if __name__ == '__main__':
  main()
