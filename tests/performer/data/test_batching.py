"""What every data set for language models promises to the trainer."""

import itertools
import json

import grain
import numpy as np
import pytest

from performer.data import batching, copying, text

LENGTH = 7
NUM_WINDOWS, NUM_EVAL = 13, 10


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('text')
  rng = np.random.default_rng(3)
  sizes = {'train': NUM_WINDOWS, 'valid': NUM_EVAL, 'test': 3}
  paths = {name: folder / f'{name}.txt' for name in sizes}
  for name, path in paths.items():
    path.write_bytes(rng.bytes(sizes[name] * (LENGTH + 1) + 5))
  return {name: str(path) for name, path in paths.items()}


@pytest.fixture(params=['sequential', 'shuffled', 'copying'])
def make(request, files):
  def build(**options):
    if request.param == 'copying':
      settings = {'vocab_size': 11, 'num_eval': NUM_EVAL}
      return copying.Copying(max_length=LENGTH, **settings, **options)
    settings = {'order': request.param, 'files': files}
    return text.Text(max_length=LENGTH, **settings, **options)

  return build


def take(iterator, steps):
  return list(itertools.islice(iterator, steps))


def assert_equal(one, other):
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert one[name].dtype == other[name].dtype


def joined(shards):
  return {key: np.concatenate([s[key] for s in shards]) for key in shards[0]}


def test_batches_keep_the_contract(make):
  data = make()
  assert (data.task, data.max_length, data.splits) == (
    'causal',
    LENGTH,
    ('valid', 'test'),
  )
  batches = take(data.train_iterator(batch_size=4, seed=0), 3)
  batches += list(data.eval_batches('valid', batch_size=4))
  for batch in batches:
    shapes = {name: (a.dtype.name, a.shape) for name, a in batch.items()}
    assert shapes == {
      'tokens': ('int32', (4, LENGTH)),
      'targets': ('int32', (4, LENGTH)),
      'weights': ('float32', (4, LENGTH)),
      'mask': ('bool', (4, LENGTH)),
    }
    np.testing.assert_array_equal(
      batch['tokens'][:, 1:], batch['targets'][:, :-1]
    )
    assert batch['mask'].all()
    assert batch['tokens'].min() >= 0
    assert batch['targets'].max() < data.vocab_size


@pytest.mark.parametrize('at', [0, 4, 7])
def test_resume_is_bit_exact(make, at):
  unbroken = make().train_iterator(batch_size=4, seed=5)
  take(unbroken, at)
  state = json.loads(json.dumps(unbroken.get_state()))
  expected = take(unbroken, 8)  # Crosses an epoch border.
  resumed = make().train_iterator(batch_size=4, seed=5)
  take(resumed, 2)
  resumed.set_state(state)
  for one, other in zip(take(resumed, 8), expected, strict=True):
    assert_equal(one, other)
  assert len(json.dumps(state)) < 100


@pytest.mark.parametrize('threads', [0, 3])
def test_threads_change_nothing(make, threads):
  found = take(
    make(num_threads=threads).train_iterator(batch_size=4, seed=5), 9
  )
  expected = take(make().train_iterator(batch_size=4, seed=5), 9)
  for one, other in zip(found, expected, strict=True):
    assert_equal(one, other)


@pytest.mark.parametrize('count', [2, 3])
def test_processes_split_the_global_batch(make, count):
  data = make()
  whole = data.train_iterator(batch_size=6, seed=2)
  shards = [
    data.train_iterator(
      batch_size=6, seed=2, process_index=p, process_count=count
    )
    for p in range(count)
  ]
  for _ in range(5):
    parts = [next(shard) for shard in shards]
    assert {len(part['tokens']) for part in parts} == {6 // count}
    assert_equal(joined(parts), next(whole))
  assert all(shard.get_state() == whole.get_state() for shard in shards)
  shards[0].set_state({**whole.get_state()})  # Valid for any process count.
  following = next(whole)
  rows = {name: values[: 6 // count] for name, values in following.items()}
  assert_equal(next(shards[0]), rows)


@pytest.mark.parametrize('batch_size', [1, 4, 10, 32])
def test_evaluation_is_one_pass_whatever_the_batch(make, batch_size):
  data = make()
  assert data.num_examples('valid') == NUM_EVAL
  expected = joined(list(data.eval_batches('valid', batch_size=1)))
  assert len(expected['tokens']) == NUM_EVAL
  batches = list(data.eval_batches('valid', batch_size=batch_size))
  assert {len(batch['tokens']) for batch in batches} == {batch_size}
  found = joined(batches)
  real = {name: values[:NUM_EVAL] for name, values in found.items()}
  assert_equal(real, expected)
  assert len(batches) == -(-NUM_EVAL // batch_size)
  assert not found['weights'][NUM_EVAL:].any()
  assert expected['weights'].any(axis=1).all()


@pytest.mark.parametrize('split', ['valid', 'test'])
def test_processes_split_evaluation_batches(make, split):
  data = make()
  whole = list(data.eval_batches(split, batch_size=8))
  shards = [
    list(
      data.eval_batches(split, batch_size=8, process_index=p, process_count=4)
    )
    for p in range(4)
  ]
  for parts, batch in zip(zip(*shards, strict=True), whole, strict=True):
    assert_equal(joined(parts), batch)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'batch_size': 0}, 'positive multiple of process_count'),
    ({'batch_size': 5, 'process_count': 2}, 'positive multiple'),
    ({'process_index': 1}, r'must lie in 0\.\.process_count-1'),
    ({'process_count': 0}, r'must lie in 0\.\.process_count-1'),
    ({'seed': -1}, 'seed must lie in'),
    ({'seed': 2**32}, 'seed must lie in'),
  ],
)
def test_bad_arguments(make, arguments, message):
  with pytest.raises(ValueError, match=message):
    make().train_iterator(**{'batch_size': 4, 'seed': 0, **arguments})
  if 'seed' not in arguments:  # At the call, not at the first batch.
    with pytest.raises(ValueError, match=message):
      make().eval_batches('valid', **{'batch_size': 4, **arguments})


def test_bad_options_of_both(make):
  with pytest.raises(ValueError, match='num_threads must be >= 0'):
    make(num_threads=-1)
  for split in ('ood', 'train.txt'):
    with pytest.raises(ValueError, match=f'split must be one of .*{split}'):
      make().num_examples(split)
    with pytest.raises(ValueError, match='split must be one of'):
      make().eval_batches(split, batch_size=1)


@pytest.mark.parametrize('rows', [1, 3])
def test_an_endless_set_gives_batches_of_any_size(rows):
  endless = grain.MapDataset.source(np.arange(5)).repeat()
  batches = batching.train_iterator(endless, batch_size=rows, num_threads=0)
  found = np.concatenate(take(batches, 12))
  np.testing.assert_array_equal(found, np.arange(12 * rows) % 5)
