"""Pictures by class, and how classes are split.

| loader         | classes                       | needs                          |
|----------------|-------------------------------|--------------------------------|
| `digits`       | 80: 10 digits, 4 turns, 2 flips | scikit-learn (extra `hpo`) |
| `prepared`     | as prepared: glyphs, emoji    | `scripts/prepare_glyphs.py`    |
| `omniglot`     | 1,623 characters              | extra `data`, or a folder      |
| `cifar100`     | 100                           | the same                       |
| `mini_imagenet`| 64 / 16 / 20                  | a folder per split and class   |

The splits of Omniglot and CIFAR-100 are drawn at random, as published.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8

from runtime.data import images as images_lib
from runtime.data import public

__all__ = [
  'ClassSet',
  'ClassSplit',
  'cifar100',
  'digits',
  'mini_imagenet',
  'omniglot',
  'prepared',
]


@dataclasses.dataclass(frozen=True, eq=False)
class ClassSet:
  """Pictures and their classes.

  Attributes:
    images: [n, h, w, c], bytes.
    labels: [m = n], from 0, each with at least one picture.

  Raises:
    ValueError: shapes do not fit, or a class is empty.
  """

  images: UInt8[np.ndarray, 'n h w c']
  labels: Integer[np.ndarray, ' m']
  _order: np.ndarray = dataclasses.field(init=False, repr=False)
  _starts: np.ndarray = dataclasses.field(init=False, repr=False)

  def __post_init__(self) -> None:
    if len(self.images) != len(self.labels) or not len(self.labels):
      raise ValueError(
        f'pictures need labels, got {len(self.images)} and {len(self.labels)}'
      )
    counts = np.bincount(self.labels)
    if counts.min() < 1:
      empty = np.flatnonzero(counts == 0)[:5].tolist()
      raise ValueError(f'every class needs a picture, got none of {empty}')
    object.__setattr__(self, '_order', np.argsort(self.labels, kind='stable'))
    object.__setattr__(self, '_starts', np.r_[0, np.cumsum(counts)])

  @property
  def num_classes(self) -> int:
    """How many classes there are."""
    return len(self._starts) - 1

  def check(self, ways: int, per_class: int, name: str) -> None:
    """Raises ValueError if tasks of this size cannot be drawn."""
    least = int(np.diff(self._starts).min())
    if ways > self.num_classes or per_class > least:
      raise ValueError(
        f'{name}: a task needs {ways} classes with {per_class} pictures, there '
        f'are {self.num_classes} with at least {least}'
      )

  def draw(
    self, rng: np.random.Generator, ways: int, per_class: int
  ) -> Integer[np.ndarray, 'ways k']:
    """Rows of different pictures of different classes."""
    chosen = rng.choice(self.num_classes, ways, replace=False)
    return np.stack(
      [
        self._order[
          self._starts[c]
          + rng.choice(
            self._starts[c + 1] - self._starts[c], per_class, replace=False
          )
        ]
        for c in chosen
      ]
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ClassSplit:
  """Training classes, and other classes to evaluate on.

  Attributes:
    train: classes to learn from.
    test: classes to evaluate on.
    valid: to choose settings by; None: there are none.
  """

  train: ClassSet
  test: ClassSet
  valid: ClassSet | None = None


def _chosen(
  images: np.ndarray,
  labels: np.ndarray,
  classes: Integer[np.ndarray, ' k'],
) -> ClassSet:
  """The pictures of some classes, numbered in their order."""
  place = {int(c): i for i, c in enumerate(classes)}
  rows = np.flatnonzero(np.isin(labels, classes))
  new = np.array([place[int(c)] for c in labels[rows]], np.int32)
  return ClassSet(images[rows], new)


def _split(
  images: np.ndarray, labels: np.ndarray, num_test: int, seed: int
) -> ClassSplit:
  """Draws the classes of the test at random."""
  classes = np.unique(labels)
  if not 0 < num_test < len(classes):
    raise ValueError(
      f'num_test must lie in 1..{len(classes) - 1}, got {num_test=}'
    )
  order = np.random.default_rng(seed).permutation(classes)
  return ClassSplit(
    train=_chosen(images, labels, np.sort(order[num_test:])),
    test=_chosen(images, labels, np.sort(order[:num_test])),
  )


def _turned(part: ClassSet) -> ClassSet:
  """Each class four times, turned by quarters."""
  images = np.concatenate([np.rot90(part.images, k, (1, 2)) for k in range(4)])
  labels = [part.labels + k * part.num_classes for k in range(4)]
  return ClassSet(np.ascontiguousarray(images), np.concatenate(labels))


def digits(*, num_test: int = 20, seed: int = 0) -> ClassSplit:
  """80 classes of 8x8 pictures: ten digits, turned and mirrored.

  Turned and mirrored copies of a picture are in different classes, which may
  lie on both sides of the split.

  Args:
    num_test: classes of the test.
    seed: of the split.

  Raises:
    ImportError: scikit-learn is not installed.
    ValueError: num_test leaves one side empty.
  """
  whole = images_lib.digits(num_test=1)
  images = np.concatenate([whole.train.images, whole.test.images])[..., None]
  labels = np.concatenate([whole.train.labels, whole.test.labels])
  images = np.round(images * 255).astype(np.uint8)
  plain = ClassSet(images, labels)
  mirrored = ClassSet(images[:, :, ::-1], labels + 0)
  parts = [_turned(plain), _turned(mirrored)]
  return _split(
    np.concatenate([part.images for part in parts]),
    np.concatenate([parts[0].labels, parts[1].labels + 40]),
    num_test,
    seed,
  )


def prepared(path: str) -> ClassSplit:
  """Pictures that a script rendered, with its split into train and test.

  Args:
    path: of the file, with `images` uint8 [n, h, w, c], `labels` [n] and for
      each class whether it is one of the test, `test` bool [classes].

  Raises:
    FileNotFoundError: the script has not been run.
    ValueError: an array is missing.
  """
  if not pathlib.Path(path).exists():
    raise FileNotFoundError(
      f'{path}: no such file; make it by'
      f' python scripts/prepare_glyphs.py --output={path}'
    )
  with np.load(path, allow_pickle=False) as arrays:
    missing = {'images', 'labels', 'test'} - set(arrays.files)
    if missing:
      raise ValueError(f'{path}: arrays are missing: {sorted(missing)}')
    images, labels, test = (arrays[n] for n in ('images', 'labels', 'test'))
  return ClassSplit(
    train=_chosen(images, labels, np.flatnonzero(~test)),
    test=_chosen(images, labels, np.flatnonzero(test)),
  )


def omniglot(
  folder: str | None = None,
  *,
  size: int = 28,
  num_test: int = 423,
  seed: int = 0,
  data_dir: str | None = None,
) -> ClassSplit:
  """Omniglot, training classes turned by quarters into four times as many.

  Args:
    folder: with `images_background` and `images_evaluation` of the release,
      each alphabet/character/*.png; None: the public data set.
    size: of the pictures.
    num_test: classes of the test.
    seed: of the split.
    data_dir: folder of public data sets; None: see `public.load`.

  Raises:
    ImportError: the extra `data`, or `hpo` for a folder, is not installed.
    FileNotFoundError: the folder has no pictures, or as `public.load`.
  """
  if folder is None:
    images, labels = _from_public('omniglot', data_dir)
  else:
    images, labels = _from_folders(
      sorted(pathlib.Path(folder).glob('images_*/*/*')), folder, 'L', size
    )
  images = 255 - _resized(images[..., :1], size)  # Ink is bright.
  split = _split(images, labels, num_test, seed)
  return ClassSplit(train=_turned(split.train), test=split.test)


def cifar100(
  folder: str | None = None,
  *,
  num_test: int = 20,
  seed: int = 0,
  data_dir: str | None = None,
) -> ClassSplit:
  """CIFAR-100, both its sets together, split by class at random.

  This is not CIFAR-FS.

  Args:
    folder: with `train` and `test` of the python release; None: the
      public data set.
    num_test: classes of the test.
    seed: of the split.
    data_dir: folder of public data sets; None: see `public.load`.

  Raises:
    ImportError: the extra `data` is not installed.
    FileNotFoundError: the folder lacks a file, or as `public.load`.
  """
  if folder is None:
    images, labels = _from_public('cifar100', data_dir)
  else:
    parts = [
      images_lib.cifar_file(pathlib.Path(folder) / name, key='fine_labels')
      for name in ('train', 'test')
    ]
    images, labels = map(np.concatenate, zip(*parts, strict=True))
  return _split(images, labels, num_test, seed)


def mini_imagenet(folder: str, *, size: int = 84) -> ClassSplit:
  """Mini-ImageNet, with the usual lists of 64, 16 and 20 classes as folders.

  Args:
    folder: with `train`, `val` and `test`, each class/*.jpg or *.png.
    size: of the pictures.

  Raises:
    ImportError: Pillow is missing.
    FileNotFoundError: a part has no pictures.
  """
  parts = {}
  for name in ('train', 'val', 'test'):
    inside = pathlib.Path(folder) / name
    images, labels = _from_folders(
      sorted(inside.glob('*')), str(inside), 'RGB', size
    )
    parts[name] = ClassSet(images, labels)
  return ClassSplit(parts['train'], parts['test'], parts['val'])


def _from_folders(
  folders: Sequence[pathlib.Path], where: str, mode: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Reads the pictures of folders, one for each class."""
  from PIL import Image

  images, labels = [], []
  for label, folder in enumerate(f for f in folders if f.is_dir()):
    files = [p for p in sorted(folder.iterdir()) if p.suffix in _PICTURES]
    for path in files:
      with Image.open(path) as picture:
        small = picture.convert(mode).resize((size, size), _BOX)
      images.append(np.asarray(small, np.uint8).reshape(size, size, -1))
      labels.append(label)
  if not images:
    raise FileNotFoundError(f'{where}: no folders with pictures')
  return np.stack(images), np.array(labels, np.int32)


_PICTURES = ('.png', '.jpg', '.jpeg')
_BOX = 4  # Pillow's number of the filter that averages.


def _resized(
  images: UInt8[np.ndarray, 'n a b c'], size: int
) -> UInt8[np.ndarray, 'n h w c']:
  """Averages pictures down to a size."""
  if images.shape[1:3] == (size, size):
    return images
  from PIL import Image

  small = [
    np.asarray(Image.fromarray(x[..., 0]).resize((size, size), _BOX))
    for x in images
  ]
  return np.stack(small)[..., None]


def _from_public(
  name: str, data_dir: str | None
) -> tuple[np.ndarray, np.ndarray]:
  """All pictures and labels of a public data set."""
  splits = public.load(name, ('train', 'test'), data_dir=data_dir)
  parts = [images_lib.labelled(split) for split in splits]
  images, labels = map(np.concatenate, zip(*parts, strict=True))
  return images, labels
