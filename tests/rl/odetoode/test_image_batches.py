import json

import numpy as np
import pytest

from rl.odetoode.images import batches, data


@pytest.fixture
def numbers():
  """Ten pictures, each of which carries its number."""
  images = np.arange(10, dtype=np.float32)[:, None, None] / 16
  return data.ImageSet(
    images=np.tile(images, (1, 2, 3)), labels=np.arange(10, dtype=np.int32)
  )


def draw(iterator, count):
  return np.concatenate([next(iterator)['labels'] for _ in range(count)])


def test_batches(numbers):
  batch = next(batches.Batches(numbers, batch_size=4, seed=0))
  assert set(batch) == {'images', 'labels'}
  assert batch['images'].shape == (4, 2, 3)
  assert batch['images'].dtype == np.float32
  assert batch['labels'].dtype == np.int32
  np.testing.assert_array_equal(batch['images'][:, 1, 2] * 16, batch['labels'])


@pytest.mark.parametrize('batch_size', [1, 3, 4, 10, 25])
def test_every_epoch_holds_everything_once(numbers, batch_size):
  iterator = iter(batches.Batches(numbers, batch_size=batch_size, seed=0))
  drawn = draw(iterator, 100)[:100].reshape(10, 10)
  np.testing.assert_array_equal(np.sort(drawn), np.tile(np.arange(10), (10, 1)))
  assert len(np.unique(drawn, axis=0)) == 10
  # The order is that of the epoch, whatever the size of a batch.
  whole = draw(batches.Batches(numbers, batch_size=10, seed=0), 10)
  np.testing.assert_array_equal(drawn.ravel(), whole)


def test_orders_follow_the_seed(numbers):
  one, other = (
    draw(batches.Batches(numbers, batch_size=10, seed=seed), 3)
    for seed in (0, 1)
  )
  assert not np.array_equal(one, other)
  # Nor is an epoch of one seed another epoch of the next.
  assert not np.array_equal(one[10:20], other[:10])


@pytest.mark.parametrize('drawn', [0, 1, 2, 7])
def test_resumes_exactly(numbers, drawn):
  iterator = batches.Batches(numbers, batch_size=4, seed=5)
  for _ in range(drawn):
    next(iterator)
  state = json.loads(json.dumps(iterator.get_state()))
  expected = draw(iterator, 8)
  fresh = batches.Batches(numbers, batch_size=4, seed=5)
  fresh.set_state(state)
  np.testing.assert_array_equal(draw(fresh, 8), expected)
  iterator.set_state(state)  # Back, too.
  np.testing.assert_array_equal(draw(iterator, 8), expected)


def test_refuses(numbers):
  for wrong in ({'batch_size': 0}, {'seed': -1}):
    with pytest.raises(ValueError, match='must be at least 1 and seed not'):
      batches.Batches(numbers, **{'batch_size': 4, 'seed': 0, **wrong})
  iterator = batches.Batches(numbers, batch_size=4, seed=0)
  for state in ({}, {'batches': -1}, {'batches': 1.5}, {'batches': 1, 'x': 0}):
    with pytest.raises(ValueError, match=r"state must be \{'batches': count\}"):
      iterator.set_state(state)
