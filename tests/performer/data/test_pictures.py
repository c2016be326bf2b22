"""Pictures of all sources, as pixels to predict and as sequences to classify."""

import numpy as np
import pytest

from performer.data import labelled, pictures, pixels
from runtime.data import images as images_lib
from tests import seeds
from tests.performer.data import data_cases


def test_digits_are_whole_numbers():
  source = pictures.Digits()
  assert isinstance(source, pictures.Source)
  parts = {name: source.read(name) for name in source.splits}
  assert {name: len(p) for name, p in parts.items()} == {
    'train': 1097,
    'valid': 200,
    'test': 500,
  }
  expected = images_lib.digits().train
  picture = parts['train'][3]
  assert (picture.pixels.shape, picture.label) == (
    (8, 8, 1),
    expected.labels[3],
  )
  np.testing.assert_allclose(picture.pixels[..., 0] / 16, expected.images[3])
  np.testing.assert_allclose(
    parts['valid'][0].pixels[..., 0] / 16, expected.images[1097]
  )
  with pytest.raises(IndexError):
    parts['valid'][200]


def test_photographs_share_no_pixel_between_splits():
  source = pictures.Photographs(32)
  seen = {}
  for name in source.splits:
    crops = source.read(name)
    assert crops[0].pixels.shape == source.shape() == (32, 32, 3)
    # The first row of each crop is unique enough to tell where it is from.
    seen[name] = {crops[i].pixels[0].tobytes() for i in range(len(crops))}
  assert not seen['train'] & seen['valid']
  assert not seen['test'] & seen['valid']
  with pytest.raises(ValueError, match=r'size must lie in 4\.\.96'):
    pictures.Photographs(100)


def test_arrays(tmp_path):
  rng = seeds.rng(0)
  files, labels = {}, {}
  for name, count in (('train', 5), ('valid', 3)):
    images = rng.integers(0, 256, (count, 4, 2, 3), np.uint8)
    files[name], labels[name] = (
      str(tmp_path / f'{name}_{kind}.npy') for kind in ('images', 'labels')
    )
    np.save(files[name], images)
    np.save(labels[name], np.arange(count))
  data = pixels.Pixels(source=pictures.Arrays(files))
  expected = (24, 256, ('valid',))
  assert (data.max_length, data.vocab_size, data.splits) == expected
  _, rows = data.evaluation_examples('valid')
  batch = rows(np.arange(3))
  np.testing.assert_array_equal(batch['targets'], images.reshape(3, -1))
  np.testing.assert_array_equal(
    batch['tokens'], np.pad(images.reshape(3, -1), ((0, 0), (1, 0)))[:, :-1]
  )
  classes = pixels.LabelledPixels(
    source=pictures.Arrays(files, labels), num_classes=5
  )
  ids, label = classes.rows('valid')[2]
  assert label == 2
  r, g, b = images[2].reshape(-1, 3).astype(float).T
  np.testing.assert_array_equal(
    ids, labelled.SPECIAL + np.rint(0.299 * r + 0.587 * g + 0.114 * b)
  )


def test_grey_pictures_in_colour_keep_their_values(tmp_path):
  grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  files = {name: str(tmp_path / f'{name}.npy') for name in ('train', 'valid')}
  labels = str(tmp_path / 'labels.npy')
  for path in files.values():
    np.save(path, grey.repeat(3, axis=-1))
  np.save(labels, np.zeros(1, int))
  source = pictures.Arrays(files, dict.fromkeys(files, labels))
  data = pixels.LabelledPixels(source=source, num_classes=2)
  ids, _ = data.rows('train')[0]
  np.testing.assert_array_equal(ids - labelled.SPECIAL, np.arange(256))


def test_bad_arrays_are_refused(tmp_path):
  good, bad = str(tmp_path / 'good.npy'), str(tmp_path / 'bad.npy')
  np.save(good, np.zeros((2, 4, 4, 1), np.uint8))
  np.save(bad, np.zeros((2, 4, 4)))
  files = {'train': good, 'valid': bad}
  source = pictures.Arrays(files, labels=files)
  with pytest.raises(ValueError, match=r'bad.npy: pictures must be uint8'):
    source.read('valid')
  with pytest.raises(ValueError, match=r'labels must be integers \[2\]'):
    source.read('train')
  halves, archive = str(tmp_path / 'halves.npy'), str(tmp_path / 'both.npz')
  np.save(halves, np.full(2, 0.5))
  np.savez(archive, data=np.zeros((2, 4, 4, 1), np.uint8))
  text = tmp_path / 'text.npy'
  text.write_text('pictures')
  labels = dict.fromkeys(files, halves)
  with pytest.raises(ValueError, match=r'integers \[2\], got float64'):
    pictures.Arrays(files, labels).read('train')
  for path in (archive, str(text)):
    with pytest.raises(ValueError, match=r'(both.npz|text.npy): .* be \.npy'):
      pictures.Arrays({'train': good, 'valid': path}).read('valid')
  with pytest.raises(ValueError, match='labels must have the splits'):
    pictures.Arrays(files, labels={'train': good})
  with pytest.raises(ValueError, match="a 'train' split and another"):
    pictures.Arrays({'train': good})
  unlabelled = pixels.LabelledPixels(
    source=pictures.Arrays(files), num_classes=2
  )
  with pytest.raises(ValueError, match='needs a label, got None for number 0'):
    unlabelled.rows('train')


def test_cifar10(tmp_path):
  source = pictures.Cifar10(str(data_cases.cifar10(tmp_path / 'cifar')))
  counts = [len(source.read(name)) for name in ('train', 'valid', 'test')]
  assert counts == [45, 5, 10]
  labels = [source.read('test')[i].label for i in range(10)]
  assert sorted(labels) == list(range(10))
  assert source.read('test')[0].pixels.shape == source.shape()
  with pytest.raises(FileNotFoundError, match='no such file of CIFAR'):
    pictures.Cifar10(str(tmp_path)).read('train')


def test_pathfinder(tmp_path):
  folder = data_cases.pathfinder(tmp_path / 'paths')
  source = pictures.Pathfinder(str(folder))
  counts = {name: len(source.read(name)) for name in source.splits}
  assert counts == {'train': 15, 'valid': 2, 'test': 2}  # One file is empty.
  values = []
  for name in source.splits:
    for picture in map(source.read(name).__getitem__, range(counts[name])):
      values.append(picture.pixels[0, 0, 0])
      assert picture.label == values[-1] % 2
  assert sorted(values) == list(range(1, 20))
  other = pictures.Pathfinder(str(folder), size=64)
  with pytest.raises(ValueError, match=r'pictures must be \(64, 64, 1\)'):
    other._picture(0)
  (folder / 'metadata' / '0.npy').write_text('imgs/0 sample_1.png\n')
  with pytest.raises(ValueError, match=r'0\.npy:1: a line must be'):
    pictures.Pathfinder(str(folder)).read('train')


def test_naming_a_public_set_reads_nothing(monkeypatch):
  monkeypatch.setattr(pictures.public, 'load', None)
  data = pixels.Pixels(source=pictures.imagenet64())
  assert data.vocab_size == 256
  assert isinstance(data.source, pictures.Source)


def test_public_sets_are_read_by_index(monkeypatch):
  rows = [
    {'image': np.full((2, 2, 3), i, np.uint8), 'label': i} for i in (4, 5)
  ]
  monkeypatch.setattr(pictures.public, 'load', lambda *a, **k: [rows])
  source = pictures.imagenet64()
  assert (source.shape(), source.splits) == ((2, 2, 3), ('train', 'valid'))
  opened = source.read('valid')
  assert opened[1].label == 5
  rows[1]['image'] = np.zeros((2, 3, 3), np.uint8)
  with pytest.raises(ValueError, match=r'must be \(2, 2, 3\), .* \(2, 3, 3\)'):
    opened[1]
  rows[0] = {'video': 0}
  with pytest.raises(ValueError, match=r'needs an image, .* got none'):
    opened[0]
