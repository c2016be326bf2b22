"""Splits of annotated proteins with whole families held out.

The published experiments hold out 20 families of Pfam, so that their `ood` split
has no protein of a family that a model has seen. The other proteins are split at
random; equal sequences fall into one split.

Reference: arXiv:2009.14794, Appendix C.1 (families and sizes of the splits).
"""

import csv
import gzip
import hashlib
from collections.abc import Collection
from typing import Any

from runtime.data import files as files_lib

__all__ = ['HELD_OUT', 'SHARES', 'carriers', 'split_of']

HELD_OUT = (
  *('PF18369', 'PF04680', 'PF17988', 'PF12325', 'PF03272'),
  *('PF03938', 'PF17724', 'PF10696', 'PF11968', 'PF04153'),
  *('PF06173', 'PF12378', 'PF04420', 'PF10841', 'PF06917'),
  *('PF03492', 'PF06905', 'PF15340', 'PF17055', 'PF05318'),
)
# Shares of the published `valid` (102,400) and `test` (1,033,216) among the
# 106,000,384 sequences that are not held out.
SHARES = {'valid': 102_400 / 106_000_384, 'test': 1_033_216 / 106_000_384}

# Headings of protein and family: the tables of UniProt's site, and Pfam's own
# `Pfam-A.regions.uniprot.tsv`.
_HEADINGS = (('Entry', 'Pfam'), ('uniprot_acc', 'pfamA_acc'))


def carriers(
  path: str, families: Collection[str] = HELD_OUT
) -> dict[str, set[str]]:
  """The proteins of some families.

  Args:
    path: of a table with tabs, plain or gzip, that has a line of headings, among
      them `Entry` and `Pfam` (families with `;` after each), or `uniprot_acc`
      and `pfamA_acc` (a line for each family).
    families: accessions of Pfam, without version.

  Returns:
    Accessions of UniProt by family.

  Raises:
    ValueError: a heading is missing or a line has too few fields; the message
      names the line.
  """
  found: dict[str, set[str]] = {family: set() for family in families}
  with _text(path) as stream:
    lines = csv.reader(stream, delimiter='\t', quoting=csv.QUOTE_NONE)
    place, other = _columns(path, next(lines, []))
    for line in filter(None, lines):
      if len(line) <= max(place, other):
        raise ValueError(
          f'{path}:{lines.line_num}: the line must have {max(place, other) + 1} fields, '
          f'got {len(line)}'
        )
      for family in line[other].split(';'):
        if family in found:
          found[family].add(line[place])
  return found


def split_of(accession: str, sequence: str, held_out: Collection[str]) -> str:
  """The split of a protein.

  Args:
    accession: of the protein.
    sequence: its residues, whose hash decides.
    held_out: accessions of the `ood` split.

  Returns:
    `ood`, `valid`, `test` or `train`.
  """
  if accession in held_out:
    return 'ood'
  digest = hashlib.sha256(sequence.upper().encode()).digest()
  place = int.from_bytes(digest[:8], 'big') / 2**64
  if place < SHARES['valid']:
    return 'valid'
  return 'test' if place < SHARES['valid'] + SHARES['test'] else 'train'


def _columns(path: str, headings: list[str]) -> tuple[int, int]:
  for protein, family in _HEADINGS:
    if protein in headings and family in headings:
      return headings.index(protein), headings.index(family)
  raise ValueError(
    f'{path}:1: the headings must have one of {_HEADINGS}, got {headings}'
  )


def _text(path: str) -> Any:
  if files_lib.is_gzip(path):
    return gzip.open(path, 'rt', encoding='utf-8', newline='')
  return open(path, encoding='utf-8', newline='')
