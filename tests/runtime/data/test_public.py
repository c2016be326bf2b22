"""Public data sets, read by the real library from what it wrote itself."""

import io
import shutil
import sys

import numpy as np
import pytest

from runtime.data import public

tfds = pytest.importorskip('tensorflow_datasets')
# Preparing from files of pictures needs Pillow, and no TensorFlow.
image_lib = pytest.importorskip('PIL.Image')


class Squares(tfds.core.GeneratorBasedBuilder):
  """Grey squares: picture i of a split shows i."""

  VERSION = tfds.core.Version('1.0.0')
  SIZES = {'train': 5, 'test': 3}  # noqa: RUF012

  def _info(self):
    features = {
      'image': tfds.features.Image(shape=(8, 8, 1)),
      'label': tfds.features.ClassLabel(num_classes=10),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {name: self._generate_examples(n) for name, n in self.SIZES.items()}

  def _generate_examples(self, count):
    for i in range(count):
      file = io.BytesIO()
      image_lib.fromarray(np.full((8, 8), i, np.uint8)).save(file, 'png')
      file.seek(0)
      yield i, {'image': file, 'label': i}


class Unreachable(Squares):
  """Its server does not answer."""

  def _split_generators(self, dl_manager):
    raise ConnectionError('no answer from example.org')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Where `squares` was prepared, by its first use."""
  path = str(tmp_path_factory.mktemp('public'))
  public.load('squares', ['train'], data_dir=path)
  return path


def labels(split):
  return sorted(int(example['label']) for example in split)


def test_splits_are_read_in_any_order(folder):
  train, test = public.load('squares', ('train', 'test'), data_dir=folder)
  assert labels(train) == list(range(5))
  assert labels(test) == list(range(3))
  for index in (4, 0, 2, 4):
    example = train[index]
    assert example['image'].dtype == np.uint8
    assert (example['image'] == int(example['label'])).all()


def test_a_prepared_set_is_not_prepared_again(folder, monkeypatch):
  def refuse(self, *arguments, **options):
    raise AssertionError('prepared again')

  monkeypatch.setattr(Squares, '_split_generators', refuse)
  [part] = public.load('squares', ['train[:2]'], data_dir=folder)
  assert len(part) == 2


def test_what_is_asked_for_wrongly(folder):
  with pytest.raises(ValueError, match=r"'mnits' must be .*near .*\['mnist"):
    public.load('mnits', ['train'], data_dir=folder)
  with pytest.raises(ValueError, match=r"are \['brightness'.*'zigzag'\]"):
    public.load('mnist_corrupted/fogg', ['train'], data_dir=folder)
  with pytest.raises(ValueError, match=r"'dev'.*\['test', 'train'\]|'dev'.*tr"):
    public.load('squares', ['dev'], data_dir=folder)


def test_a_format_without_random_access_is_named(tmp_path, folder):
  # Written by hand: the library needs TensorFlow to write this format.
  path = tmp_path / 'squares' / '1.0.0'
  shutil.copytree(tfds.builder('squares', data_dir=folder).data_path, path)
  info = path / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  for file in path.glob('*.array_record-*'):
    file.rename(path / file.name.replace('array_record', 'tfrecord'))
  with pytest.raises(ValueError, match=r'as array_record, .*--file_format=arr'):
    public.load('squares', ['train'], data_dir=str(tmp_path))


def test_what_cannot_be_prepared_is_explained(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r'not prepared.*no answer from example\.org'
  ):
    public.load('unreachable', ['train'], data_dir=str(tmp_path))


def test_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(ImportError, match=r"attune\[data\]'"):
    public.load('mnist', ['train'])
