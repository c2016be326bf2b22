import collections
import gzip
import tracemalloc

import numpy as np
import pytest

from performer.data import text
from tests.performer.data import batch_cases

ALPHABET = b'abcdefghijklmnopqrstuvwxyz'
PACKED = gzip.compress(ALPHABET, mtime=0)


@pytest.fixture
def path(tmp_path):
  file = tmp_path / 'letters.txt'
  file.write_bytes(ALPHABET[:11])
  return file


def make(path, length=3, **options):
  """Windows of one file, which is that of training."""
  files = {'train': str(path)}
  return text.Text(**{'max_length': length, 'files': files, **options})


def rows(batches, name):
  return [bytes(row.astype(np.uint8)) for b in batches for row in b[name]]


def test_windows_by_hand(path):
  """Eleven bytes are two windows of four and a ragged end."""
  data = text.Text(max_length=3, files={'train': str(path), 'valid': __file__})
  assert data.num_examples('train') == 2
  [batch] = data.eval_batches('train', batch_size=2)
  assert rows([batch], 'tokens') == [b'abc', b'efg']
  assert rows([batch], 'targets') == [b'bcd', b'fgh']
  assert batch['weights'].all()


@pytest.mark.parametrize(
  ('size', 'length', 'expected'), [(8, 3, 2), (9, 3, 2), (7, 3, 1), (4, 1, 2)]
)
def test_whole_windows_only(tmp_path, size, length, expected):
  file = tmp_path / 'ragged'
  file.write_bytes(ALPHABET[:size])
  data = make(file, length)
  assert data.num_examples('train') == expected


def test_sequential_order_wraps_by_modulo(path):
  data = make(path)
  batches = batch_cases.take(data.train_iterator(batch_size=3, seed=9), 3)
  found = rows(batches, 'tokens')
  assert found == [b'abc', b'efg'] * 4 + [b'abc']


def test_published_batches(tmp_path):
  """At batch 1, step i reads bytes W (i mod n) up to W (i mod n) + W."""
  raw = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)
  file = tmp_path / 'bytes'
  raw.tofile(file)
  data = make(file, 63)
  batches = batch_cases.take(data.train_iterator(batch_size=1, seed=1), 40)
  for step, batch in enumerate(batches):
    start = 64 * (step % (1000 // 64))
    np.testing.assert_array_equal(batch['tokens'][0], raw[start : start + 63])
    np.testing.assert_array_equal(
      batch['targets'][0], raw[start + 1 : start + 64]
    )


def test_a_shuffled_epoch_holds_every_window_once(tmp_path):
  file = tmp_path / 'train'
  file.write_bytes(np.random.default_rng(5).bytes(20 * 4))

  def order(seed):
    data = make(file, order='shuffled')
    batches = batch_cases.take(data.train_iterator(batch_size=5, seed=seed), 12)
    return rows(batches, 'tokens')

  sequential = make(file)
  windows = rows(sequential.eval_batches('train', batch_size=1), 'tokens')
  found = order(1)
  epochs = [found[i : i + 20] for i in range(0, 60, 20)]
  assert all(sorted(epoch) == sorted(windows) for epoch in epochs)
  assert len({tuple(epoch) for epoch in [windows, *epochs]}) == 4
  assert found == order(1)
  assert found != order(2)
  # Evaluation keeps the order of the file.
  shuffled = make(file, order='shuffled')
  assert rows(shuffled.eval_batches('train', batch_size=4), 'tokens') == windows


def test_gzip_gives_what_plain_gives(tmp_path):
  raw = np.random.default_rng(2).bytes(777)
  (tmp_path / 'plain.gz').write_bytes(raw)  # The name decides nothing.
  (tmp_path / 'packed.txt').write_bytes(gzip.compress(raw, mtime=0))

  def read(name):
    data = make(tmp_path / name, 31, byte_ranges={'train': (100, 700)})
    batches = batch_cases.take(data.train_iterator(batch_size=2, seed=0), 12)
    return rows(batches, 'targets')

  one, other = map(read, ('plain.gz', 'packed.txt'))
  assert one == other
  assert one[0] == raw[101:132]


def test_one_file_cut_into_splits(tmp_path):
  """As enwik8: 9 parts training, then half a part validation, the rest none."""
  file = tmp_path / 'enwik'
  raw = np.random.default_rng(4).bytes(1000)
  file.write_bytes(raw)
  data = text.Text(
    max_length=9,
    files={'train': str(file), 'valid': str(file)},
    byte_ranges={'train': (0, 900), 'valid': (900, 950)},
  )
  assert data.splits == ('valid',)
  assert [data.num_examples(s) for s in ('train', 'valid')] == [90, 5]
  found = rows(data.eval_batches('valid', batch_size=5), 'tokens')
  assert found == [raw[i : i + 9] for i in range(900, 950, 10)]
  np.testing.assert_array_equal(
    data.token_counts('valid'), np.bincount(list(raw[900:950]), minlength=256)
  )


def test_a_large_file_is_not_read_into_memory(tmp_path):
  file = tmp_path / 'large'
  size = 2**26
  with open(file, 'wb') as stream:
    stream.truncate(size)  # Sparse: takes no disk.

  def peak(read):
    tracemalloc.start()
    read()
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used

  def mapped():
    data = make(file, 1023)
    assert data.num_examples('train') == size // 1024
    batch_cases.take(data.train_iterator(batch_size=2, seed=0), 3)

  assert peak(mapped) < size / 16
  # The check sees NumPy's memory: reading the file fails it.
  assert peak(lambda: np.fromfile(file, np.uint8)) > size / 16


@pytest.mark.parametrize('size', [50, 3 * 2**20 + 5])
def test_token_counts(tmp_path, size):
  raw = np.random.default_rng(8).integers(60, 90, size).astype(np.uint8)
  raw.tofile(tmp_path / 'text')
  data = make(tmp_path / 'text', 7)
  expected = collections.Counter(raw.tolist())
  counts = data.token_counts('train')
  assert counts.tolist() == [expected[value] for value in range(256)]


def test_unigram_bits_by_hand(tmp_path):
  """Counts a: 3, b: 1 and half a pseudocount for each of 256 bytes."""
  (tmp_path / 'train').write_bytes(b'aaba')
  # The windows are `zab` and `zcb`; z and the ragged `a` are no targets.
  (tmp_path / 'valid').write_bytes(b'zabzcba')
  data = text.Text(
    max_length=2, files={s: str(tmp_path / s) for s in ('train', 'valid')}
  )
  a, b, other = (np.log2(132 / n) for n in (3.5, 1.5, 0.5))
  found = data.unigram_bits('valid', pseudocount=0.5)
  assert found == pytest.approx((a + b + other + b) / 4, abs=1e-12)
  with pytest.raises(ValueError, match='pseudocount must be > 0'):
    data.unigram_bits('valid', pseudocount=0.0)


def test_unigram_bits_are_those_of_the_batches():
  """The mean that a model with constant logits reaches on the same targets."""
  data = text.Text(max_length=100)
  counts = data.token_counts('train') + 1
  losses = -np.log2(counts / counts.sum())
  total = weight = 0.0
  for batch in data.eval_batches('valid', batch_size=64):
    total += (losses[batch['targets']] * batch['weights']).sum()
    weight += batch['weights'].sum()
  assert data.unigram_bits('valid') == pytest.approx(total / weight, rel=1e-6)


def test_the_empirical_baseline_is_unigram_bits():
  data = text.Text(max_length=100)
  [(name, predictor)] = data.baselines().items()
  assert name == 'empirical baseline'
  scores = predictor.evaluate(data.eval_batches('valid', batch_size=64))
  assert np.log2(scores.perplexity) == pytest.approx(data.unigram_bits('valid'))
  # Of English, about a sixth of all characters are spaces.
  assert predictor.probabilities.argmax() == ord(' ')
  assert 0.1 < scores.accuracy < 0.2


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'the file must hold text, but is empty'),
    (gzip.compress(b'', mtime=0), 'the file must hold text, but is empty'),
    (b'abc', "the split 'train' .* of 4 bytes .* but has 3"),
    (b'PK\x03\x04rest', 'the file must be plain or gzip, got a zip'),
    (PACKED[:-9], 'the gzip file must be whole'),
    (PACKED[:-8] + b'8bytes!!', 'the gzip file must be whole'),
    (b'\x1f\x8b not gzip', 'the gzip file must be whole'),
  ],
)
def test_bad_files(tmp_path, content, message):
  path = tmp_path / 'bad'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'bad: {message}'):
    make(path).train_iterator(batch_size=1, seed=0)


def test_missing_files_and_directories(tmp_path, path):
  files = {'train': str(path), 'valid': str(tmp_path / 'no'), 'dir': '/'}
  data = text.Text(max_length=3, files=files)
  with pytest.raises(FileNotFoundError, match='/no: no such file'):
    data.eval_batches('valid', batch_size=1)
  with pytest.raises(ValueError, match='must be a file, got a directory'):
    data.num_examples('dir')
  with pytest.raises(ValueError, match="byte range of 'train', 12, but has 11"):
    make(path, byte_ranges={'train': (0, 12)}).num_examples('train')


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'max_length': 0}, 'max_length must be at least 1'),
    ({'files': {'valid': 'x'}}, "must name a 'train' split"),
    ({'order': 'random'}, "order must be 'sequential' or 'shuffled'"),
    ({'byte_ranges': {'train': (0, 5)}}, r"splits of files, got \['train'\]"),
    (
      {'files': {'train': 'x'}, 'byte_ranges': {'test': (0, 5)}},
      r"got \['test'\] beside \['train'\]",
    ),
    (
      {'files': {'train': 'x'}, 'byte_ranges': {'train': (5, 5)}},
      r"0 <= start < stop, got \(5, 5\) for 'train'",
    ),
    (
      {'files': {'train': 'x', 'valid': 'x'}},
      'x: splits of one file need byte_ranges that do not overlap',
    ),
    (
      {
        'files': {'train': 'x', 'valid': './x'},
        'byte_ranges': {'train': (0, 91), 'valid': (90, 95)},
      },
      r"got \(0, 91\) for 'train' and \(90, 95\) for 'valid'",
    ),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(ValueError, match=message):
    text.Text(**{'max_length': 3, **options})
