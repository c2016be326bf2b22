"""Batches, positions and shares of any data set whose examples have numbers."""

import itertools
import json

import numpy as np
import pytest

from runtime.data import indexed

SIZE, NUM_EVAL = 13, 10


class Toy(indexed.Indexed):
  """Rows whose two tokens are their number and the seed of the run."""

  def __init__(self, num_threads=2):
    self.num_threads = num_threads

  def training_examples(self, seed):
    row = indexed.shuffled(SIZE, seed)
    return indexed.stacked(lambda i: {'tokens': np.array([row(i), seed])})

  def evaluation_examples(self, split):
    size = {'valid': NUM_EVAL, 'test': 3}[split]
    return size, lambda numbers: {
      'tokens': numbers[:, None],
      'weights': np.ones((len(numbers), 1), np.float32),
    }


def take(iterator, steps):
  return [batch['tokens'] for batch in itertools.islice(iterator, steps)]


def joined(batches):
  return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


def test_every_epoch_holds_everything_once():
  drawn = np.concatenate(take(Toy().train_iterator(batch_size=4, seed=3), 40))
  epochs = drawn[: 12 * SIZE, 0].reshape(12, SIZE)
  assert (np.sort(epochs) == np.arange(SIZE)).all()
  assert len(np.unique(epochs, axis=0)) == 12
  again = np.concatenate(take(Toy().train_iterator(batch_size=10, seed=3), 16))
  np.testing.assert_array_equal(again, drawn)
  other = np.concatenate(take(Toy().train_iterator(batch_size=4, seed=4), 40))
  assert (other[:SIZE, 0] != drawn[:SIZE, 0]).any()


@pytest.mark.parametrize('at', [0, 4, 7])
def test_resume_is_bit_exact(at):
  unbroken = Toy().train_iterator(batch_size=4, seed=5)
  take(unbroken, at)
  state = json.loads(json.dumps(unbroken.get_state()))
  expected = take(unbroken, 8)  # Crosses an epoch border.
  resumed = Toy().train_iterator(batch_size=4, seed=5)
  take(resumed, 2)
  resumed.set_state(state)
  np.testing.assert_array_equal(take(resumed, 8), expected)
  assert len(json.dumps(state)) < 100


@pytest.mark.parametrize('threads', [0, 3])
def test_threads_change_nothing(threads):
  found = take(Toy(threads).train_iterator(batch_size=4, seed=5), 9)
  expected = take(Toy().train_iterator(batch_size=4, seed=5), 9)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('count', [2, 3])
def test_processes_split_the_global_batch(count):
  whole = Toy().train_iterator(batch_size=6, seed=2)
  shards = [
    Toy().train_iterator(
      batch_size=6, seed=2, process_index=p, process_count=count
    )
    for p in range(count)
  ]
  for batch in take(whole, 5):
    parts = [next(shard)['tokens'] for shard in shards]
    assert {len(part) for part in parts} == {6 // count}
    np.testing.assert_array_equal(np.concatenate(parts), batch)
  state = whole.get_state()
  assert all(shard.get_state() == state for shard in shards)
  following = next(whole)['tokens']
  shards[0].set_state(state)  # Valid for any process count.
  [rows] = take(shards[0], 1)
  np.testing.assert_array_equal(rows, following[: 6 // count])


@pytest.mark.parametrize('batch_size', [1, 4, 10, 32])
def test_evaluation_is_one_pass(batch_size):
  batches = list(Toy().eval_batches('valid', batch_size=batch_size))
  assert {len(batch['tokens']) for batch in batches} == {batch_size}
  assert len(batches) == -(-NUM_EVAL // batch_size)
  found = joined(batches)
  tokens, weights = found['tokens'][:, 0], found['weights'][:, 0]
  np.testing.assert_array_equal(tokens[:NUM_EVAL], np.arange(NUM_EVAL))
  assert (tokens[NUM_EVAL:] == NUM_EVAL - 1).all()
  np.testing.assert_array_equal(weights, np.arange(len(tokens)) < NUM_EVAL)


def test_splits_without_examples_are_refused():
  with pytest.raises(ValueError, match='must have an example, got 0'):
    indexed.eval_batches(indexed.stacked(lambda i: {}), 0, batch_size=2)
  with pytest.raises(ValueError, match='must have an example, got 0'):
    indexed.shuffled(0, seed=1)


@pytest.mark.parametrize('split', ['valid', 'test'])
def test_processes_split_evaluation_batches(split):
  whole = list(Toy().eval_batches(split, batch_size=8))
  shards = [
    Toy().eval_batches(split, batch_size=8, process_index=p, process_count=4)
    for p in range(4)
  ]
  for parts, batch in zip(zip(*shards, strict=True), whole, strict=True):
    for name, values in joined(parts).items():
      np.testing.assert_array_equal(values, batch[name])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'batch_size': 0}, 'positive multiple of process_count'),
    ({'batch_size': 5, 'process_count': 2}, 'positive multiple'),
    ({'process_index': 1}, r'must lie in 0\.\.process_count-1'),
    ({'process_count': 0}, r'must lie in 0\.\.process_count-1'),
    ({'seed': -1}, 'seed must be'),
    ({'seed': 2**32}, 'seed must be'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    Toy().train_iterator(**{'batch_size': 4, 'seed': 0, **arguments})
  if 'seed' not in arguments:  # At the call, not at the first batch.
    with pytest.raises(ValueError, match=message):
      Toy().eval_batches('valid', **{'batch_size': 4, **arguments})


def test_models_side_by_side():
  sources = [Toy().training_examples(seed) for seed in (3, 8)]
  both = indexed.iterator(indexed.side_by_side(sources), batch_size=4)
  alone = [
    take(Toy().train_iterator(batch_size=4, seed=seed), 5) for seed in (3, 8)
  ]
  np.testing.assert_array_equal(take(both, 5), np.stack(alone, axis=2))
  with pytest.raises(ValueError, match='must be a source'):
    indexed.side_by_side([])


def test_training_has_no_end():
  iterator = Toy().train_iterator(batch_size=1, seed=0)
  iterator.set_state({'next_index': 2**40})
  assert next(iterator)['tokens'].shape == (1, 2)


def test_lazy_items_are_made_when_asked_for():
  asked = []
  found = indexed.Lazy(3, lambda i: asked.append(i) or 10 * i)
  assert (len(found), asked) == (3, [])
  assert (found[2], asked) == (20, [2])
  assert list(found) == [0, 10, 20]
  for index in (-1, 3):
    with pytest.raises(IndexError, match=f'no item {index} among 3'):
      found[index]
