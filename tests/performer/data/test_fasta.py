import gzip
import tracemalloc

import pytest

from performer.data import fasta

UNIPROT = (
  b'>tr|W0FSK4|W0FSK4_9FLAV Genome polyprotein OS=Dengue virus 3 PE=4 SV=1\n'
  b'MNNQRKKTGK\r\nPSINML  \n\n'
  b'>sp|P00974|BPT1_BOVIN\tPancreatic trypsin inhibitor\n'
  b'rpdfcleppyBOUXZJ\n'
  b'> plain-name with words\n'
  b'M'
)


def write(tmp_path, data, name='proteins.fasta'):
  path = tmp_path / name
  path.write_bytes(data)
  return str(path)


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_reads_plain_and_gzip_whatever_the_name(tmp_path, pack):
  records = list(fasta.read(write(tmp_path, pack(UNIPROT))))
  expected = ['W0FSK4', 'P00974', 'plain-name']
  assert [record.accession for record in records] == expected
  expected = ['MNNQRKKTGKPSINML', 'rpdfcleppyBOUXZJ', 'M']
  assert [record.sequence for record in records] == expected
  assert [record.line for record in records] == [1, 5, 7]
  assert records[0].header.endswith('OS=Dengue virus 3 PE=4 SV=1')


def test_reads_concatenated_gzip_members(tmp_path):
  data = gzip.compress(b'>a\nMK') + gzip.compress(b'VL\n>b\nAA\n')
  records = list(fasta.read(write(tmp_path, data)))
  expected = [('a', 'MKVL'), ('b', 'AA')]
  assert [(r.accession, r.sequence) for r in records] == expected


@pytest.mark.parametrize(
  ('data', 'line', 'rule'),
  [
    (b'', 1, 'must hold a record'),
    (b'\n  \n', 1, 'must hold a record'),
    (b'MKV\n>a\nMK\n', 1, 'must begin with a ">" line'),
    (b'\n;comment\n>a\nMK\n', 2, 'must begin with a ">" line'),
    (b'BZh91AY&SY', 1, 'must begin with a ">" line'),
    (b'>a\nMK\n>b\n>c\nMK\n', 3, 'must have residues'),
    (b'>a\nMK\n>b\n', 3, 'must have residues'),
    (b'>\nMK\n', 1, 'must name its sequence'),
    (b'>a\nMKV\nMK*\n', 3, "must be letters A-Z, got '*'"),
    (b'>a\nMK-V\n', 2, "must be letters A-Z, got '-'"),
    (b'>a\nMK V\n', 2, "must be letters A-Z, got ' '"),
    (b'>a\nM\xc3\xa9V\n', 2, 'must be letters A-Z'),
    (b'>a\n' + b'M' * (1 << 20), 2, 'must be shorter than'),
  ],
)
def test_malformed_files_name_file_line_and_rule(tmp_path, data, line, rule):
  path = write(tmp_path, data)
  with pytest.raises(ValueError) as caught:  # noqa: PT011 (checked below)
    list(fasta.read(path))
  assert str(caught.value).startswith(f'{path}:{line}:')
  assert rule in str(caught.value)


@pytest.mark.parametrize('kept', [15, -4, -12])
def test_truncated_gzip_is_an_error(tmp_path, kept):
  data = gzip.compress((UNIPROT + b'\n') * 40)
  path = write(tmp_path, data[:kept], 'cut.fasta.gz')
  with pytest.raises(ValueError, match=r'cut\.fasta\.gz:\d+: the gzip stream'):
    list(fasta.read(path))


def test_damaged_gzip_is_an_error(tmp_path):
  data = bytearray(gzip.compress((UNIPROT + b'\n') * 40))
  data[60] ^= 0xFF
  path = write(tmp_path, bytes(data))
  with pytest.raises(ValueError, match='the gzip stream must be complete'):
    list(fasta.read(path))


def test_missing_file_and_directory(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'nowhere\.fasta: no such'):
    list(fasta.read(str(tmp_path / 'nowhere.fasta')))
  with pytest.raises(ValueError, match='must be a file, got a directory'):
    list(fasta.read(str(tmp_path)))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
  def peak(records):
    data = b''.join(b'>r%d\n%s\n' % (i, b'MKVL' * 100) for i in range(records))
    path = write(tmp_path, gzip.compress(data, 1))
    del data
    tracemalloc.start()
    assert sum(1 for _ in fasta.read(path)) == records
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most

  small, large = peak(500), peak(10_000)
  assert large < small + 100_000, (small, large)


def test_write_round_trips_and_gives_the_same_bytes(tmp_path):
  proteins = [('P1', 'MKV'), ('P2 some words', 'A')]
  one, other = str(tmp_path / 'one.gz'), str(tmp_path / 'other.gz')
  assert fasta.write(one, iter(proteins)) == 2
  fasta.write(other, proteins)
  records = list(fasta.read(one))
  assert [(r.header, r.sequence) for r in records] == proteins
  assert (tmp_path / 'one.gz').read_bytes() == (
    tmp_path / 'other.gz'
  ).read_bytes()
