import gzip
import hashlib
import pathlib
import re

import numpy as np
import pytest

from performer.data import text

FOLDER = pathlib.Path(text.sample_file('train')).parent
ROW = re.compile(
  r'^\| (\w+) \| ([\w, ]+) \| (\d+) \| (\d+) \| `(\w{64})` \| (\d+) \|'
  r' `(\w{64})` \|$',
  re.M,
)


@pytest.fixture(scope='module')
def rows():
  return ROW.findall((FOLDER / 'PROVENANCE.md').read_text())


def test_files_are_the_ones_the_provenance_describes(rows):
  assert tuple(row[0] for row in rows) == text.SAMPLE_SPLITS
  for split, _, size, kinds, digest, packed_size, packed_digest in rows:
    packed = pathlib.Path(text.sample_file(split)).read_bytes()
    data = gzip.decompress(packed)
    assert hashlib.sha256(packed).hexdigest() == packed_digest
    assert hashlib.sha256(data).hexdigest() == digest
    assert (len(packed), len(data)) == (int(packed_size), int(size))
    assert len(set(data)) == int(kinds)


def test_size_and_alphabet(rows):
  packed = sum(path.stat().st_size for path in FOLDER.glob('*.gz'))
  assert packed <= 420_000
  assert sum(int(row[2]) for row in rows) > 1_000_000
  for split in text.SAMPLE_SPLITS:
    data = gzip.decompress(pathlib.Path(text.sample_file(split)).read_bytes())
    assert set(data) <= {10, *range(32, 127)}


def test_no_play_is_in_two_splits(rows):
  plays = [play for row in rows for play in row[1].split(', ')]
  assert len(set(plays)) == len(plays) == 9
  # Nor is a passage: speeches of two lines are the author's once.
  passages = {}
  for split in text.SAMPLE_SPLITS:
    data = gzip.decompress(pathlib.Path(text.sample_file(split)).read_bytes())
    passages[split] = {data[i : i + 80] for i in range(len(data) - 80)}
  for one, other in (('train', 'valid'), ('train', 'test'), ('valid', 'test')):
    assert not passages[one] & passages[other]


def test_is_the_default_data_set():
  data = text.Text(max_length=255)
  assert data.splits == ('valid', 'test')
  assert data.vocab_size == 256
  batch = next(data.train_iterator(batch_size=2, seed=0))
  whole = gzip.decompress(pathlib.Path(text.sample_file('train')).read_bytes())
  np.testing.assert_array_equal(batch['tokens'][1], list(whole[256:511]))
  assert data.num_examples('train') == len(whole) // 256


def test_frequencies_leave_much_to_learn():
  """About 4.7 bits; the languages of the two splits are alike."""
  data = text.Text(max_length=255)
  own = data.unigram_bits('train')
  for split in data.splits:
    assert own - 0.1 < data.unigram_bits(split) < own + 0.25
  assert 4.4 < own < 5.0
