"""Rebuilds the protein sample that ships in `performer/data/sample`.

    python scripts/prepare_protein_sample.py --output=performer/data/sample

Input: the 20,000 UniProt proteins of Debian's package `mmseqs2-examples`; the
program `mmseqs` comes with Debian's `mmseqs2`. One sensitive all-against-all
search gives two graphs over the proteins:

- *families*: connected components of significant similarity that covers half of
  the shorter protein;
- *clusters* inside a family: connected components of such pairs that are also
  at least 50 % identical.

Some whole families, without a significant hit of any coverage to another
family, are held out as `ood`. In the rest, whole clusters go to `valid`, `test`
or `train`: no evaluation protein has a near duplicate in training, while every
one has relatives there, as in a random split of a large database. A second
search, of the written splits against the training split, checks this and is
reported in PROVENANCE.md. Eight minutes of processor time.
"""

import argparse
import collections
import hashlib
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import prepare_common

from performer.data import fasta
from runtime import commands

SOURCE = '/usr/share/doc/mmseqs2/example-data/DB.fasta.gz'
SOURCE_SHA256 = (
  '92a65aa435f5d3e0f33eb47d87910fe7fc6033a28bf4ed1367094377d791d567'
)
LENGTHS = (32, 512)  # Residues: whole proteins that a laptop-size model sees.
IDENTITY = 0.5  # Of aligned pairs: at or above it two proteins share a cluster.
COVERAGE = 0.5  # Of the shorter protein, for families and clusters.
EVALUE = 1e-3  # A hit below it counts as similarity.
FAMILY_SIZE = 4  # Smaller families teach nothing that can be tested.
OOD_FAMILIES = (4, 30)  # Fewest and most members of a held-out family.
OOD_SIZE = 450  # Proteins held out, at least.
EVAL_SIZE = 450  # Proteins in valid and in test, at least.
EVAL_CLUSTER = 8  # Most proteins of a cluster that may be evaluated on.
EVAL_SHARE = 0.3  # Most of a family that may leave training.
SPLITS = ('train', 'valid', 'test', 'ood')


PAGE = pathlib.Path(__file__).with_name('protein_sample_page.md')


class Hit(NamedTuple):
  """One local alignment between two different proteins."""

  query: str
  target: str
  identity: float
  coverage: float  # Of the shorter of the two.


def search(
  queries: str,
  targets: str,
  lengths: dict[str, int],
  threads: int,
  sensitivity: float = 7.5,
) -> list[Hit]:
  """Runs an mmseqs search and returns the significant hits.

  Args:
    queries: FASTA file.
    targets: FASTA file.
    lengths: residues of every protein by accession.
    threads: processor threads.
    sensitivity: from 1 (fast) to 7.5, the most mmseqs offers.
  """
  with tempfile.TemporaryDirectory() as folder:
    table = f'{folder}/hits.tsv'
    command = ['mmseqs', 'easy-search', queries, targets, table, folder]
    command += [
      '-s',
      str(sensitivity),
      '-e',
      str(EVALUE),
      '--max-seqs',
      '2000',
      '-v',
      '1',
    ]
    command += ['--threads', str(threads)]
    command += ['--format-output', 'query,target,fident,qcov,tcov']
    subprocess.run(command, check=True)
    lines = pathlib.Path(table).read_text().splitlines()
  hits = []
  for line in lines:
    query, target, identity, of_query, of_target = line.split('\t')
    shorter = of_query if lengths[query] <= lengths[target] else of_target
    if query != target:
      hits.append(Hit(query, target, float(identity), float(shorter)))
  return hits


def components(
  names: Iterable[str], pairs: Iterable[tuple[str, str]]
) -> dict[str, str]:
  """Maps every name to one representative of its connected component."""
  parent = {name: name for name in names}

  def find(name: str) -> str:
    while parent[name] != name:
      parent[name] = parent[parent[name]]
      name = parent[name]
    return name

  for one, other in pairs:
    roots = sorted((find(one), find(other)))
    parent[roots[1]] = roots[0]
  return {name: find(name) for name in parent}


def members(component_of: dict[str, str]) -> dict[str, list[str]]:
  """Inverts `components`, everything in the order of `rank`."""
  groups = collections.defaultdict(list)
  for name in sorted(component_of, key=prepare_common.rank):
    groups[component_of[name]].append(name)
  return dict(groups)


def group(
  names: Iterable[str], hits: Iterable[Hit], identity: float
) -> dict[str, str]:
  """Returns the component of each protein under sufficiently similar hits."""
  pairs = [
    (hit.query, hit.target)
    for hit in hits
    if hit.coverage >= COVERAGE and hit.identity >= identity
  ]
  return components(names, pairs)


def split(
  family_of: dict[str, str], hits: Sequence[Hit]
) -> dict[str, list[str]]:
  """Assigns proteins to splits; see the module docstring.

  Args:
    family_of: family of every protein.
    hits: significant hits among them.

  Returns:
    Accessions of each split, in the order of `rank`; proteins of families
    smaller than `FAMILY_SIZE` are in none.
  """
  cluster_of = group(family_of, hits, IDENTITY)
  families = {
    key: names
    for key, names in members(family_of).items()
    if len(names) >= FAMILY_SIZE
  }
  ood = hold_out(families, family_of, hits)
  held = {name for key in ood for name in families[key]}
  inside = {
    name: cluster_of[name]
    for key, names in families.items()
    if key not in ood
    for name in names
  }
  test = draw_clusters(inside, family_of, frozenset())
  valid = draw_clusters(inside, family_of, frozenset(test))
  train = set(inside) - test - valid
  chosen = {'train': train, 'valid': valid, 'test': test, 'ood': held}
  return {
    key: sorted(names, key=prepare_common.rank) for key, names in chosen.items()
  }


def hold_out(
  families: dict[str, list[str]],
  family_of: dict[str, str],
  hits: Sequence[Hit],
) -> set[str]:
  """Chooses the held-out families: isolated, and of moderate size."""
  linked = set()
  for hit in hits:
    ends = {family_of[hit.query], family_of[hit.target]}
    if len(ends) == 2:
      linked |= ends
  fewest, most = OOD_FAMILIES
  chosen, size = set(), 0
  for key in sorted(families, key=prepare_common.rank):
    count = len(families[key])
    if size < OOD_SIZE and key not in linked and fewest <= count <= most:
      chosen.add(key)
      size += count
  return chosen


def draw_clusters(
  cluster_of: dict[str, str], family_of: dict[str, str], taken: frozenset[str]
) -> set[str]:
  """Draws whole clusters for one evaluation split.

  Args:
    cluster_of: cluster of each protein that is not held out.
    family_of: family of each protein.
    taken: proteins of an earlier evaluation split.

  Returns:
    At least `EVAL_SIZE` proteins, if the rules leave so many: a family keeps
    1 - `EVAL_SHARE` of its proteins for training.
  """
  sizes = collections.Counter(family_of[name] for name in cluster_of)
  left = collections.Counter(family_of[name] for name in taken)
  chosen: set[str] = set()
  clusters = members(cluster_of)
  for key in sorted(clusters, key=prepare_common.rank):
    names, family = clusters[key], family_of[key]
    room = EVAL_SHARE * sizes[family] - left[family]
    free = taken.isdisjoint(names) and len(names) <= min(room, EVAL_CLUSTER)
    if free and len(chosen) < EVAL_SIZE:
      chosen.update(names)
      left[family] += len(names)
  return chosen


def check(
  output: pathlib.Path, sequences: dict[str, str], threads: int
) -> list[str]:
  """Searches every split against training; returns the rows of a table.

  Raises:
    RuntimeError: a split has a near duplicate in training, or a held-out
      family any similarity.
  """
  lengths = {name: len(text) for name, text in sequences.items()}
  rows = []
  for name in SPLITS[1:]:
    queries = str(output / f'{name}.fasta.gz')
    hits = search(queries, str(output / 'train.fasta.gz'), lengths, threads)
    covered = [hit for hit in hits if hit.coverage >= COVERAGE]
    most = max((hit.identity for hit in covered), default=0.0)
    total = sum(1 for _ in fasta.read(queries))
    share = len({hit.query for hit in hits}) / total
    if most >= IDENTITY or (name == 'ood' and hits):
      raise RuntimeError(f'{name} is too close to train: {most=} {share=}')
    top = collections.defaultdict(float)
    for hit in covered:
      top[hit.query] = max(top[hit.query], hit.identity)
    median = f'{np.median(list(top.values())):.1%}' if top else '-'
    short = {h.query for h in hits if h.identity >= IDENTITY}
    rows.append(
      f'| {name} | {share:.1%} | {median} | {most:.1%} |'
      f' {len(short) / total:.1%} |'
    )
  return rows


def length_row(name: str, path: pathlib.Path) -> str:
  """Describes one written file: counts, lengths, size and hash."""
  sizes = np.array([len(record.sequence) for record in fasta.read(str(path))])
  data = path.read_bytes()
  return (
    f'| {name} | {sizes.size} | {sizes.sum()} | {sizes.min()} |'
    f' {int(np.median(sizes))} | {sizes.mean():.1f} | {sizes.max()} |'
    f' {len(data)} | `{hashlib.sha256(data).hexdigest()}` |'
  )


def read_source(path: str) -> dict[str, str]:
  """Reads the distinct proteins of usable length, by accession.

  Raises:
    ValueError: the file is not the one this sample is made from.
  """
  content = pathlib.Path(path).read_bytes()
  prepare_common.check_sha256(content, SOURCE_SHA256, path)
  fewest, most = LENGTHS
  sequences = {}
  for record in fasta.read(path):
    if fewest <= len(record.sequence) <= most:
      sequences.setdefault(record.sequence, record.accession)
  return {name: text for text, name in sequences.items()}


def run(*command: str) -> str:
  """Returns the output of a program."""
  return subprocess.run(
    command, check=True, capture_output=True, text=True
  ).stdout.strip()


def write_page(
  output: pathlib.Path,
  splits: dict[str, list[str]],
  family_of: dict[str, str],
  usable: int,
  checks: Iterable[str],
) -> None:
  """Writes PROVENANCE.md beside the splits."""
  files = [length_row(key, output / f'{key}.fasta.gz') for key in SPLITS]
  package = run('dpkg-query', '-f', '${Version}', '-W', 'mmseqs2-examples')
  page = PAGE.read_text().format(
    package=package,
    sha256=SOURCE_SHA256,
    program=run('mmseqs', 'version'),
    files='\n'.join(files),
    shortest=LENGTHS[0],
    longest=LENGTHS[1],
    usable=usable,
    evalue=EVALUE,
    coverage=COVERAGE,
    family=FAMILY_SIZE,
    identity=IDENTITY,
    ood=len({family_of[name] for name in splits['ood']}),
    ood_fewest=OOD_FAMILIES[0],
    ood_most=OOD_FAMILIES[1],
    cluster=EVAL_CLUSTER,
    share=EVAL_SHARE,
    families=len({family_of[name] for name in splits['train']}),
    checks='\n'.join(checks),
  )
  (output / 'PROVENANCE.md').write_text(page)


def main(argv: Sequence[str]) -> None:
  """Builds the sample and its provenance page."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--source', default=SOURCE, help='DB.fasta.gz')
  parser.add_argument(
    '--output', type=commands.path, required=True, help='folder to write'
  )
  parser.add_argument('--threads', type=int, default=2)
  args = parser.parse_args(argv)
  output = pathlib.Path(args.output)
  output.mkdir(parents=True, exist_ok=True)
  sequences = read_source(args.source)
  lengths = {name: len(text) for name, text in sequences.items()}
  with tempfile.TemporaryDirectory() as folder:
    everything = f'{folder}/all.fasta.gz'
    fasta.write(everything, sequences.items())
    print(f'searching {len(sequences)} proteins against themselves ...')
    hits = search(everything, everything, lengths, args.threads)
  family_of = group(sequences, hits, 0.0)
  splits = split(family_of, hits)
  for name, names in splits.items():
    path = output / f'{name}.fasta.gz'
    fasta.write(str(path), ((key, sequences[key]) for key in names))
    print(length_row(name, path))
  print('searching the splits against train ...')
  checks = check(output, sequences, args.threads)
  write_page(output, splits, family_of, len(sequences), checks)


if __name__ == '__main__':
  main(sys.argv[1:])
