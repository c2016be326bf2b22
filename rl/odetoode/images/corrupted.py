"""Corrupted pictures to be judged on, and to learn from.

The benchmark's protocol is to learn from clean pictures and to be judged on
each corruption. `Remade` corrupts the clean test set, `Released` reads the
published one; `harmed` makes a data set whose training pictures are corrupted
too, to learn from a corruption and be judged on the same.

Source: arXiv:1906.02337.
"""

import dataclasses
from typing import Protocol, runtime_checkable

from rl import ranges
from rl.odetoode.images import corruptions, data

__all__ = ['Corrupted', 'Released', 'Remade', 'harmed']

_ALL = corruptions.NAMES[1:]
# Not the streams of the test pictures.
_TRAIN_SEED = 1_000_003


@runtime_checkable
class Corrupted(Protocol):
  """Makes test sets by the names of their corruptions."""

  def __call__(self, images: data.Images) -> dict[str, data.ImageSet]:
    """Test sets that belong to a clean data set."""
    ...


def _corrupt(
  image_set: data.ImageSet, name: str, severity: int, seed: int
) -> data.ImageSet:
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

  def __call__(self, images: data.Images) -> dict[str, data.ImageSet]:
    """See `Corrupted`."""
    return {
      name: _corrupt(images.test, name, self.severity, self.seed)
      for name in self.names
    }


@dataclasses.dataclass(frozen=True)
class Released:
  """The published MNIST-C, from a folder or by TensorFlow Datasets.

  Attributes:
    folder: the unpacked release; None: TensorFlow Datasets.
    names: of corruptions.

  Raises:
    ValueError: if there is no such corruption.
  """

  folder: str | None = None
  names: tuple[str, ...] = _ALL

  def __post_init__(self) -> None:
    _check(self.names)

  def __call__(self, images: data.Images) -> dict[str, data.ImageSet]:
    """See `Corrupted`."""
    del images
    if self.folder is None:
      return {name: data.mnist_c_tfds(name).test for name in self.names}
    return {
      name: data.mnist_c_folder(self.folder, name).test for name in self.names
    }


def harmed(
  images: data.Images, name: str, *, severity: int = 3, seed: int = 0
) -> data.Images:
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
