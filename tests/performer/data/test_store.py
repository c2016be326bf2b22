import gzip
import os
import pathlib
import subprocess
import sys
import time

import grain
import numpy as np
import pytest
from array_record.python import array_record_module

from performer.data import fasta, store, vocabulary
from runtime import paths

SEQUENCES = ['MKVL', 'A', 'GGSSTTY', 'mjw', 'C' * 23]


def write_fasta(folder, sequences=SEQUENCES, name='proteins.fasta.gz'):
  text = ''.join(f'>p{i}\n{s}\n' for i, s in enumerate(sequences))
  path = folder / name
  path.write_bytes(gzip.compress(text.encode()))
  return str(path)


def write_records(folder, records, name='own.array_record'):
  path = str(folder / name)
  writer = array_record_module.ArrayRecordWriter(path, 'group_size:1')
  for record in records:
    writer.write(bytes(record))
  writer.close()
  return path


def encoded(sequences=SEQUENCES):
  return [vocabulary.encode(text) for text in sequences]


def assert_same(found, expected):
  assert len(found) == len(expected)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_array_equal(one, other)
    assert one.dtype == np.uint8


def cut(sequences, length):
  """The slow twin of `store.windows`: one string, then slices."""
  text = ''.join(f'{s.upper().replace("J", "X")}>' for s in sequences)
  whole = len(text) // length
  return [text[i * length : (i + 1) * length] for i in range(whole)]


@pytest.mark.parametrize('length', [2, 3, 5, 8, 38, 43])
def test_windows_equal_slices_of_the_joined_text(length):
  found = list(store.windows(map(np.uint8, encoded()), length))
  assert [vocabulary.decode(ids) for ids in found] == cut(SEQUENCES, length)


def test_windows_of_nothing_and_of_too_little():
  assert list(store.windows([], 4)) == []
  assert list(store.windows([np.zeros(2, np.uint8)], 4)) == []


def test_conversion_gives_what_memory_gives(tmp_path):
  path, cache = write_fasta(tmp_path), str(tmp_path / 'cache')
  records = store.open_records(path, None, cache)
  assert_same(list(records), encoded())
  assert_same(store.load(path, None), encoded())
  assert_same(list(store.open_records(path, 5, cache)), store.load(path, 5))
  with pytest.raises(IndexError):
    records[len(SEQUENCES)]


def test_converted_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
  path, cache = write_fasta(tmp_path), str(tmp_path / 'cache')
  passes = []
  read = fasta.read
  monkeypatch.setattr(
    fasta, 'read', lambda p, **how: passes.append(p) or read(p, **how)
  )
  store.open_records(path, None, cache)
  store.open_records(path, None, cache)
  assert store.summarize(path, cache).sequences == 5
  assert len(passes) == 1
  write_fasta(tmp_path, ['MMMMM', 'KKK'])
  assert len(store.open_records(path, None, cache)) == 2
  assert store.summarize(path, cache).sequences == 2
  assert len(passes) == 2


def test_summary_counts_residues_and_names_the_longest(tmp_path):
  path = write_fasta(tmp_path)
  expected = np.bincount(np.concatenate(encoded()), minlength=25)
  for cache in (None, str(tmp_path / 'cache')):
    summary = store.summarize(path, cache)
    np.testing.assert_array_equal(summary.counts, expected)
    assert (summary.sequences, summary.longest) == (5, 23)
    assert summary.longest_name == f'{path}:9: p4'
  # The second reading comes from the cache and is the same.
  assert store.summarize(path, str(tmp_path / 'cache')) == summary


def test_failed_conversion_leaves_nothing_behind(tmp_path):
  path, cache = write_fasta(tmp_path, ['MK', 'M*K']), tmp_path / 'cache'
  for _ in range(2):
    with pytest.raises(ValueError, match=r'proteins\.fasta\.gz:4: residues'):
      store.open_records(path, None, str(cache))
    assert {file.suffix for file in cache.iterdir()} == {'.lock'}


def test_processes_that_convert_at_once_agree(tmp_path):
  rng = np.random.default_rng(0)
  letters = np.array(list('ACDEFGHIKLMNPQRSTVWY'))
  sequences = [''.join(rng.choice(letters, 200)) for _ in range(1500)]
  path, cache = write_fasta(tmp_path, sequences), str(tmp_path / 'cache')
  program = (
    'import sys; from performer.data import store;'
    ' print(len(store.open_records(sys.argv[1], None, sys.argv[2])))'
  )
  command = [sys.executable, '-c', program, path, cache]
  children = [
    subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)
  ]
  counts = [int(child.communicate()[0]) for child in children]
  assert counts == [1500] * 3
  made = [file for file in os.listdir(cache) if not file.endswith('.lock')]
  expected = ['array_record', 'json']
  assert sorted(file.rsplit('.')[-1] for file in made) == expected
  assert_same(list(store.open_records(path, None, cache)), encoded(sequences))


def test_array_record_is_read_in_place(tmp_path):
  path = write_records(tmp_path, [[0, 1, 24], [5]])
  cache = str(tmp_path / 'cache')
  assert_same(
    list(store.open_records(path, None, cache)), [np.array([0, 1, 24]), [5]]
  )
  assert not os.path.exists(cache)
  assert store.summarize(path, cache).longest_name == f'{path}: record 0'
  windows = list(store.open_records(path, 3, cache))
  assert_same(windows, [np.array([0, 1, 24]), np.array([26, 5, 26])])


@pytest.mark.parametrize('record', [[], [27], [0, 255]])
def test_foreign_array_record_names_the_record(tmp_path, record):
  path = write_records(tmp_path, [[0, 1], record])
  records = store.open_records(path, None, str(tmp_path))
  with pytest.raises(
    ValueError, match=r'own\.array_record: record 1 must hold'
  ):
    records[1]


def test_stored_sequences_must_be_residues(tmp_path):
  path = write_records(tmp_path, [[0, vocabulary.EOS]])
  with pytest.raises(ValueError, match='must hold residue ids below 25'):
    store.open_records(path, 2, str(tmp_path / 'cache'))


def test_file_errors(tmp_path):
  cache = str(tmp_path / 'cache')
  fasta_file = write_fasta(tmp_path)
  junk = tmp_path / 'junk.array_record'
  junk.write_bytes(b'not an array record' * 9)
  whole = write_records(tmp_path, [[0, 1]] * 9, 'whole.array_record')
  cut = tmp_path / 'cut.array_record'
  cut.write_bytes(pathlib.Path(whole).read_bytes()[:-1000])
  empty = write_records(tmp_path, [], 'empty.array_record')
  few = store.Reading(share=(0.0, 1e-9))
  for path, length, reading, message in (
    (tmp_path / 'no.fasta', None, (), 'no such file'),
    (tmp_path / 'no.array_record', None, (), 'no such ArrayRecord file'),
    (tmp_path, None, (), 'got a directory'),
    (fasta_file, 99, (), 'at least one window of 99 tokens'),
    (fasta_file, None, (few,), 'at least one sequence of each split'),
    (junk, None, (), 'must be a complete ArrayRecord file'),
    (cut, None, (), 'must be a complete ArrayRecord file'),
    (empty, None, (), r'must (hold|be)'),
  ):
    error = FileNotFoundError if 'no such' in message else ValueError
    with pytest.raises(error, match=message):
      store.open_records(str(path), length, cache, *reading)
  with pytest.raises(ValueError, match='at least one window of 99 tokens'):
    store.load(fasta_file, 99)


def test_default_cache_follows_the_environment(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert pathlib.Path(paths.user_cache('proteins')).parent.parent == tmp_path
  monkeypatch.delenv('XDG_CACHE_HOME')
  home = os.path.expanduser('~')
  assert paths.user_cache('proteins').startswith(os.path.join(home, '.cache'))


def random_read_cost(source, size):
  """Least processor seconds of 500 random reads."""
  order = np.random.default_rng(0).integers(size, size=500).tolist()
  costs = []
  for _ in range(3):
    start = time.process_time()
    for index in order:
      assert len(source[index]) == 3
    costs.append(time.process_time() - start)
  return min(costs)


def test_a_read_takes_no_time_in_the_number_of_records(tmp_path):
  sizes = 500, 100_000
  paths = [
    write_records(tmp_path, [[1, 2, 3]] * size, f'{size}.array_record')
    for size in sizes
  ]
  small, large = map(random_read_cost, map(store.Records, paths), sizes)
  assert large < 5 * small, (small, large)
  # The usual source fails the same check.
  usual = [grain.sources.ArrayRecordDataSource([path]) for path in paths]
  small, large = map(random_read_cost, usual, sizes)
  assert large > 5 * small, (small, large)
