"""Pictures of digits, and where they come from.

| loader       | pictures                   | needs                             |
| ------------ | -------------------------- | --------------------------------- |
| `digits`     | 1,797 of 8x8               | scikit-learn (extra `rl` or `hpo`) |
| `mnist`      | 70,000 of 28x28            | `scripts/prepare_mnist.py`        |
| `mnist_idx`  | the same                   | the four original files           |
| `from_public`| a public set in this form  | see `public`                      |
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer, Shaped, UInt8

from runtime import optional
from runtime.data import files, indexed, pickles, public

__all__ = [
  'ImageSet',
  'Images',
  'cifar_file',
  'digits',
  'from_arrays',
  'from_public',
  'labelled',
  'mnist',
  'mnist_idx',
]

_CLASSES = 10
_NUM_VALID = 10_000
_IDX_BYTES = 0x08  # The original files' code for unsigned bytes.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
  """Pictures and their labels.

  Attributes:
    images: float32 [n, h, w], in [0, 1].
    labels: int32 [n], from 0.

  Raises:
    ValueError: types, shapes or ranges are wrong.
  """

  images: Float[np.ndarray, 'n h w']
  labels: Integer[np.ndarray, 'n']

  def __post_init__(self) -> None:
    images, labels = self.images, self.labels
    if images.dtype != np.float32 or labels.dtype != np.int32:
      raise ValueError(
        'images must be float32 and labels int32,'
        f' got {images.dtype} and {labels.dtype}'
      )
    if images.ndim != 3 or labels.shape != images.shape[:1] or not labels.size:
      raise ValueError(
        'images must be [n, h, w] and labels [n] with n >= 1,'
        f' got {images.shape} and {labels.shape}'
      )
    if not (images.min() >= 0 and images.max() <= 1 and labels.min() >= 0):
      raise ValueError(
        'images must lie in [0, 1] and labels not below 0, got images from'
        f' {images.min()} to {images.max()}, labels from {labels.min()}'
      )

  def __len__(self) -> int:
    return len(self.labels)

  def training_examples(self, seed: int) -> indexed.Examples:
    """Pictures without end, every epoch in an order of its own.

    Args:
      seed: of the orders, not negative.

    Returns:
      From numbers to `images` float32 [n, h, w] and `labels` int32 [n].
    """
    rows = _epochs(len(self), seed)
    return lambda numbers: self._rows(rows(numbers))

  def examples(self, numbers: Int[np.ndarray, 'n']) -> indexed.Arrays:
    """Pictures by number, `images` and `labels`, with `weights` float32 [n]."""
    return self._rows(numbers) | {'weights': np.ones(len(numbers), np.float32)}

  def _rows(self, rows: Int[np.ndarray, 'n']) -> indexed.Arrays:
    return {'images': self.images[rows], 'labels': self.labels[rows]}


def _epochs(
  count: int, seed: int
) -> Callable[[Int[np.ndarray, 'n']], Int[np.ndarray, 'n']]:
  """From numbers to rows; recorded results were made with these orders."""

  @functools.lru_cache(maxsize=2)  # A batch may see one epoch end, one begin.
  def order(epoch: int) -> Int[np.ndarray, 'n']:
    return np.random.default_rng([seed, epoch]).permutation(count)

  def rows(numbers: Int[np.ndarray, 'n']) -> Int[np.ndarray, 'n']:
    epochs, places = np.divmod(numbers, count)
    return np.concatenate(
      [order(e)[places[epochs == e]] for e in range(epochs[0], epochs[-1] + 1)]
    )

  return rows


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Images:
  """A data set of pictures.

  Attributes:
    train: to fit parameters.
    test: to evaluate on.
    num_classes: number of labels.
    valid: to choose hyperparameters by; None: there is no such set.

  Raises:
    ValueError: pictures differ in shape or a label is too large.
  """

  train: ImageSet
  test: ImageSet
  num_classes: int
  valid: ImageSet | None = None

  def __post_init__(self) -> None:
    sets = [part for part in (self.train, self.valid, self.test) if part]
    shapes = [part.images.shape[1:] for part in sets]
    if len(set(shapes)) > 1:
      raise ValueError(f'all pictures must have one shape, got {shapes}')
    largest = max(int(part.labels.max()) for part in sets)
    if largest >= self.num_classes:
      raise ValueError(
        'labels must be below num_classes,'
        f' got {largest} and {self.num_classes=}'
      )


def digits(*, num_test: int = 500, seed: int = 0) -> Images:
  """Loads the 1,797 handwritten digits of scikit-learn, 8x8.

  Args:
    num_test: size of the test set, the rest is for training.
    seed: of the order in which pictures are dealt to the two sets.

  Raises:
    ImportError: scikit-learn is not installed.
    ValueError: num_test leaves one of the sets empty.
  """
  datasets = optional.load('sklearn.datasets', extra='rl')
  content = datasets.load_digits()
  count = len(content.target)
  if not 0 < num_test < count:
    raise ValueError(f'num_test must lie in 1..{count - 1}, got {num_test=}')
  order = np.random.default_rng(seed).permutation(count)
  images, labels = content.images[order] / 16, content.target[order]
  split = count - num_test
  return Images(
    train=_image_set(images[:split], labels[:split]),
    test=_image_set(images[split:], labels[split:]),
    num_classes=_CLASSES,
  )


def mnist(folder: str) -> Images:
  """Loads the MNIST of `scripts/prepare_mnist.py`: 50,000 / 10,000 / 10,000.

  Args:
    folder: the script's `--output`.

  Raises:
    FileNotFoundError: the script has not been run.
  """
  path = pathlib.Path(folder) / 'mnist.npz'
  if not path.exists():
    raise FileNotFoundError(
      f'{path}: no such file; make it by'
      f' python scripts/prepare_mnist.py --output={folder}'
    )
  with np.load(path, allow_pickle=False) as arrays:
    train, valid, test = (
      _bytes_set(arrays[f'{split}_images'], arrays[f'{split}_labels'])
      for split in ('train', 'valid', 'test')
    )
  return Images(train=train, valid=valid, test=test, num_classes=_CLASSES)


def mnist_idx(folder: str, *, num_valid: int = _NUM_VALID) -> Images:
  """Loads MNIST, or a set in its format, from the original four files.

  Args:
    folder: with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the
      same for `t10k`, each plain or with the ending `.gz`.
    num_valid: size of the validation set, the end of the training files. By
      default the three sets are those of `mnist`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is malformed, or num_valid out of range.
  """
  train, test = (
    (
      _read_idx(folder, f'{name}-images-idx3-ubyte'),
      _read_idx(folder, f'{name}-labels-idx1-ubyte'),
    )
    for name in ('train', 't10k')
  )
  return from_arrays(*train, *test, num_valid)


def from_public(
  name: str, *, data_dir: str | None = None, num_valid: int = _NUM_VALID
) -> Images:
  """Loads a public data set of pictures of ten classes, such as `mnist`.

  Args:
    name: see `public.load`.
    data_dir: folder of data sets; None: see `public.load`.
    num_valid: size of the validation set, the end of the training set. The
      public sets have an order of their own, so this set is not the one of
      `mnist`.

  Raises:
    ImportError: the extra `data` is not installed.
    ValueError: num_valid is out of range, or as `public.load`.
    FileNotFoundError: as `public.load`.
  """
  train, test = (
    labelled(part)
    for part in public.load(name, ('train', 'test'), data_dir=data_dir)
  )
  return from_arrays(*train, *test, num_valid)


def labelled(
  examples: Sequence[Mapping[str, Any]],
) -> tuple[UInt8[np.ndarray, 'n h w c'], Integer[np.ndarray, 'n']]:
  """Reads all `image`s and `label`s of a split of `public.load`."""
  read = [(example['image'], example['label']) for example in examples]
  images, labels = zip(*read, strict=True)
  return np.stack(images), np.array(labels, np.int32)


def cifar_file(
  path: pathlib.Path, *, key: str
) -> tuple[UInt8[np.ndarray, 'n 32 32 3'], Int[np.ndarray, 'n']]:
  """Reads pictures and labels of a file of CIFAR's python release.

  Args:
    path: a pickle of bytes and numbers.
    key: of the labels: `labels` in CIFAR-10, `fine_labels` in CIFAR-100.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the pickle asks for more than arrays.
  """
  if not path.exists():
    raise FileNotFoundError(f'{path}: no such file of CIFAR')
  content = pickles.load_arrays(path.read_bytes(), encoding='bytes')
  flat = np.asarray(content[b'data'], np.uint8)
  images = flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  return images, np.asarray(content[key.encode()], np.int32)


def _image_set(
  images: Shaped[np.ndarray, '...'], labels: Shaped[np.ndarray, '...']
) -> ImageSet:
  return ImageSet(
    images=images.astype(np.float32), labels=labels.astype(np.int32)
  )


def _bytes_set(
  images: Shaped[np.ndarray, '...'], labels: Shaped[np.ndarray, '...']
) -> ImageSet:
  """Makes a set of pictures in bytes, with or without a last axis of 1."""
  flat = images.ndim == 3 or images.shape[3:] == (1,)
  if images.dtype != np.uint8 or not flat:
    raise ValueError(
      'stored images must be uint8 [n, h, w] or [n, h, w, 1],'
      f' got {images.dtype} {images.shape}'
    )
  pixels = images.reshape(images.shape[:3])
  return _image_set(pixels / np.float32(255), labels)


def from_arrays(
  train_images: Shaped[np.ndarray, '...'],
  train_labels: Shaped[np.ndarray, '...'],
  test_images: Shaped[np.ndarray, '...'],
  test_labels: Shaped[np.ndarray, '...'],
  num_valid: int,
) -> Images:
  """Makes a data set of pictures in bytes.

  Args:
    train_images: uint8 [n, h, w] or [n, h, w, 1].
    train_labels: [n], below 10.
    test_images: like train_images.
    test_labels: like train_labels.
    num_valid: size of the validation set, the end of the training pictures; 0:
      there is none.

  Raises:
    ValueError: num_valid is out of range, or arrays have other types or shapes.
  """
  count = len(train_labels)
  if not 0 <= num_valid < count:
    raise ValueError(f'num_valid must lie in 0..{count - 1}, got {num_valid=}')
  train = _bytes_set(train_images, train_labels)
  split, valid = count - num_valid, None
  if num_valid:
    valid = ImageSet(images=train.images[split:], labels=train.labels[split:])
  return Images(
    train=ImageSet(images=train.images[:split], labels=train.labels[:split]),
    valid=valid,
    test=_bytes_set(test_images, test_labels),
    num_classes=_CLASSES,
  )


def _read_idx(folder: str, name: str) -> UInt8[np.ndarray, '...']:
  """Reads a file of the original format, an array with a header."""
  plain = pathlib.Path(folder) / name
  packed = plain.with_name(f'{name}.gz')
  if plain.exists():
    data = plain.read_bytes()
  elif packed.exists():
    data = files.gunzip(str(packed))
  else:
    raise FileNotFoundError(f'{plain}: no such file, nor one ending in .gz')
  # Two zeros, the type, the number of axes; then their sizes, big-endian.
  if len(data) < 4 or data[:2] != b'\0\0' or data[2] != _IDX_BYTES:
    raise ValueError(f'{plain}: idx must begin 00 00 08, got {data[:3].hex()}')
  end = 4 * (1 + data[3])
  shape = [
    int.from_bytes(data[start : start + 4], 'big') for start in range(4, end, 4)
  ]
  if len(data) != end + math.prod(shape):
    raise ValueError(
      f'{plain}: size must be {end + math.prod(shape)} bytes for {shape=},'
      f' got {len(data)}'
    )
  return np.frombuffer(data, np.uint8, offset=end).reshape(shape)
