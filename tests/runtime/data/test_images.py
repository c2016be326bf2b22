import gzip
import struct
import sys

import jaxtyping
import numpy as np
import pytest

from runtime.data import images as images_lib
from runtime.data import indexed
from tests import seeds


def stored(count, seed=0, side=28):
  """Pictures in bytes, every label present."""
  rng = seeds.rng(seed)
  images = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
  return images, (np.arange(count) % 10).astype(np.uint8)


def check(part, images, labels):
  assert part.images.dtype == np.float32
  assert part.labels.dtype == np.int32
  np.testing.assert_array_equal(part.images, images / np.float32(255))
  np.testing.assert_array_equal(part.labels, labels)


def test_digits():
  loaded = images_lib.digits()
  assert loaded.train.images.shape == (1297, 8, 8)
  assert loaded.test.images.shape == (500, 8, 8)
  assert loaded.valid is None
  assert loaded.train.images.max() == 1
  for part in (loaded.train, loaded.test):
    counts = np.bincount(part.labels)
    assert len(counts) == 10
    assert counts.min() > 30
  # The nearest training picture shows the same digit: labels went along.
  train, test = (
    part.images.reshape(len(part), -1) for part in (loaded.train, loaded.test)
  )
  near = ((test[:, None] - train) ** 2).sum(2).argmin(1)
  assert (loaded.train.labels[near] == loaded.test.labels).mean() > 0.97


def test_digits_are_dealt_by_the_seed():
  one, same, other = (images_lib.digits(seed=seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(one.test.images, same.test.images)
  assert not np.array_equal(one.test.labels, other.test.labels)
  assert len(images_lib.digits(num_test=1796).train) == 1
  for num_test in (0, 1797):
    with pytest.raises(ValueError, match=r'num_test must lie in 1\.\.1796'):
      images_lib.digits(num_test=num_test)


def test_names_the_missing_package(monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
  with pytest.raises(ImportError, match=r'sklearn is not inst.*attune\[rl\]'):
    images_lib.digits()


def test_mnist(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'python scripts/prepare_mnist'):
    images_lib.mnist(str(tmp_path))
  sizes = {'train': 30, 'valid': 20, 'test': 10}
  parts = {split: stored(count, count) for split, count in sizes.items()}
  arrays = {
    f'{split}_{name}': array
    for split, part in parts.items()
    for name, array in zip(('images', 'labels'), part, strict=True)
  }
  np.savez_compressed(tmp_path / 'mnist.npz', **arrays)
  loaded = images_lib.mnist(str(tmp_path))
  for split, part in parts.items():
    check(getattr(loaded, split), *part)


def idx(array):
  header = bytes([0, 0, 8, array.ndim])
  return header + struct.pack(f'>{array.ndim}i', *array.shape) + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path):
  train, test = stored(30), stored(20, 1)
  for name, (images, labels) in {'train': train, 't10k': test}.items():
    (tmp_path / f'{name}-images-idx3-ubyte').write_bytes(idx(images))
    packed = gzip.compress(idx(labels))
    (tmp_path / f'{name}-labels-idx1-ubyte.gz').write_bytes(packed)
  return tmp_path, train, test


def test_mnist_idx(idx_folder):
  folder, train, test = idx_folder
  loaded = images_lib.mnist_idx(str(folder), num_valid=10)
  check(loaded.train, *(x[:20] for x in train))
  check(loaded.valid, *(x[20:] for x in train))
  check(loaded.test, *test)
  assert loaded.num_classes == 10
  assert images_lib.mnist_idx(str(folder), num_valid=0).valid is None
  for num_valid in (-1, 30, 10_000):
    with pytest.raises(ValueError, match=r'num_valid must lie in 0\.\.29'):
      images_lib.mnist_idx(str(folder), num_valid=num_valid)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'must begin 00 00 08'),
    (b'\0\0\x0d\x01' + bytes(8), 'must begin 00 00 08, got 00000d'),
    (idx(np.zeros((3, 28, 28), np.uint8))[:-1], 'size must be 2368 bytes'),
    (idx(np.zeros(30, np.uint8)), r'uint8 \[n, h, w\] .* got uint8 \(30,\)'),
  ],
)
def test_refuses_malformed_idx(idx_folder, content, message):
  folder, *_ = idx_folder
  (folder / 'train-images-idx3-ubyte').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    images_lib.mnist_idx(str(folder), num_valid=10)


def test_damaged_and_missing_idx(idx_folder):
  folder, *_ = idx_folder
  path = folder / 'train-labels-idx1-ubyte.gz'
  whole = path.read_bytes()
  path.write_bytes(whole[:-9])
  with pytest.raises(
    ValueError, match=r'ubyte\.gz: the gzip file must be whol'
  ):
    images_lib.mnist_idx(str(folder), num_valid=10)
  path.write_bytes(whole)
  (folder / 't10k-labels-idx1-ubyte.gz').unlink()
  with pytest.raises(FileNotFoundError, match=r't10k-labels.*nor one .*\.gz'):
    images_lib.mnist_idx(str(folder), num_valid=10)


def test_public_pictures():
  """Two sets of the real library, whose pictures are drawn by it."""
  tfds = pytest.importorskip('tensorflow_datasets')
  with tfds.testing.mock_data(num_examples=7):
    loaded = images_lib.from_public('mnist', num_valid=2)
    again = images_lib.from_public('mnist', num_valid=0)
  expected = [5, 2, 7]
  assert [len(p) for p in (loaded.train, loaded.valid, loaded.test)] == expected
  assert loaded.train.images.shape == (5, 28, 28)
  assert again.valid is None
  joined = [loaded.train.images, loaded.valid.images]
  np.testing.assert_array_equal(np.concatenate(joined), again.train.images)
  assert np.ptp(again.train.images) > 0.5


@pytest.fixture
def numbers():
  """Ten pictures, each of which carries its number."""
  images = np.arange(10, dtype=np.float32)[:, None, None] / 16
  return images_lib.ImageSet(
    images=np.tile(images, (1, 2, 3)), labels=np.arange(10, dtype=np.int32)
  )


def test_examples_by_number(numbers):
  found = numbers.examples(np.array([3, 3, 9]))
  np.testing.assert_array_equal(found['images'][:, 1, 2] * 16, [3, 3, 9])
  np.testing.assert_array_equal(found['labels'], [3, 3, 9])
  np.testing.assert_array_equal(found['weights'], np.ones(3, np.float32))


@pytest.mark.parametrize('batch_size', [1, 4, 25])
def test_every_epoch_has_an_order_of_its_own(numbers, batch_size):
  def drawn(seed):
    batches = indexed.iterator(
      numbers.training_examples(seed), batch_size=batch_size
    )
    parts = [next(batches) for _ in range(-(-100 // batch_size))]
    np.testing.assert_array_equal(
      parts[-1]['images'][:, 0, 0] * 16, parts[-1]['labels']
    )
    return np.concatenate([b['labels'] for b in parts])[:100].reshape(10, 10)

  one, other = drawn(0), drawn(1)
  assert (np.sort(one) == np.arange(10)).all()
  # Nor is an epoch of one seed another epoch of the next.
  assert len(np.unique(np.concatenate([one, other]), axis=0)) == 20


def image_set(**changes):
  fields = {
    'images': np.zeros((4, 8, 8), np.float32),
    'labels': np.arange(4, dtype=np.int32),
  }
  return images_lib.ImageSet(**{**fields, **changes})


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'images': np.zeros((4, 8, 8))}, 'got float64 and int32'),
    ({'labels': np.arange(4)}, 'got float32 and int64'),
    ({'images': np.full((4, 8, 8), 1.5, np.float32)}, 'from 1.5 to 1.5'),
    ({'images': np.full((4, 8, 8), np.nan, np.float32)}, 'from nan'),
    ({'labels': np.full(4, -1, np.int32)}, 'labels from -1'),
  ],
)
def test_image_sets_are_checked(changes, message):
  assert len(image_set()) == 4
  with pytest.raises(ValueError, match=message):
    image_set(**changes)


def test_image_sets_pair_pictures_with_labels():
  # The type checker of these tests may be faster than the code.
  with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
    image_set(labels=np.zeros(3, np.int32))


def test_images_are_checked():
  train, test = image_set(), image_set()
  with pytest.raises(ValueError, match='below num_classes, got 3'):
    images_lib.Images(train=train, test=test, num_classes=3)
  other = image_set(images=np.zeros((4, 7, 8), np.float32))
  with pytest.raises(ValueError, match='one shape'):
    images_lib.Images(train=train, test=other, num_classes=4)
