"""Writes ListOps as the files that other code for Long Range Arena reads.

    python scripts/prepare_listops.py --output=DIR

`basic_train.tsv`, `basic_val.tsv` and `basic_test.tsv` have a line of headings,
then an expression and its value, 96,000 / 2,000 / 2,000 of them, those that
`performer.data.listops.ListOps` draws. They take some minutes and 200 MB. This
project needs no files: it draws the expressions while it trains.

Reference: arXiv:2011.04006, section 2.2.1 and its released generator.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from performer.data import listops
from runtime import commands

NAMES = {'train': 'basic_train', 'valid': 'basic_val', 'test': 'basic_test'}


def prepare(
  output: pathlib.Path, data: listops.ListOps | None = None
) -> dict[str, int]:
  """Writes the files.

  Args:
    output: folder for the files; created when missing.
    data: the expressions; None: those of the published grammar.

  Returns:
    Expressions by file.
  """
  data = data or listops.ListOps()
  output.mkdir(parents=True, exist_ok=True)
  return {
    name: listops.write(str(output / f'{name}.tsv'), data.rows(split))
    for split, name in NAMES.items()
  }


def main(argv: Sequence[str]) -> None:
  """Writes the files and prints what they hold."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--output', type=commands.path, required=True, help='folder to write'
  )
  args = parser.parse_args(argv)
  for name, count in prepare(pathlib.Path(args.output)).items():
    print(f'{name}.tsv: {count} expressions')


if __name__ == '__main__':
  main(sys.argv[1:])
