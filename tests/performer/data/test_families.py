"""Held-out families: the published list, tables of annotations, splits."""

import gzip

import pytest

from performer.data import families
from tests import seeds


def test_the_published_families():
  # arXiv:2009.14794, Appendix C.1, as printed.
  printed = (
    *(18369, 4680, 17988, 12325, 3272, 3938, 17724, 10696, 11968, 4153),
    *(6173, 12378, 4420, 10841, 6917, 3492, 6905, 15340, 17055, 5318),
  )
  assert tuple(f'PF{number:05}' for number in printed) == families.HELD_OUT


def test_tables_of_both_kinds_are_read(tmp_path):
  site = tmp_path / 'site.tsv'
  site.write_text(
    'Entry\tLength\tPfam\nP1\t9\tPF04680;PF00001;\nP2\t9\t\nP3\t9\tPF17988;\n'
  )
  pfam = tmp_path / 'pfam.tsv.gz'
  pfam.write_bytes(
    gzip.compress(
      b'uniprot_acc\tseq_version\tpfamA_acc\nP1\t1\tPF04680\nP1\t1\tPF00001\n'
      b'P3\t2\tPF17988\n'
    )
  )
  for path in (site, pfam):
    found = families.carriers(str(path))
    assert len(found) == 20
    expected = {'PF04680': {'P1'}, 'PF17988': {'P3'}}
    assert {k: v for k, v in found.items() if v} == expected
  assert families.carriers(str(site), ['PF00001']) == {'PF00001': {'P1'}}


def test_quotes_and_empty_lines_are_no_harm(tmp_path):
  path = tmp_path / 'names.tsv'
  path.write_bytes(
    b'Entry\tName\tPfam\r\nP1\t"5\tPF04680;\r\n\r\nP2\tx"\tPF04680;\r\n'
  )
  assert families.carriers(str(path))['PF04680'] == {'P1', 'P2'}


def test_bad_tables_are_named(tmp_path):
  path = tmp_path / 'bad.tsv'
  for text, message in (
    ('Entry\tName\n', ':1: the headings must have one of'),
    ('Entry\tPfam\nP1\n', ':2: the line must have 2 fields, got 1'),
  ):
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
      families.carriers(str(path))


def test_splits_depend_on_the_sequence_alone():
  rng = seeds.rng(0)
  letters = list('ACDEFGHIKLMNPQRSTVWY')
  drawn = rng.choice(letters, (20_000, 12))
  sequences = [''.join(row) for row in drawn.tolist()]
  found = [families.split_of(str(i), s, ()) for i, s in enumerate(sequences)]
  assert found == [families.split_of('x', s.lower(), ()) for s in sequences]
  for name, share in families.SHARES.items():
    expected = 20_000 * share
    assert found.count(name) == pytest.approx(expected, abs=4 * expected**0.5)
  assert families.SHARES['test'] == pytest.approx(0.00975, abs=1e-4)
  assert families.split_of('P1', 'ACD', {'P1'}) == 'ood'
