"""Corrupted pictures to evaluate on, and to learn from.

The benchmark's protocol is to learn from clean pictures and to be judged on
each corruption. `Remade` corrupts the clean test set, `Released` reads the
published one; `harmed` makes a data set whose training pictures are corrupted
too, to learn from a corruption and be judged on the same.

Source: arXiv:1906.02337.
"""

import dataclasses
import pathlib
from typing import Protocol, runtime_checkable

import numpy as np

from rl import ranges
from rl.odetoode.images import corruptions
from runtime.data import images as images_lib

__all__ = ['Corrupted', 'Released', 'Remade', 'harmed', 'mnist_c']

_ALL = corruptions.NAMES[1:]
# Not the streams of the test pictures.
_TRAIN_SEED = 1_000_003


@runtime_checkable
class Corrupted(Protocol):
  """Makes test sets by the names of their corruptions."""

  def __call__(
    self, images: images_lib.Images
  ) -> dict[str, images_lib.ImageSet]:
    """Test sets that belong to a clean data set."""
    ...


def _corrupt(
  image_set: images_lib.ImageSet, name: str, severity: int, seed: int
) -> images_lib.ImageSet:
  images = corruptions.corrupt(
    image_set.images, name, seed=seed, severity=severity
  )
  return dataclasses.replace(image_set, images=images)


def _check(names: tuple[str, ...]) -> None:
  unknown = [name for name in names if name not in _ALL]
  if unknown:
    raise ValueError(f'names must be of {_ALL}, got {unknown}')


@dataclasses.dataclass(frozen=True)
class Remade:
  """The clean test set, corrupted by `corruptions`.

  Attributes:
    names: of corruptions.
    severity: 1 to 5.
    seed: of their randomness, the same for every run.

  Raises:
    ValueError: if there is no such corruption or severity, or the seed is
      negative.
  """

  names: tuple[str, ...] = _ALL
  severity: int = 3
  seed: int = 0

  def __post_init__(self) -> None:
    _check(self.names)
    if self.severity not in corruptions.SEVERITIES:
      raise ValueError(
        f'severity must be one of {corruptions.SEVERITIES}, got {self.severity}'
      )
    ranges.check_counts(severity=self.severity)
    ranges.check_counts(least=0, seed=self.seed)

  def __call__(
    self, images: images_lib.Images
  ) -> dict[str, images_lib.ImageSet]:
    """See `Corrupted`."""
    return {
      name: _corrupt(images.test, name, self.severity, self.seed)
      for name in self.names
    }


@dataclasses.dataclass(frozen=True)
class Released:
  """The published MNIST-C, from a folder or as a public data set.

  Attributes:
    folder: the unpacked release; None: the public data set.
    names: of corruptions.

  Raises:
    ValueError: if there is no such corruption.
  """

  folder: str | None = None
  names: tuple[str, ...] = _ALL

  def __post_init__(self) -> None:
    _check(self.names)

  def __call__(
    self, images: images_lib.Images
  ) -> dict[str, images_lib.ImageSet]:
    """See `Corrupted`."""
    del images
    return {name: mnist_c(name, self.folder).test for name in self.names}


def mnist_c(
  corruption: str, folder: str | None = None, *, num_valid: int = 10_000
) -> images_lib.Images:
  """Loads one corruption of MNIST-C.

  Args:
    corruption: one of `corruptions.NAMES`.
    folder: the unpacked release, with a folder for each corruption and in it
      `train_images.npy`, `train_labels.npy` and the same for `test`; None: the
      public data set `mnist_corrupted`.
    num_valid: size of the validation set, the end of the training set.

  Raises:
    FileNotFoundError: a file is missing, or as `runtime.data.public.load`.
    ImportError: as there.
    ValueError: the corruption is unknown, a file malformed or num_valid out of
      range.
  """
  if corruption not in corruptions.NAMES:
    raise ValueError(
      f'corruption must be one of {corruptions.NAMES}, got {corruption!r}'
    )
  if folder is None:
    name = f'mnist_corrupted/{corruption}'
    return images_lib.from_public(name, num_valid=num_valid)
  arrays = []
  for name in ('train_images', 'train_labels', 'test_images', 'test_labels'):
    path = pathlib.Path(folder) / corruption / f'{name}.npy'
    if not path.exists():
      raise FileNotFoundError(
        f'{path}: no such file; folder must be the unpacked MNIST-C release'
      )
    arrays.append(np.load(path, allow_pickle=False))
  return images_lib.from_arrays(*arrays, num_valid)


def harmed(
  images: images_lib.Images, name: str, *, severity: int = 3, seed: int = 0
) -> images_lib.Images:
  """A data set all of whose pictures are corrupted in one way.

  Args:
    images: clean.
    name: of the corruption.
    severity: 1 to 5.
    seed: of the test pictures, as in `Remade`; others have streams of their own.
  """
  other = _TRAIN_SEED + seed
  return dataclasses.replace(
    images,
    train=_corrupt(images.train, name, severity, other),
    test=_corrupt(images.test, name, severity, seed),
    valid=images.valid and _corrupt(images.valid, name, severity, other + 1),
  )
