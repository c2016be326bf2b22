import numpy as np
import pytest

from rl.odetoode.images import corrupted, corruptions
from runtime.data import images as images_lib
from tests import refusals, seeds


@pytest.fixture
def pictures():
  rng = seeds.rng(0)
  draw = lambda n: images_lib.ImageSet(
    images=rng.random((n, 8, 8), np.float32),
    labels=rng.integers(0, 10, n).astype(np.int32),
  )
  return images_lib.Images(train=draw(6), test=draw(5), num_classes=10)


def test_remade(pictures):
  found = corrupted.Remade(severity=2, seed=4)(pictures)
  assert tuple(found) == corruptions.NAMES[1:]
  for name in ('fog', 'shot_noise'):
    expected = corruptions.corrupt(
      pictures.test.images, name, seed=4, severity=2
    )
    np.testing.assert_array_equal(found[name].images, expected)
    np.testing.assert_array_equal(found[name].labels, pictures.test.labels)


test_bad_settings_are_named = refusals.table(
  (lambda: corrupted.Remade(('fog', 'rain')), 'rain'),
  (lambda: corrupted.Released(names=('rain',)), 'rain'),
  (lambda: corrupted.Remade(severity=6), 'severity'),
  (lambda: corrupted.Remade(seed=-1), 'seed must not be negative'),
)


def test_harmed(pictures):
  found = corrupted.harmed(pictures, 'shot_noise')
  (judged,) = corrupted.Remade(('shot_noise',))(pictures).values()
  np.testing.assert_array_equal(found.test.images, judged.images)
  np.testing.assert_array_equal(found.train.labels, pictures.train.labels)
  # Training pictures must not meet the draws of the test pictures.
  same = corruptions.corrupt(pictures.train.images, 'shot_noise', seed=0)
  assert np.abs(found.train.images - pictures.train.images).max() > 0.1
  assert np.abs(found.train.images - same).max() > 0.1


def test_released(pictures, tmp_path):
  folder = tmp_path / 'zigzag'
  folder.mkdir()
  images = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8, 1)
  for split in ('train', 'test'):
    np.save(folder / f'{split}_images.npy', np.tile(images, (2501, 1, 1, 1)))
    np.save(folder / f'{split}_labels.npy', np.tile(np.arange(4), 2501))
  found = corrupted.Released(str(tmp_path), ('zigzag',))(pictures)
  np.testing.assert_allclose(found['zigzag'].images[:4], images[..., 0] / 255)
  with pytest.raises(FileNotFoundError, match='fog'):
    corrupted.Released(str(tmp_path), ('fog',))(pictures)


def mnist_c(folder, last=()):
  """A release of one corruption, 30 and 20 pictures, each with its number."""
  (folder / 'fog').mkdir()
  for split, count in {'train': 30, 'test': 20}.items():
    images = np.arange(count, dtype=np.uint8).repeat(64)
    images = images.reshape(count, 8, 8, *last)
    np.save(folder / 'fog' / f'{split}_images.npy', images)
    np.save(folder / 'fog' / f'{split}_labels.npy', np.arange(count) % 10)
  return str(folder)


@pytest.mark.parametrize('last', [(), (1,)])
def test_mnist_c_folder(tmp_path, last):
  folder = mnist_c(tmp_path, last)
  loaded = corrupted.mnist_c('fog', folder, num_valid=10)
  parts = (loaded.train, loaded.valid, loaded.test)
  assert [len(part) for part in parts] == [20, 10, 20]
  numbers = np.concatenate([part.images[:, 0, 0] for part in parts]) * 255
  np.testing.assert_allclose(numbers, [*range(30), *range(20)], rtol=1e-6)
  np.testing.assert_array_equal(loaded.test.labels, np.arange(20) % 10)
  with pytest.raises(FileNotFoundError, match='must be the unpacked MNIST-C'):
    corrupted.mnist_c('shear', folder)
  with pytest.raises(ValueError, match=r"one of .*'fog'.* got 'snow'"):
    corrupted.mnist_c('snow', folder)
  np.save(tmp_path / 'fog' / 'test_images.npy', np.zeros((20, 8, 8)))
  with pytest.raises(ValueError, match=r'must be uint8 .* got float64'):
    corrupted.mnist_c('fog', folder, num_valid=10)


def test_released_as_a_public_set(pictures):
  tfds = pytest.importorskip('tensorflow_datasets')
  names = corruptions.NAMES[1:]
  configs = tfds.builder_cls('mnist_corrupted').builder_configs
  assert set(corruptions.NAMES) == set(configs)
  with tfds.testing.mock_data(num_examples=3):
    loaded = corrupted.mnist_c(names[0], num_valid=1)
  assert loaded.test.images.shape == (3, 28, 28)
  assert len(loaded.train) == 2
