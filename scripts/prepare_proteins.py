r"""Prepares half a million Swiss-Prot proteins, split by function.

    python scripts/prepare_proteins.py --output=DIR

Source: Debian's package `metastudent-data` 2.0.1, three BLAST (version 4)
protein databases with Gene Ontology (GO) terms: `BPO` biological process, `MFO`
molecular function, `CCO` cellular component. The package (225 MB) is fetched
with `apt-get download`, or given by `--source` as a .deb or unpacked folder.

Splits, in the place of the paper's held-out Pfam families, which this source
does not have:

- `ood`: every protein that carries one of 20 held-out molecular functions, or
  a more specific one below it in the ontology. The terms are drawn once, in the
  order of their hash, from those that 300 to 1,500 proteins carry and that
  share no protein with a term already drawn.
- `valid`, `test`: 10,000 proteins each, at random; `train`: the rest. No
  protein of these three carries a held-out term. Identical sequences are kept
  once (with the terms of all copies); similar ones may fall on both sides, as
  in the random split of the paper.

Result: 402,483 / 10,000 / 10,000 / 12,576 proteins (train, valid, test, ood) of
435,059 distinct sequences; about two minutes of processor time and 2 GB of
memory after the download.

GO annotation is incomplete: a relative of an `ood` protein whose function was
not annotated in January 2014 can be in `train`.

With TrEMBL and its families at hand, the published split is made instead:

    python scripts/prepare_proteins.py --output=DIR \
      --fasta=uniprot_trembl.fasta.gz --families=Pfam-A.regions.uniprot.tsv.gz

`ood` then has the proteins of the 20 published Pfam families
(`performer.data.families`), and the others are split at random in the published
shares. Equal sequences are kept once, an `ood` one before others; that takes
about 100 bytes of memory for each distinct sequence.

Reference: arXiv:2009.14794, Appendix C.1 (splits of TrEMBL).
"""

import argparse
import collections
import dataclasses
import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import prepare_common

from performer.data import families, fasta, vocabulary
from runtime import commands

PACKAGE = 'metastudent-data'
PACKAGE_SHA256 = (
  '020ed0c560a5ba96f39c434399b3ecf0fa790a4776c4aac24458f837969ae54b'
)
DATABASES = ('BPO', 'MFO', 'CCO')
RESIDUES = '-ABCDEFGHIKLMNPQRSTVWXYZU*OJ'  # NCBIstdaa: the byte is the index.
OOD_DATABASE = 'MFO'
OOD_TERMS = 20
OOD_TERM_SIZE = (300, 1500)  # Proteins that carry a held-out term.
EVAL_SIZE = 10_000  # Proteins in valid and in test.

_HEADER = re.compile(rb'(\w{6})\|(GO:\d{7}(?:,GO:\d{7})*)')
_TERM = re.compile(r'GO:\d{7}')


@dataclasses.dataclass
class Protein:
  """One distinct sequence.

  Attributes:
    accession: of the first entry with this sequence.
    sequence: residues.
    terms: GO terms of all entries with this sequence.
  """

  accession: str
  sequence: str
  terms: set[str]


def read_index(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Reads a BLAST version 4 protein index (`.pin`).

  Layout, big-endian: version 4, type 1 (protein), title and date (a 32-bit
  length before each), number of sequences, total residues (64 bits,
  little-endian), longest sequence, then the header and the sequence offsets,
  one more each than there are sequences.

  Returns:
    Offsets into the `.phr` and the `.psq` file, integers [n + 1] each.

  Raises:
    ValueError: the file has another version, type or size.
  """
  data = path.read_bytes()

  def word(at: int) -> int:
    if at + 4 > len(data):
      raise ValueError(f'{path}: the index must be complete, ends at {at}')
    return int.from_bytes(data[at : at + 4], 'big')

  if (word(0), word(4)) != (4, 1):
    raise ValueError(
      f'{path}: must be a version 4 protein index, got {word(0)=} {word(4)=}'
    )
  at = 12 + word(8)
  at += 4 + word(at)
  count = word(at)
  at += 16
  if len(data) != at + 8 * (count + 1):
    raise ValueError(
      f'{path}: an index of {count} sequences must have'
      f' {at + 8 * (count + 1)} bytes, got {len(data)}'
    )
  offsets = np.frombuffer(data, '>u4', 2 * (count + 1), at).astype(np.int64)
  return offsets[: count + 1], offsets[count + 1 :]


def read_database(prefix: pathlib.Path) -> Iterator[Protein]:
  """Yields the entries of one BLAST database.

  Args:
    prefix: path of its files without `.pin`, `.phr`, `.psq`.

  Yields:
    Proteins in file order.

  Raises:
    ValueError: a file is damaged or a header names no accession and GO term.
  """
  heads, starts = read_index(prefix.with_name(f'{prefix.name}.pin'))
  headers = prefix.with_name(f'{prefix.name}.phr').read_bytes()
  residues = prefix.with_name(f'{prefix.name}.psq').read_bytes()
  if len(headers) < heads[-1] or len(residues) < starts[-1]:
    raise ValueError(f'{prefix}: .phr and .psq must be as long as .pin says')
  letters = np.frombuffer(RESIDUES.encode(), np.uint8)
  for index in range(len(starts) - 1):
    match = _HEADER.search(headers[heads[index] : heads[index + 1]])
    if match is None:
      raise ValueError(
        f'{prefix}.phr: entry {index} must name an accession and GO terms'
      )
    # The last byte of an entry is the 0 that separates it from the next.
    codes = residues[starts[index] : starts[index + 1] - 1]
    text = letters[np.frombuffer(codes, np.uint8)].tobytes()
    yield Protein(
      match[1].decode(), text.decode(), set(match[2].decode().split(','))
    )


def merge(entries: Iterable[Protein]) -> dict[str, Protein]:
  """Joins entries with equal sequences; those with a non-letter are left out.

  Returns:
    Proteins by sequence.
  """
  merged: dict[str, Protein] = {}
  for entry in entries:
    if vocabulary.illegal_symbol(entry.sequence.encode()) is None:
      known = merged.setdefault(entry.sequence, entry)
      known.terms |= entry.terms
  return merged


def read_ontology(path: pathlib.Path) -> dict[str, set[str]]:
  """Reads `goGraph.txt`: for each term, the terms right above it.

  Args:
    path: lines `parent<TAB>child<TAB>distance<TAB>relation`.

  Returns:
    Parents by child, over the `is_a` relation.
  """
  parents = collections.defaultdict(set)
  for line in path.read_text().splitlines():
    parent, child, _, relation = line.split('\t')
    if relation == 'is_a' and _TERM.fullmatch(parent):
      parents[child].add(parent)
  return dict(parents)


def ancestors(
  term: str, parents: Mapping[str, set[str]], memo: dict[str, frozenset[str]]
) -> frozenset[str]:
  """Returns a term and all terms above it; `memo` keeps them for later."""
  if term not in memo:
    above = [ancestors(p, parents, memo) for p in parents.get(term, ())]
    memo[term] = frozenset({term}.union(*above))
  return memo[term]


def hold_out(
  carriers: Mapping[str, set[str]], count: int, size: tuple[int, int]
) -> dict[str, set[str]]:
  """Draws terms of moderate size with disjoint proteins.

  Args:
    carriers: accessions that carry each term or one below it.
    count: terms to draw.
    size: fewest and most carriers of a term.

  Returns:
    Accessions by drawn term.

  Raises:
    ValueError: there are not so many such terms.
  """
  drawn: dict[str, set[str]] = {}
  taken: set[str] = set()
  for term in sorted(carriers, key=prepare_common.rank):
    names = carriers[term]
    fits = size[0] <= len(names) <= size[1] and taken.isdisjoint(names)
    if fits and len(drawn) < count:
      drawn[term] = names
      taken |= names
  if len(drawn) < count:
    raise ValueError(f'{count} terms must be held out, found {len(drawn)}')
  return drawn


def carriers_of(
  proteins: Iterable[Protein], parents: Mapping[str, set[str]]
) -> dict[str, set[str]]:
  """Lists, for every term, the proteins with it or a more specific one."""
  memo: dict[str, frozenset[str]] = {}
  found = collections.defaultdict(set)
  for protein in proteins:
    for term in protein.terms:
      for above in ancestors(term, parents, memo):
        found[above].add(protein.accession)
  return dict(found)


def split(
  proteins: Iterable[Protein], held_out: set[str], eval_size: int
) -> dict[str, list[Protein]]:
  """Distributes proteins in the order of `rank`.

  Args:
    proteins: distinct sequences.
    held_out: accessions of the `ood` split.
    eval_size: proteins in `valid` and in `test`.

  Raises:
    ValueError: nothing would be left for training.
  """
  ordered = sorted(
    proteins, key=lambda protein: prepare_common.rank(protein.accession)
  )
  inside = [p for p in ordered if p.accession not in held_out]
  if len(inside) <= 2 * eval_size:
    raise ValueError(
      f'training needs over {2 * eval_size} proteins, got {len(inside)}'
    )
  return {
    'train': inside[2 * eval_size :],
    'valid': inside[:eval_size],
    'test': inside[eval_size : 2 * eval_size],
    'ood': [p for p in ordered if p.accession in held_out],
  }


def unpack(source: str | None, folder: pathlib.Path) -> pathlib.Path:
  """Returns the folder that holds `BPO`, `MFO`, `CCO` and `goGraph.txt`.

  Args:
    source: a .deb, an unpacked folder, or None to download the package.
    folder: scratch space.

  Raises:
    FileNotFoundError: the source or the data in it is missing.
    ValueError: the package is not the expected one.
  """
  root = pathlib.Path(source) if source else download(folder)
  if root.is_file():
    prepare_common.check_sha256(root.read_bytes(), PACKAGE_SHA256, str(root))
    subprocess.run(['dpkg-deb', '-x', str(root), str(folder)], check=True)
    root = folder
  for graph in [root / 'goGraph.txt', *sorted(root.rglob('goGraph.txt'))]:
    if all((graph.parent / name).is_dir() for name in DATABASES):
      return graph.parent
  raise FileNotFoundError(f'{root}: no folder with goGraph.txt and {DATABASES}')


def download(folder: pathlib.Path) -> pathlib.Path:
  """Downloads the package with apt and returns its path."""
  print(f'downloading {PACKAGE} (225 MB) ...', flush=True)
  subprocess.run(['apt-get', 'download', PACKAGE], cwd=folder, check=True)
  return next(folder.glob(f'{PACKAGE}_*.deb'))


def prepare(
  data: pathlib.Path,
  output: pathlib.Path,
  *,
  eval_size: int = EVAL_SIZE,
  terms: int = OOD_TERMS,
  term_size: tuple[int, int] = OOD_TERM_SIZE,
) -> dict[str, int]:
  """Reads the databases and writes one FASTA file per split.

  Args:
    data: folder with the databases and the ontology.
    output: folder for the files; created when missing.
    eval_size: proteins in `valid` and in `test`.
    terms: number of held-out GO terms.
    term_size: fewest and most proteins of a held-out term.

  Returns:
    Records by split.
  """
  print(f'reading {data} ...', flush=True)
  merged = merge(
    entry
    for name in DATABASES
    for entry in read_database(data / name / 'goasp.fasta')
  )
  proteins = list(merged.values())
  functions = {
    term
    for entry in read_database(data / OOD_DATABASE / 'goasp.fasta')
    for term in entry.terms
  }
  parents = read_ontology(data / 'goGraph.txt')
  carriers = carriers_of(proteins, parents)
  chosen = hold_out(
    {term: carriers[term] for term in functions}, terms, term_size
  )
  output.mkdir(parents=True, exist_ok=True)
  for term in sorted(chosen):
    print(f'held out {term}: {len(chosen[term])} proteins')
  (output / 'ood_terms.txt').write_text('\n'.join(sorted(chosen)) + '\n')
  splits = split(proteins, set().union(*chosen.values()), eval_size)
  return {
    name: fasta.write(
      str(output / f'{name}.fasta.gz'),
      ((protein.accession, protein.sequence) for protein in group),
    )
    for name, group in splits.items()
  }


def prepare_families(
  source: str, annotations: str, output: pathlib.Path
) -> dict[str, int]:
  """Splits a FASTA file, with the published families held out.

  Args:
    source: FASTA file, plain or gzip, which is read four times.
    annotations: see `families.carriers`.
    output: folder for the files; created when missing.

  Returns:
    Records by split.
  """
  carriers = families.carriers(annotations)
  for family, names in carriers.items():
    print(f'held out {family}: {len(names)} proteins')
  held_out = set().union(*carriers.values())
  output.mkdir(parents=True, exist_ok=True)
  seen: set[bytes] = set()

  def chosen(split: str) -> Iterator[tuple[str, str]]:
    for record in fasta.read(source):
      if (
        families.split_of(record.accession, record.sequence, held_out) == split
      ):
        content = record.sequence.upper().encode()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if digest not in seen:
          seen.add(digest)
          yield record.accession, record.sequence

  # Held-out sequences come first, so that others do not repeat them.
  return {
    name: fasta.write(str(output / f'{name}.fasta.gz'), chosen(name))
    for name in ('ood', 'valid', 'test', 'train')
  }


def how_to_train(output: pathlib.Path) -> dict[str, list[str]]:
  """The gin statements that name the prepared files, by configurations.

  Args:
    output: the folder.
  """
  names = ('train', 'valid', 'test', 'ood')
  files = {name: str(output / f'{name}.fasta.gz') for name in names}
  return {
    'configs/performer/trembl_*.gin': [
      f"{name.upper()}_FILE = '{path}'" for name, path in files.items()
    ],
    'configs/performer/protein_*.gin': [f'proteins.Proteins.files = {files}'],
  }


def main(argv: Sequence[str]) -> None:
  """Runs the preparation and prints how to train on the result."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--output', type=commands.path, required=True, help='folder to write'
  )
  parser.add_argument('--source', help='the .deb or an unpacked folder')
  parser.add_argument('--fasta', help='proteins, instead of the package')
  parser.add_argument('--families', help='their Pfam families, a table')
  args = parser.parse_args(argv)
  if (args.fasta is None) != (args.families is None):
    parser.error('--fasta and --families belong together')
  if args.fasta and args.source:
    parser.error('--source is the package, which --fasta replaces')
  output = pathlib.Path(args.output).absolute()
  start = time.monotonic()
  if args.fasta:
    counts = prepare_families(args.fasta, args.families, output)
  else:
    with tempfile.TemporaryDirectory() as folder:
      data = unpack(args.source, pathlib.Path(folder))
      counts = prepare(data, output)
  for name, count in counts.items():
    print(f'{name}: {count} proteins')
  print(f'done in {time.monotonic() - start:.0f} s')
  for configurations, statements in how_to_train(output).items():
    print(f'train on it with {configurations} and')
    for statement in statements:
      print(f'  --gin_param="{statement}"')


if __name__ == '__main__':
  main(sys.argv[1:])
