import numpy as np
import pytest

from rl.odetoode.images import batches, corrupted, corruptions, data


@pytest.fixture
def pictures():
  rng = np.random.default_rng(np.random.SeedSequence().entropy)
  draw = lambda n: data.ImageSet(
    images=rng.random((n, 8, 8), np.float32),
    labels=rng.integers(0, 10, n).astype(np.int32),
  )
  return data.Images(train=draw(6), test=draw(5), num_classes=10)


def test_remade(pictures):
  found = corrupted.Remade(severity=2, seed=4)(pictures)
  assert tuple(found) == corruptions.NAMES[1:]
  for name in ('fog', 'shot_noise'):
    expected = corruptions.corrupt(
      pictures.test.images, name, seed=4, severity=2
    )
    np.testing.assert_array_equal(found[name].images, expected)
    np.testing.assert_array_equal(found[name].labels, pictures.test.labels)


def test_bad_settings_are_named():
  with pytest.raises(ValueError, match='rain'):
    corrupted.Remade(('fog', 'rain'))
  with pytest.raises(ValueError, match='rain'):
    corrupted.Released(names=('rain',))
  with pytest.raises(ValueError, match='severity'):
    corrupted.Remade(severity=6)
  with pytest.raises(ValueError, match='seed must not be negative'):
    corrupted.Remade(seed=-1)


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


def test_orders_side_by_side(pictures):
  make = lambda **k: batches.SideBySide(
    pictures.train, batch_size=4, seeds=(3, 8), **k
  )
  both = [next(batch) for batch in [make()] for _ in range(3)]
  for index, seed in enumerate((3, 8)):
    alone = batches.Batches(pictures.train, batch_size=4, seed=seed)
    for batch in both:
      expected = next(alone)
      np.testing.assert_array_equal(
        batch['images'][:, index], expected['images']
      )
  later = make(share=(1, 2))
  later.set_state({'batches': 2})
  np.testing.assert_array_equal(next(later)['labels'], both[2]['labels'][2:])
  assert later.get_state() == {'batches': 3}
  with pytest.raises(ValueError, match='seed'):
    batches.SideBySide(pictures.train, batch_size=4, seeds=())
