import pytest

from performer.data import fasta
from runtime import trainer
from runtime.config import files as files_lib
from runtime.config import sessions

CODES = '-ABCDEFGHIKLMNPQRSTVWXYZU*OJ'

# GO:0000002 is_a GO:0000001; GO:0000003 is part of it, which does not count.
GRAPH = (
  'GO:0000001\tGO:0000002\t1\tis_a\n'
  'GO:0000001\tGO:0000003\t1\tpart_of\n'
  'obsolete_molecular_function\tGO:0000009\t1\tis_a\n'
)


def header(accession, terms):
  """A BER-encoded definition line as in the package, one trap included.

  The byte before the accession is the length of the string, and may well be a
  letter.
  """
  title = f'{accession}|{",".join(terms)}'.encode()
  size = bytes([len(title)]) if len(title) < 128 else bytes([129, len(title)])
  return (
    b'0\x800\x80\xa0\x80\x1a' + size + title + b'\x00\x00\xa1\x800\x80\xaa'
    b'\x800\x80\xa0\x80\x1a\tBL_ORD_ID\x00\x00\xa1\x80\xa0\x80\x02\x01\x00'
  )


def write_database(folder, entries):
  """Writes `goasp.fasta.{pin,phr,psq}` from (accession, terms, residues)."""
  folder.mkdir(parents=True)
  heads, starts, headers, residues = [0], [1], b'', b'\0'
  for accession, terms, sequence in entries:
    headers += header(accession, terms)
    residues += bytes(CODES.index(letter) for letter in sequence) + b'\0'
    heads.append(len(headers))
    starts.append(len(residues))
  index = b''.join(n.to_bytes(4, 'big') for n in (4, 1))
  for text in (b'a title', b'Jan 20, 2022\0\0\0'):
    index += len(text).to_bytes(4, 'big') + text
  index += len(entries).to_bytes(4, 'big')
  index += len(residues).to_bytes(8, 'little') + (99).to_bytes(4, 'big')
  index += b''.join(n.to_bytes(4, 'big') for n in heads + starts)
  for suffix, data in (('pin', index), ('phr', headers), ('psq', residues)):
    (folder / f'goasp.fasta.{suffix}').write_bytes(data)


def many(letter, count, terms):
  residues = 'ACDEFGHIKLMNPQRSTVWY'
  return [
    (f'{letter}{i:05d}', terms, 'MK' + letter + residues[i] * (3 + i))
    for i in range(count)
  ]


@pytest.fixture
def source(tmp_path):
  long_header = [f'GO:00000{i:02d}' for i in range(40, 58)]  # Over 127 bytes.
  write_database(
    tmp_path / 'MFO',
    [
      *many('A', 20, ['GO:0000005']),
      ('P00001', ['GO:0000002'], 'MAAA'),
      ('P00002', ['GO:0000001'], 'MCCC'),
      ('P00003', ['GO:0000003'], 'MDDD'),
      ('P00004', long_header, 'MJUBOZX'),
      ('P00005', ['GO:0000005'], 'MA*A'),
    ],
  )
  write_database(
    tmp_path / 'BPO',
    [('Q00001', ['GO:0000077'], 'MAAA'), ('Q00002', ['GO:0000077'], 'MEEE')],
  )
  write_database(tmp_path / 'CCO', many('A', 20, ['GO:0000088']))
  (tmp_path / 'goGraph.txt').write_text(GRAPH)
  return tmp_path


def test_reads_the_layout_of_the_package(script, source):
  found = list(script.read_database(source / 'MFO' / 'goasp.fasta'))
  assert len(found) == 25
  last = {entry.accession: entry for entry in found[20:]}
  assert last['P00001'].sequence == 'MAAA'
  assert last['P00001'].terms == {'GO:0000002'}
  assert last['P00004'].sequence == 'MJUBOZX'
  assert len(last['P00004'].terms) == 18


def test_splits_hold_out_a_term_and_what_is_below_it(script, source, tmp_path):
  output = tmp_path / 'out'
  counts = script.prepare(
    source, output, eval_size=3, terms=1, term_size=(2, 2)
  )
  assert (output / 'ood_terms.txt').read_text() == 'GO:0000001\n'
  splits = {
    name: {
      record.accession: record.sequence
      for record in fasta.read(str(output / f'{name}.fasta.gz'))
    }
    for name in counts
  }
  # Q00001 has the sequence of the carrier P00001 and is read before it.
  assert splits['ood'] == {'Q00001': 'MAAA', 'P00002': 'MCCC'}
  assert counts == {'train': 17, 'valid': 3, 'test': 3, 'ood': 2}
  sequences = [text for group in splits.values() for text in group.values()]
  assert len(set(sequences)) == len(sequences) == 25
  assert 'MA*A' not in sequences


def test_result_does_not_depend_on_the_run(script, source, tmp_path):
  options = {'eval_size': 3, 'terms': 1, 'term_size': (2, 2)}
  for name in ('one', 'two'):
    script.prepare(source, tmp_path / name, **options)
  for file in (tmp_path / 'one').iterdir():
    assert file.read_bytes() == (tmp_path / 'two' / file.name).read_bytes()


def test_held_out_terms_share_no_protein(script):
  carriers = {f'GO:{i:07d}': {f'P{i}', f'P{i + 1}'} for i in range(10)}
  drawn = script.hold_out(carriers, 3, (2, 2))
  assert len(set().union(*drawn.values())) == 6
  with pytest.raises(ValueError, match='9 terms must be held out, found'):
    script.hold_out(carriers, 9, (2, 2))


@pytest.mark.parametrize(
  ('suffix', 'change', 'message'),
  [
    ('pin', lambda data: b'\0\0\0\5' + data[4:], 'version 4 protein index'),
    ('pin', lambda data: data[:-3], 'must have .* bytes'),
    ('pin', lambda data: data[:9], 'the index must be complete'),
    ('psq', lambda data: data[:-5], 'as long as .pin says'),
    ('phr', lambda data: data.replace(b'|GO:', b'|XX:'), 'entry 0 must name'),
  ],
)
def test_damaged_databases(script, source, suffix, change, message):
  path = source / 'MFO' / f'goasp.fasta.{suffix}'
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(ValueError, match=message):
    list(script.read_database(path.with_suffix('')))


def test_refuses_other_sources_and_too_few_proteins(script, source, tmp_path):
  other = tmp_path / 'other.deb'
  other.write_bytes(b'no package')
  with pytest.raises(ValueError, match='sha256 must be 020ed0c5'):
    script.unpack(str(other), tmp_path)
  empty = tmp_path / 'empty'
  empty.mkdir()
  with pytest.raises(FileNotFoundError, match=r'no folder with goGraph\.txt'):
    script.unpack(str(empty), tmp_path)
  assert script.unpack(str(source), tmp_path) == source
  with pytest.raises(ValueError, match='training needs over 200 proteins'):
    script.prepare(source, tmp_path / 'x', eval_size=100, terms=0)


def test_the_printed_statements_fit_every_configuration(script, tmp_path):
  import_proteins = 'from performer.data import proteins'
  for pattern, statements in script.how_to_train(tmp_path).items():
    configurations = sorted(files_lib.PROJECT_ROOT.glob(pattern))
    assert configurations
    for path in configurations:
      with sessions.session(
        trainer.train, [path], [import_proteins, *statements]
      ) as parsed:
        assert str(tmp_path / 'ood.fasta.gz') in parsed.text


def test_published_families_are_held_out(script, tmp_path):
  """Equal sequences are kept once, a held-out one before others."""
  (tmp_path / 'all.fasta').write_text(
    '>tr|P1|one\nMKVL\n>tr|P2|two\nMKVL\n>P3\nGGSS\n>P4\nGGSS\n>P5\nACDE\n'
  )
  (tmp_path / 'table.tsv').write_text('Entry\tPfam\nP2\tPF04680;\n')
  output = tmp_path / 'out'
  counts = script.prepare_families(
    str(tmp_path / 'all.fasta'), str(tmp_path / 'table.tsv'), output
  )
  found = {
    name: [(r.accession, r.sequence) for r in fasta.read(str(path))]
    for name in counts
    if counts[name] and (path := output / f'{name}.fasta.gz')
  }
  assert found.pop('ood') == [('P2', 'MKVL')]
  rest = sorted(x for part in found.values() for x in part)
  assert rest == [('P3', 'GGSS'), ('P5', 'ACDE')]
  assert sum(counts.values()) == 3
  for words in (['--fasta=a'], ['--fasta=a', '--families=b', '--source=c']):
    with pytest.raises(SystemExit, match='2'):
      script.main([f'--output={output}', *words])
