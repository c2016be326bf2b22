"""Loaders read what releases hold; splits and draws never overlap."""

import pickle

import numpy as np
import pytest

from hpo.ufom.tasks import class_sets
from tests import seeds
from tests.hpo.ufom.tasks import class_cases as cases


def test_digits_have_eighty_classes():
  split = class_sets.digits()
  assert split.train.num_classes == 60
  assert split.test.num_classes == 20
  assert split.train.images.shape[1:] == (8, 8, 1)
  count = len(split.train.images) + len(split.test.images)
  assert count == 8 * 1797
  whole = [*split.train.images, *split.test.images]
  # Turns and flips of the same pictures, all of them different.
  assert len({x.tobytes() for x in whole}) > 0.99 * count


def test_draws_are_different_pictures_of_different_classes():
  rng = seeds.rng(5)
  labels = rng.permutation(np.repeat(np.arange(7), [3, 4, 5, 6, 3, 3, 9]))
  images = np.arange(33, dtype=np.uint8).reshape(33, 1, 1, 1)
  part = class_sets.ClassSet(images, labels)
  counts = np.zeros(33)
  for _ in range(600):
    rows = part.draw(rng, 4, 3)
    drawn = labels[rows]
    assert (drawn == drawn[:, :1]).all()
    assert len(set(drawn[:, 0])) == 4
    assert len(set(rows.ravel())) == 12
    np.add.at(counts, rows.ravel(), 1)
  # Classes alike, and pictures within them.
  for c, share in zip(*np.unique(labels, return_counts=True), strict=True):
    mean = 600 * 4 / 7 * 3 / share
    assert (np.abs(counts[labels == c] - mean) < 6 * np.sqrt(mean)).all()
  with pytest.raises(ValueError, match='x: a task needs 8 classes with 2'):
    part.check(8, 2, 'x')
  with pytest.raises(ValueError, match='with at least 3'):
    part.check(2, 4, 'x')


def test_glyphs(tmp_path):
  split = class_sets.prepared(str(cases.glyphs(tmp_path)))
  assert split.train.num_classes == split.test.num_classes == 6
  assert len(split.train.images) == 18
  with pytest.raises(FileNotFoundError, match='prepare_glyphs'):
    class_sets.prepared(str(tmp_path / 'none.npz'))
  np.savez(tmp_path / 'bad.npz', images=np.zeros(3))
  with pytest.raises(ValueError, match=r"\['labels', 'test'\]"):
    class_sets.prepared(str(tmp_path / 'bad.npz'))


def test_omniglot(tmp_path):
  split = class_sets.omniglot(str(cases.omniglot(tmp_path)), num_test=4)
  assert split.train.num_classes == 4 * 20
  assert split.test.num_classes == 4
  assert split.train.images.shape == (160, 28, 28, 1)
  one, turned = split.train.images[0], split.train.images[40]
  np.testing.assert_array_equal(np.rot90(one), turned)
  with pytest.raises(FileNotFoundError, match='no folders'):
    class_sets.omniglot(str(tmp_path / 'none'))


def test_cifar100(tmp_path):
  split = class_sets.cifar100(str(cases.cifar100(tmp_path)))
  assert split.train.num_classes == 80
  assert split.test.num_classes == 20
  assert len(split.test.images) == 20 * 4
  content = pickle.loads((tmp_path / 'train').read_bytes())
  red = content[b'data'][0, :1024].reshape(32, 32)
  everything = [*split.train.images, *split.test.images]
  assert any((x[..., 0] == red).all() for x in everything)
  with pytest.raises(FileNotFoundError, match='no such file of CIFAR'):
    class_sets.cifar100(str(tmp_path / 'none'))


def test_a_pickle_that_runs_code_is_refused(tmp_path):
  cases.cifar100(tmp_path)

  class Code:
    def __reduce__(self):
      return print, ('run',)

  (tmp_path / 'test').write_bytes(pickle.dumps(Code()))
  with pytest.raises(ValueError, match=r'arrays only.*builtins\.print'):
    class_sets.cifar100(str(tmp_path))


def test_mini_imagenet(tmp_path):
  split = class_sets.mini_imagenet(str(cases.mini_imagenet(tmp_path)))
  for part in (split.train, split.valid, split.test):
    assert part.num_classes == 6
    assert part.images.shape == (36, 84, 84, 3)


@pytest.mark.parametrize(
  ('load', 'train'), [(class_sets.cifar100, 1), (class_sets.omniglot, 4)]
)
def test_public_sets(load, train):
  """What the real library gives, with pictures of its own making."""
  tfds = pytest.importorskip('tensorflow_datasets')
  with tfds.testing.mock_data(num_examples=20):
    split = load(num_test=10)
  classes = split.train.num_classes // train + split.test.num_classes
  pictures = len(split.train.images) // train + len(split.test.images)
  assert split.test.num_classes == 10
  assert 10 < classes < pictures == 40


def test_what_does_not_fit_is_refused():
  images = np.zeros((4, 2, 2, 1), np.uint8)
  with pytest.raises(ValueError, match=r'none of \[1\]'):
    class_sets.ClassSet(images, np.array([0, 0, 2, 2]))
  with pytest.raises(ValueError, match='4 and 3'):
    class_sets.ClassSet(images, np.array([0, 0, 1]))
  with pytest.raises(ValueError, match='num_test'):
    class_sets.digits(num_test=80)
