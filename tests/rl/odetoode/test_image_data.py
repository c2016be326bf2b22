import gzip
import struct
import sys
import types

import jaxtyping
import numpy as np
import pytest

from rl.odetoode.images import data


def stored(count, seed=0, side=28):
  """Pictures in bytes, every label present."""
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
  return images, (np.arange(count) % 10).astype(np.uint8)


def check(part, images, labels):
  assert part.images.dtype == np.float32
  assert part.labels.dtype == np.int32
  np.testing.assert_array_equal(part.images, images / np.float32(255))
  np.testing.assert_array_equal(part.labels, labels)


def check_all(loaded, train, test, num_valid):
  split = len(train[1]) - num_valid
  check(loaded.train, train[0][:split], train[1][:split])
  check(loaded.valid, train[0][split:], train[1][split:])
  check(loaded.test, *test)
  assert loaded.num_classes == 10


def test_digits():
  loaded = data.digits()
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
  one, same, other = (data.digits(seed=seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(one.test.images, same.test.images)
  assert not np.array_equal(one.test.labels, other.test.labels)
  assert len(data.digits(num_test=1796).train) == 1
  for num_test in (0, 1797):
    with pytest.raises(ValueError, match=r'num_test must lie in 1\.\.1796'):
      data.digits(num_test=num_test)


@pytest.mark.parametrize(
  ('module', 'load', 'message'),
  [
    ('sklearn.datasets', data.digits, 'install scikit-learn; it is in the ex'),
    ('tensorflow_datasets', data.mnist_tfds, 'install tensorflow-datasets'),
  ],
)
def test_names_the_missing_package(monkeypatch, module, load, message):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ImportError, match=message):
    load()


def test_mnist(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'python scripts/prepare_mnist'):
    data.mnist(str(tmp_path))
  parts = {
    split: stored(count, count)
    for split, count in {'train': 30, 'valid': 20, 'test': 10}.items()
  }
  arrays = {}
  for split, (images, labels) in parts.items():
    arrays |= {f'{split}_images': images, f'{split}_labels': labels}
  np.savez_compressed(tmp_path / 'mnist.npz', **arrays)
  loaded = data.mnist(str(tmp_path))
  check(loaded.train, *parts['train'])
  check(loaded.valid, *parts['valid'])
  check(loaded.test, *parts['test'])


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
  check_all(data.mnist_idx(str(folder), num_valid=10), train, test, 10)
  assert data.mnist_idx(str(folder), num_valid=0).valid is None
  for num_valid in (-1, 30, 10_000):
    with pytest.raises(ValueError, match=r'num_valid must lie in 0\.\.29'):
      data.mnist_idx(str(folder), num_valid=num_valid)


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
    data.mnist_idx(str(folder), num_valid=10)


def test_missing_idx(idx_folder):
  folder, *_ = idx_folder
  (folder / 't10k-labels-idx1-ubyte.gz').unlink()
  with pytest.raises(FileNotFoundError, match=r't10k-labels.*nor one .*\.gz'):
    data.mnist_idx(str(folder), num_valid=10)


@pytest.mark.parametrize('last', [(), (1,)])
def test_mnist_c_folder(tmp_path, last):
  train, test = stored(30), stored(20, 1)
  (tmp_path / 'fog').mkdir()
  for name, (images, labels) in {'train': train, 'test': test}.items():
    shaped = images.reshape(images.shape + last)
    np.save(tmp_path / 'fog' / f'{name}_images.npy', shaped)
    np.save(tmp_path / 'fog' / f'{name}_labels.npy', labels.astype(np.int64))
  loaded = data.mnist_c_folder(str(tmp_path), 'fog', num_valid=10)
  check_all(loaded, train, test, 10)
  with pytest.raises(FileNotFoundError, match='must be the unpacked MNIST-C'):
    data.mnist_c_folder(str(tmp_path), 'shear')
  with pytest.raises(ValueError, match=r"one of .*'fog'.* got 'snow'"):
    data.mnist_c_folder(str(tmp_path), 'snow')
  np.save(tmp_path / 'fog' / 'test_images.npy', test[0] / 255)
  with pytest.raises(ValueError, match=r'must be uint8 .* got float64'):
    data.mnist_c_folder(str(tmp_path), 'fog', num_valid=10)


def test_tfds(monkeypatch):
  parts = {'train': stored(30), 'test': stored(20, 1)}
  calls = []

  def data_source(name, *, split, data_dir):
    calls.append((name, data_dir))
    return [
      [
        {'image': image[..., None], 'label': int(label)}
        for image, label in zip(*parts[part], strict=True)
      ]
      for part in split
    ]

  module = types.ModuleType('tensorflow_datasets')
  module.data_source = data_source
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', module)
  check_all(data.mnist_tfds(num_valid=10), *parts.values(), 10)
  loaded = data.mnist_c_tfds('dotted_line', data_dir='here', num_valid=10)
  check_all(loaded, *parts.values(), 10)
  assert calls == [('mnist', None), ('mnist_corrupted/dotted_line', 'here')]
  with pytest.raises(ValueError, match="got 'snow'"):
    data.mnist_c_tfds('snow')


def image_set(**changes):
  fields = {
    'images': np.zeros((4, 8, 8), np.float32),
    'labels': np.arange(4, dtype=np.int32),
  }
  return data.ImageSet(**{**fields, **changes})


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
    data.Images(train=train, test=test, num_classes=3)
  other = image_set(images=np.zeros((4, 7, 8), np.float32))
  with pytest.raises(ValueError, match='one shape'):
    data.Images(train=train, test=other, num_classes=4)
