"""Pictures of digits, and where they come from.

| loader          | pictures                      | needs                       |
| --------------- | ----------------------------- | --------------------------- |
| `digits`        | 1,797 of 8x8                  | scikit-learn (extra `rl`)   |
| `mnist`         | 70,000 of 28x28               | `scripts/prepare_mnist.py`  |
| `mnist_idx`     | the same                      | the four original files     |
| `mnist_tfds`    | the same, in another order    | tensorflow-datasets         |
| `mnist_c_folder`| MNIST-C, one corruption       | the unpacked release        |
| `mnist_c_tfds`  | MNIST-C, one corruption       | tensorflow-datasets         |

`corruptions` makes corruptions of any of them instead of loading them.

Source of MNIST-C: arXiv:1906.02337.
"""

import dataclasses
import gzip
import importlib
import math
import pathlib
import types

import numpy as np
from jaxtyping import Float, Integer, Shaped, UInt8

from rl.odetoode.images import corruptions

__all__ = [
  'ImageSet',
  'Images',
  'digits',
  'mnist',
  'mnist_c_folder',
  'mnist_c_tfds',
  'mnist_idx',
  'mnist_tfds',
]

_CLASSES = 10
_NUM_VALID = 10_000
_IDX_BYTES = 0x08  # The original files' code for unsigned bytes.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
  """Pictures and what they show.

  Attributes:
    images: float32 [n, h, w], in [0, 1].
    labels: int32 [n], from 0.

  Raises:
    ValueError: types, shapes or ranges are others.
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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Images:
  """A data set of pictures.

  Attributes:
    train: to fit parameters.
    test: to be judged on.
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
  datasets = _import('sklearn.datasets', 'scikit-learn; it is in the extra rl')
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
  """Loads what `scripts/prepare_mnist.py` wrote: 50,000 / 10,000 / 10,000.

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
  return _with_valid(*train, *test, num_valid)


def mnist_tfds(
  *, data_dir: str | None = None, num_valid: int = _NUM_VALID
) -> Images:
  """Loads MNIST with TensorFlow Datasets, which downloads it if need be.

  Args:
    data_dir: where data sets lie; None: where the package keeps them.
    num_valid: size of the validation set, the end of the training set. The
      package stores that in an order of its own, so the set is not the one of
      `mnist`.

  Raises:
    ImportError: tensorflow-datasets is not installed.
    ValueError: num_valid is out of range.
  """
  return _from_tfds('mnist', data_dir, num_valid)


def mnist_c_tfds(
  corruption: str,
  *,
  data_dir: str | None = None,
  num_valid: int = _NUM_VALID,
) -> Images:
  """Loads one corruption of MNIST-C with TensorFlow Datasets.

  Args:
    corruption: one of `corruptions.NAMES`.
    data_dir: where data sets lie; None: where the package keeps them.
    num_valid: size of the validation set, the end of the training set, in the
      order of the package.

  Raises:
    ImportError: tensorflow-datasets is not installed.
    ValueError: the corruption is unknown or num_valid out of range.
  """
  _check_corruption(corruption)
  return _from_tfds(f'mnist_corrupted/{corruption}', data_dir, num_valid)


def mnist_c_folder(
  folder: str, corruption: str, *, num_valid: int = _NUM_VALID
) -> Images:
  """Loads one corruption of MNIST-C from the unpacked release.

  Args:
    folder: with one folder per corruption, in it `train_images.npy`,
      `train_labels.npy` and the same for `test`.
    corruption: one of `corruptions.NAMES`.
    num_valid: size of the validation set, the end of the training set.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the corruption is unknown, a file malformed or num_valid out of
      range.
  """
  _check_corruption(corruption)
  arrays = []
  for name in ('train_images', 'train_labels', 'test_images', 'test_labels'):
    path = pathlib.Path(folder) / corruption / f'{name}.npy'
    if not path.exists():
      raise FileNotFoundError(
        f'{path}: no such file; folder must be the unpacked MNIST-C release'
      )
    arrays.append(np.load(path, allow_pickle=False))
  return _with_valid(*arrays, num_valid)


def _import(module: str, package: str) -> types.ModuleType:
  """Imports a module of an optional package."""
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(f'{module} is missing: install {package}') from error


def _check_corruption(name: str) -> None:
  if name not in corruptions.NAMES:
    raise ValueError(
      f'corruption must be one of {corruptions.NAMES}, got {name!r}'
    )


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


def _with_valid(
  train_images: Shaped[np.ndarray, '...'],
  train_labels: Shaped[np.ndarray, '...'],
  test_images: Shaped[np.ndarray, '...'],
  test_labels: Shaped[np.ndarray, '...'],
  num_valid: int,
) -> Images:
  """Splits the end of the training set off; 0: there is no validation set."""
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


def _from_tfds(name: str, data_dir: str | None, num_valid: int) -> Images:
  """Loads the splits `train` and `test` of a data set of pictures."""
  tfds = _import('tensorflow_datasets', 'tensorflow-datasets')
  arrays = []
  for source in tfds.data_source(
    name, split=['train', 'test'], data_dir=data_dir
  ):
    examples = [source[index] for index in range(len(source))]
    arrays.append(np.stack([example['image'] for example in examples]))
    arrays.append(np.array([example['label'] for example in examples]))
  return _with_valid(*arrays, num_valid)


def _read_idx(folder: str, name: str) -> UInt8[np.ndarray, '...']:
  """Reads a file of the original format, an array with a header."""
  plain = pathlib.Path(folder) / name
  packed = plain.with_name(f'{name}.gz')
  if plain.exists():
    data = plain.read_bytes()
  elif packed.exists():
    data = gzip.decompress(packed.read_bytes())
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
