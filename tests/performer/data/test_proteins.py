import pathlib

import numpy as np
import pytest

from performer.data import proteins, vocabulary
from tests.performer.data import batch_cases, data_cases

LENGTH = 16
SIZE = 23


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Splits whose sequences differ from one another, of 1 to 40 residues."""
  folder = tmp_path_factory.mktemp('proteins')
  rng = np.random.default_rng(11)
  paths = {}
  for split, size in {'train': SIZE, 'valid': 10, 'odd': 3}.items():
    lengths = rng.integers(8, 41, size)
    lengths[0] = 1
    texts = [''.join(rng.choice(data_cases.LETTERS, n)) for n in lengths]
    paths[split] = data_cases.write_fasta(folder / f'{split}.fasta', texts)
  return paths


@pytest.fixture
def make(files, tmp_path_factory):
  cache = str(tmp_path_factory.mktemp('cache'))

  def build(**options):
    settings = {'task': 'mlm', 'max_length': LENGTH, 'files': files}
    return proteins.Proteins(**{**settings, 'cache_dir': cache, **options})

  return build


def encoded(path):
  lines = pathlib.Path(path).read_text().split()
  return [vocabulary.encode(line) for line in lines[1::2]]


def padded(ids):
  out = np.full(LENGTH, vocabulary.PAD)
  out[: min(ids.size, LENGTH)] = ids[:LENGTH]
  return out


def test_an_epoch_holds_every_sequence_once_and_is_reshuffled(make, files):
  rows = batch_cases.take(make().train_iterator(batch_size=1, seed=3), 3 * SIZE)
  targets = [tuple(row['targets'][0].tolist()) for row in rows]
  expected = sorted(
    tuple(padded(ids).tolist()) for ids in encoded(files['train'])
  )
  epochs = [targets[i : i + SIZE] for i in range(0, 3 * SIZE, SIZE)]
  for epoch in epochs:
    assert sorted(epoch) == expected
  assert len({tuple(epoch) for epoch in epochs}) == 3
  # Masks are drawn anew each epoch too.
  hidden = {}
  for row, target in zip(rows, targets, strict=True):
    hidden.setdefault(target, set()).add(tuple(row['weights'][0].tolist()))
  assert sum(len(masks) for masks in hidden.values()) > 2 * SIZE


def test_seed_decides_order_and_masks(make):
  def first(seed):
    return batch_cases.take(make().train_iterator(batch_size=8, seed=seed), 2)

  for one, other in zip(first(1), first(1), strict=True):
    batch_cases.assert_equal(one, other)
  assert (first(1)[0]['targets'] != first(2)[0]['targets']).any()


@pytest.mark.parametrize('task', ['mlm', 'causal'])
def test_evaluation_is_one_pass_whatever_the_batch(make, files, task):
  data = make(task=task)

  def read(size):
    batches = list(data.eval_batches('valid', batch_size=size))
    assert {len(batch['tokens']) for batch in batches} == {size}
    return batch_cases.joined(batches)

  expected = read(1)
  for size in (4, 6, 32):
    found = read(size)
    assert not found['weights'][10:].any()
    real = {name: values[:10] for name, values in found.items()}
    batch_cases.assert_equal(real, expected)
  sequences = [padded(ids) for ids in encoded(files['valid'])]
  np.testing.assert_array_equal(expected['targets'], sequences)


def test_a_mask_seeded_by_the_batch_fails_that_check(make):
  """The recipe of the released protein models: seed = sum over the batch."""

  def summed(batches):
    out = []
    for batch in batches:
      rng = np.random.default_rng(int(batch['targets'].sum()))
      out.append(rng.random(batch['targets'].shape) < 0.15)
    return np.concatenate(out)[:10]

  data = make()
  one = summed(data.eval_batches('valid', batch_size=2))
  other = summed(data.eval_batches('valid', batch_size=5))
  assert (one != other).any()


def test_concatenated_training_covers_the_stream(make, files):
  data = make(task='causal', concatenate=True)
  stream = np.concatenate(
    [np.append(ids, vocabulary.EOS) for ids in encoded(files['valid'])]
  )
  count = len(stream) // LENGTH
  assert data.num_examples('valid') == count
  batches = batch_cases.joined(list(data.eval_batches('valid', batch_size=1)))
  np.testing.assert_array_equal(
    batches['targets'].ravel(), stream[: count * LENGTH]
  )
  assert batches['weights'].all()


def test_token_counts(make, files):
  expected = np.bincount(np.concatenate(encoded(files['train'])), minlength=29)
  np.testing.assert_array_equal(make().token_counts('train'), expected)
  expected[vocabulary.EOS] = SIZE
  counts = make(concatenate=True).token_counts('train')
  np.testing.assert_array_equal(counts, expected)


def test_properties(make):
  data = make()
  assert data.splits == ('valid', 'odd')
  assert data.vocab_size == 29
  expected = [23, 10, 3]
  assert [data.num_examples(s) for s in ('train', 'valid', 'odd')] == expected


def test_long_sequences_can_be_refused(make, files, tmp_path):
  longest = max(map(len, encoded(files['train'])))
  assert make(max_length=longest, long_sequences='error').num_examples('train')
  data = make(max_length=longest - 1, long_sequences='error')
  with pytest.raises(ValueError, match=r'train\.fasta:\d+: train\d+: a sequen'):
    data.num_examples('train')


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'task': 'bert'}, "task must be 'mlm' or 'causal'"),
    ({'max_length': 1}, 'max_length must be at least 2'),
    ({'files': {'valid': 'x'}}, "must name a 'train' split"),
    ({'masking': 'brt'}, 'masking must be one of'),
    ({'task': 'causal', 'masking': 'bert'}, "masking needs task='mlm'"),
    ({'long_sequences': 'split'}, "must be 'crop' or 'error'"),
    (
      {'long_sequences': 'error', 'concatenate': True},
      'needs concatenate=False',
    ),
  ],
)
def test_bad_options(make, options, message):
  with pytest.raises(ValueError, match=message):
    make(**options)


def test_bad_splits_and_files(make, files, tmp_path):
  with pytest.raises(ValueError, match=r"one of \['train', 'valid', 'odd'\]"):
    make().num_examples('ood')
  missing = make(files={'train': str(tmp_path / 'no.fasta')})
  with pytest.raises(FileNotFoundError, match=r'no\.fasta'):
    missing.train_iterator(batch_size=1, seed=0)
  empty = tmp_path / 'empty.fasta'
  empty.touch()
  with pytest.raises(ValueError, match=r'empty\.fasta:1: .* but is empty'):
    make(files={'train': str(empty)}).train_iterator(batch_size=1, seed=0)
