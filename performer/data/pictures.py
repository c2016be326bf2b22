"""Pictures in bytes, for models that read them pixel by pixel.

| source | pictures | needs |
|---|---|---|
| `Digits` | 1,797 digits of 8x8, 17 levels of grey | scikit-learn |
| `Photographs` | crops of two photographs | scikit-learn, Pillow |
| `Arrays` | NumPy files, such as ImageNet64's | the files |
| `Public` | sets such as `downsampled_imagenet/64x64` | see `runtime.data.public` |
| `Cifar10` | 60,000 of 32x32 | the python release |
| `Pathfinder` | 200,000 of 32x32 to 256x256 | the release of Long Range Arena |

A picture is uint8 [h, w, c]. All pictures of a source have one shape.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from performer.data import dataset
from runtime import optional, paths
from runtime.data import images as images_lib
from runtime.data import indexed, public

__all__ = [
  'Arrays',
  'Cifar10',
  'Digits',
  'Pathfinder',
  'Photographs',
  'Picture',
  'Public',
  'Source',
  'check_split',
  'imagenet64',
]

_SPLITS = ('train', 'valid', 'test')


class Picture(NamedTuple):
  """A picture, uint8 [h, w, c], and its label, if it has one."""

  pixels: UInt8[np.ndarray, 'h w c']
  label: int | None


@runtime_checkable
class Source(Protocol):
  """Where pictures come from.

  Attributes:
    levels: number of values that a pixel may have.
    splits: names of the splits, `train` among them.
  """

  levels: int
  splits: tuple[str, ...]

  def shape(self) -> tuple[int, int, int]:
    """The shape (h, w, c) of every picture; may open a file."""

  def read(self, split: str) -> Sequence[Picture]:
    """Opens a split, with random access.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: there is no such split, or a file is malformed.
    """


def check_split(split: str, known: Sequence[str]) -> None:
  """Raises ValueError unless a split is known."""
  if split not in known:
    raise ValueError(f'split must be one of {[*known]}, got {split=}')


def _rows(
  images: UInt8[np.ndarray, 'n h w c'], labels: Int[np.ndarray, 'n'] | None
) -> Sequence[Picture]:
  return indexed.Lazy(
    len(images),
    lambda i: Picture(
      np.asarray(images[i]), None if labels is None else int(labels[i])
    ),
  )


@dataclasses.dataclass(frozen=True)
class Digits:
  """Handwritten digits of scikit-learn: 1,097 / 200 / 500 pictures."""

  levels = 17
  splits = _SPLITS

  def shape(self) -> tuple[int, int, int]:
    """See `Source`."""
    return (8, 8, 1)

  def read(self, split: str) -> Sequence[Picture]:
    """See `Source`."""
    check_split(split, self.splits)
    found = images_lib.digits()
    part = found.test if split == 'test' else found.train
    kept = {'train': slice(-200), 'valid': slice(-200, None)}
    rows = kept.get(split, slice(None))
    images = np.rint(16 * part.images[rows]).astype(np.uint8)
    return _rows(images[..., None], part.labels[rows])


@dataclasses.dataclass(frozen=True)
class Photographs:
  """Square crops of the two photographs of scikit-learn, 427x640.

  The left 70 % of the columns of each photograph is for training, from where
  crops overlap; the next 15 % each are `valid` and `test`, without overlap.

  Attributes:
    size: side of a crop, at most 96, the width of an evaluation part.
  """

  size: int

  levels = 256
  splits = _SPLITS

  def __post_init__(self) -> None:
    if not 4 <= self.size <= 96:
      raise ValueError(f'size must lie in 4..96, got {self.size=}')

  def shape(self) -> tuple[int, int, int]:
    """See `Source`."""
    return (self.size, self.size, 3)

  def read(self, split: str) -> Sequence[Picture]:
    """See `Source`."""
    check_split(split, self.splits)
    photos = optional.load('sklearn.datasets', extra='rl').load_sample_images()
    part = _SPLITS.index(split)
    low, high = ((0.0, 0.7), (0.7, 0.85), (0.85, 1.0))[part]
    step = self.size // 4 if split == 'train' else self.size
    crops = []
    for photo in photos.images:
      width = photo.shape[1]
      strip = photo[:, round(low * width) : round(high * width)]
      windows = np.lib.stride_tricks.sliding_window_view(strip, self.shape())
      crops.append(windows[::step, ::step].reshape(-1, *self.shape()))
    return _rows(np.concatenate(crops), None)


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Pictures in NumPy files, which are mapped into memory, not read.

  Attributes:
    files: path of the `.npy` file of each split, uint8 [n, h, w, c]; one of
      them is `train`.
    labels: path of the labels of each split, integers [n]; None: there are none.
  """

  files: Mapping[str, str]
  labels: Mapping[str, str] | None = None

  levels = 256

  def __post_init__(self) -> None:
    dataset.check_splits(self.files)
    if self.labels is not None and set(self.labels) != set(self.files):
      raise ValueError(
        'labels must have the splits of files, '
        f'got {[*self.labels]} for {[*self.files]}'
      )

  @property
  def splits(self) -> tuple[str, ...]:
    """See `Source`."""
    return tuple(self.files)

  def shape(self) -> tuple[int, int, int]:
    """See `Source`."""
    return _pictures(self.files['train']).shape[1:]

  def read(self, split: str) -> Sequence[Picture]:
    """See `Source`."""
    check_split(split, self.splits)
    images = _pictures(self.files[split])
    if images.shape[1:] != self.shape():
      raise ValueError(
        f'{self.files[split]}: pictures must be {self.shape()}, as those for '
        f'training, got {images.shape[1:]}'
      )
    if self.labels is None:
      return _rows(images, None)
    labels = _mapped(self.labels[split])
    if labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu':
      raise ValueError(
        f'{self.labels[split]}: labels must be integers [{len(images)}], '
        f'got {labels.dtype} {labels.shape}'
      )
    return _rows(images, labels)


def _mapped(path: str) -> Shaped[np.ndarray, '...']:
  """Maps a `.npy` file into memory."""
  try:
    array = np.load(paths.local(path), mmap_mode='r', allow_pickle=False)
  except (EOFError, ValueError) as error:
    raise ValueError(f'{path}: the file must be .npy: {error}') from error
  if not isinstance(array, np.ndarray):
    raise ValueError(
      f'{path}: the file must be .npy, with one array, got an archive of '
      f'{array.files}'
    )
  return array


def _pictures(path: str) -> UInt8[np.ndarray, 'n h w c']:
  images = _mapped(path)
  if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
    raise ValueError(
      f'{path}: pictures must be uint8 [n, h, w, c], '
      f'got {images.dtype} {images.shape}'
    )
  return images


@dataclasses.dataclass(frozen=True)
class Public:
  """Pictures of a public data set.

  Attributes:
    name: see `runtime.data.public`.
    parts: the split, or slice of one, that each split is; the default is that
      of `downsampled_imagenet` and `imagenet_resized`.
    data_dir: folder of data sets; None: the usual one.
  """

  name: str
  parts: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: {'train': 'train', 'valid': 'validation'}
  )
  data_dir: str | None = None

  levels = 256

  def __post_init__(self) -> None:
    dataset.check_splits(self.parts)

  @property
  def splits(self) -> tuple[str, ...]:
    """See `Source`."""
    return tuple(self.parts)

  def shape(self) -> tuple[int, int, int]:
    """See `Source`; reads the first picture."""
    return self._shape

  @functools.cached_property
  def _shape(self) -> tuple[int, int, int]:
    return _image(self._load('train')[0], self.name).shape

  def read(self, split: str) -> Sequence[Picture]:
    """See `Source`."""
    check_split(split, self.splits)
    found = self._load(split)
    return indexed.Lazy(len(found), lambda i: self._picture(found[i]))

  def _load(self, split: str) -> Sequence[Mapping[str, Any]]:
    [found] = public.load(
      self.name, [self.parts[split]], data_dir=self.data_dir
    )
    return found

  def _picture(self, example: Mapping[str, Any]) -> Picture:
    image, label = _image(example, self.name), example.get('label')
    if image.shape != self._shape:
      raise ValueError(
        f'{self.name}: pictures must be {self._shape}, as the first one for '
        f'training, got {image.shape}'
      )
    return Picture(image, None if label is None else int(label))


def imagenet64(data_dir: str | None = None) -> Public:
  """ImageNet in 64x64, 1,281,149 / 49,999 pictures of arXiv:1601.06759."""
  return Public('downsampled_imagenet/64x64', data_dir=data_dir)


def _image(example: Mapping[str, Any], name: str) -> UInt8[np.ndarray, 'h w c']:
  image = example.get('image')
  if image is None or image.dtype != np.uint8 or image.ndim != 3:
    found = 'none' if image is None else f'{image.dtype} {image.shape}'
    raise ValueError(
      f'{name}: every example needs an image, uint8 [h, w, c], got {found}'
    )
  return image


@dataclasses.dataclass(frozen=True)
class Cifar10:
  """CIFAR-10: 45,000 / 5,000 / 10,000 pictures.

  Attributes:
    folder: `cifar-10-batches-py` of the release.
  """

  folder: str

  levels = 256
  splits = _SPLITS

  def shape(self) -> tuple[int, int, int]:
    """See `Source`."""
    return (32, 32, 3)

  def read(self, split: str) -> Sequence[Picture]:
    """See `Source`."""
    check_split(split, self.splits)
    names = [f'data_batch_{i}' for i in range(1, 6)]
    folder = pathlib.Path(paths.local(self.folder))
    parts = [
      images_lib.cifar_file(folder / name, key='labels')
      for name in (['test_batch'] if split == 'test' else names)
    ]
    images, labels = map(np.concatenate, zip(*parts, strict=True))
    cut = len(images) * 9 // 10
    kept = {'train': slice(cut), 'valid': slice(cut, None)}
    rows = kept.get(split, slice(None))
    return _rows(images[rows], labels[rows])


@dataclasses.dataclass(frozen=True)
class Pathfinder:
  """Whether two dots are joined by a dashed path: 80 % / 10 % / 10 %.

  Empty files, of which the release has some, are left out. The order, and with
  it the splits, is that of a hash of the names.

  Attributes:
    folder: of one difficulty, such as `pathfinder32/curv_contour_length_14`
      (hard), with `metadata/*.npy`, which are texts.
    size: side of the pictures.
  """

  folder: str
  size: int = 32

  levels = 256
  splits = _SPLITS

  def shape(self) -> tuple[int, int, int]:
    """See `Source`."""
    return (self.size, self.size, 1)

  def read(self, split: str) -> Sequence[Picture]:
    """See `Source`."""
    check_split(split, self.splits)
    count = len(self._named)
    first, last = {
      'train': (0, count * 8 // 10),
      'valid': (count * 8 // 10, count * 9 // 10),
      'test': (count * 9 // 10, count),
    }[split]
    return indexed.Lazy(last - first, lambda i: self._picture(first + i))

  @functools.cached_property
  def _named(self) -> list[tuple[str, int]]:
    """File and label of every picture."""
    folder = pathlib.Path(paths.local(self.folder))
    named = []
    for path in sorted(folder.glob('metadata/*.npy')):
      for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if len(words) < 4 or words[3] not in ('0', '1'):
          raise ValueError(
            f'{path}:{number}: a line must be folder, file, number, label (0 '
            f'or 1) and more, got {line!r}'
          )
        picture = folder / words[0] / words[1]
        if picture.is_file() and picture.stat().st_size:
          named.append((f'{words[0]}/{words[1]}', int(words[3])))
    if not named:
      raise FileNotFoundError(f'{folder}: no metadata/*.npy that name pictures')
    return sorted(named, key=lambda x: hashlib.sha256(x[0].encode()).digest())

  def _picture(self, number: int) -> Picture:
    name, label = self._named[number]
    image_lib = optional.load('PIL.Image', extra='data')
    path = pathlib.Path(paths.local(self.folder)) / name
    with image_lib.open(path) as image:
      pixels = np.asarray(image.convert('L'))[..., None]
    if pixels.shape != self.shape():
      raise ValueError(
        f'{path}: pictures must be {self.shape()}, got {pixels.shape}'
      )
    return Picture(pixels, label)
