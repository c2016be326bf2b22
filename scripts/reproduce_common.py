"""What the scripts that write rows of the ledger share."""

import argparse
import dataclasses
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from runtime.record import ledger, provenance, verdicts

# The benchmarks are no package that is installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

__all__ = [
  'COLORS',
  'Experiment',
  'Finding',
  'combine',
  'new_axes',
  'parser',
  'publish',
  'save',
  'write',
]

# Okabe and Ito's palette: distinct with every kind of colour vision.
COLORS = (
  *('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'),
  '#000000',
)


@dataclasses.dataclass(frozen=True)
class Finding:
  """A row of the ledger before it is written.

  Attributes:
    fields: of `ledger.Row`: id, claim, ours, published, trend, verdict,
      explanation.
    draw: writes the picture to a path.
  """

  fields: dict[str, Any]
  draw: Callable[[pathlib.Path], None]


Experiment = Callable[[str, Sequence[int]], list[Finding]]


def parser(
  description: str, rows: Iterable[str], *, seeds: int | None = 3
) -> argparse.ArgumentParser:
  """Of the options that all such scripts have.

  Args:
    description: of the script.
    rows: what it can reproduce.
    seeds: how many by default; None: as the row needs.
  """
  found = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  found.add_argument('row', choices=tuple(rows))
  found.add_argument('--scale', choices=('tiny', 'paper'), default='tiny')
  found.add_argument('--seeds', type=_count, default=seeds)
  found.add_argument('--root', type=pathlib.Path, default='docs/results')
  return found


def _count(text: str) -> int:
  number = int(text)
  if number < 1:
    raise argparse.ArgumentTypeError(f'must be positive, got {number}')
  return number


def publish(
  args: argparse.Namespace,
  experiment: Experiment,
  *,
  script: str,
  paper: str,
  options: Sequence[str] = (),
) -> None:
  """Runs an experiment, writes its rows and the page of all rows.

  Args:
    args: as parsed.
    experiment: maps scale and seeds to findings.
    script: file name of the script.
    paper: whose rows they are.
    options: others than scale and seeds that the command names, if given.
  """
  words = ['python', f'scripts/{script}', args.row]
  for name in ('scale', 'seeds', *options):
    if getattr(args, name) is not None:
      words += [f'--{name}', str(getattr(args, name))]
  write(
    experiment,
    args.scale,
    paper=paper,
    seeds=tuple(range(args.seeds)),
    root=args.root,
    command=shlex.join(words),
  )
  print(f'wrote {ledger.write_page(args.root)}')


def _hardware() -> str:
  device = jax.devices()[0]
  if device.platform == 'cpu':
    return f'{platform.machine()} CPU, {os.cpu_count()} cores'
  return device.device_kind


def write(
  experiment: Experiment,
  scale: str,
  *,
  paper: str,
  seeds: Sequence[int],
  root: str | os.PathLike[str],
  command: str,
) -> list[ledger.Row]:
  """Runs an experiment and writes its rows.

  Args:
    experiment: maps scale and seeds to findings.
    scale: 'tiny' or 'paper'.
    paper: whose rows they are; the name of its folder.
    seeds: of the runs.
    root: folder of the ledger.
    command: that the rows name.

  Returns:
    The rows.

  Raises:
    ValueError: outside a checkout, as rows name the commit.
  """
  start = time.monotonic()
  revision, dirty = provenance.commit()
  if revision is None:
    raise ValueError('rows name the commit: run this in a checkout')
  findings = experiment(scale, seeds)
  written = []
  for finding in findings:
    row = ledger.Row(
      **finding.fields,
      paper=paper,
      scale=scale,
      hardware=_hardware(),
      seeds=tuple(seeds),
      command=command,
      commit=f'{revision[:12]}{"-dirty" if dirty else ""}',
      minutes=(time.monotonic() - start) / 60,
    )
    path, _ = ledger.write(row, root)
    finding.draw(path.with_suffix('.png'))
    print(f'{row.id}: {row.verdict}', flush=True)
    written.append(row)
  return written


def combine(found: Sequence[verdicts.Verdict]) -> verdicts.Verdict:
  """The verdict of a claim that has several parts, all of which must hold.

  Raises:
    ValueError: for no part.
  """
  if not found:
    raise ValueError('a claim needs a part')
  if 'fails' in found:
    return 'fails'
  return 'inconclusive' if 'inconclusive' in found else 'holds'


def new_axes(columns: int, **options: Any) -> tuple[Any, list[Any]]:
  """An empty figure with panels side by side, and the panels.

  Raises:
    ImportError: without matplotlib.
  """
  from matplotlib import figure

  fig = figure.Figure(figsize=(4.6 * columns, 3.6), layout='constrained')
  axes = fig.subplots(1, columns, squeeze=False, **options)[0]
  for axis in axes:
    axis.spines[['top', 'right']].set_visible(False)
  return fig, list(axes)


def save(fig: Any, path: pathlib.Path) -> None:
  """Writes a PNG whose bytes depend on nothing but the figure."""
  path.parent.mkdir(parents=True, exist_ok=True)
  fig.savefig(path, dpi=120, metadata={'Software': None})
