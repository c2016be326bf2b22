"""Pictures as sequences: to predict pixel by pixel, and to classify.

A picture is read row by row, the channels of a pixel one after another, so that
one of ImageNet64 is a sequence of 64 x 64 x 3 = 12,288 bytes.

References: arXiv:2009.14794, section 4.5 (ImageNet64); arXiv:2011.04006,
sections 2.2.4 and 2.2.5 (CIFAR-10, Pathfinder).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from performer.data import baseline, dataset, labelled, pictures
from runtime.data import indexed

__all__ = ['LabelledPixels', 'Pixels']

_TRAIN = 'train'
_COUNTED = 2000  # Pictures that the baseline counts.
# Red, green and blue of a grey value, as in Recommendation BT.601.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pixels(dataset.DataSet):
  """Pixels to predict, each from those before it.

  Batches are dicts of numpy arrays, `tokens` and `targets` int32 [b, l],
  `weights` float32 [b, l] and `mask` bool [b, l], where l = h w c. Token i is
  target i - 1, and token 0 is 0: every pixel is a target. The loss in bits is
  that per dimension.

  Attributes:
    source: see `pictures`.
    num_threads: reader threads of the training iterator; 0 reads in step.

  Raises:
    ValueError: `num_threads` is negative.
  """

  source: pictures.Source
  num_threads: int = 2

  def __post_init__(self) -> None:
    if self.num_threads < 0:
      raise ValueError(f'num_threads must be >= 0, got {self.num_threads=}')

  @property
  def task(self) -> str:
    """The kind of model that the targets are for."""
    return 'causal'

  @property
  def unit(self) -> str:
    """The unit of reported losses: bits per dimension."""
    return 'bits'

  @property
  def max_length(self) -> int:
    """Numbers of a picture, h w c."""
    return math.prod(self.source.shape())

  @property
  def vocab_size(self) -> int:
    """Number of values that a pixel may have."""
    return self.source.levels

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""
    return tuple(name for name in self.source.splits if name != _TRAIN)

  def num_examples(self, split: str) -> int:
    """Returns the number of pictures of a split."""
    return len(self._rows(split))

  def training_examples(self, seed: int) -> indexed.Examples:
    """See `Indexed`: every epoch has an order of its own."""
    rows = self._rows(_TRAIN)
    row = indexed.shuffled(len(rows), seed)
    return indexed.stacked(lambda i: _example(rows[row(i)]))

  def evaluation_examples(self, split: str) -> tuple[int, indexed.Examples]:
    """See `Indexed`: the pictures of a split in order."""
    rows = self._rows(split)
    return len(rows), indexed.stacked(lambda i: _example(rows[i]))

  def baselines(self) -> dict[str, baseline.Unigram]:
    """Returns the frequencies of values in some of the training pictures."""
    rows = self._rows(_TRAIN)
    counts = np.zeros(self.vocab_size, np.int64)
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _COUNTED))
    for i in chosen.astype(int).tolist():
      values = rows[i].pixels.ravel()
      counts += np.bincount(values, minlength=self.vocab_size)
    return {'empirical baseline': baseline.unigram(counts)}

  @functools.cached_property
  def _opened(self) -> dict[str, Sequence[pictures.Picture]]:
    return {}  # Filled by `_rows`.

  def _rows(self, split: str) -> Sequence[pictures.Picture]:
    if split not in self._opened:
      self._opened[split] = self.source.read(split)
    return self._opened[split]


def _example(picture: pictures.Picture) -> indexed.Arrays:
  targets = picture.pixels.ravel().astype(np.int32)
  return {
    'tokens': np.concatenate([np.zeros(1, np.int32), targets[:-1]]),
    'targets': targets,
    'weights': np.ones(targets.shape, np.float32),
    'mask': np.ones(targets.shape, np.bool_),
  }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LabelledPixels(labelled.Labelled):
  """Pictures to classify, as sequences of grey values.

  Attributes:
    source: of pictures with labels; see `pictures`.
    num_classes: number of labels.
    num_threads: reader threads of the training iterator; 0 reads in step.

  Raises:
    ValueError: a number is out of range.
  """

  source: pictures.Source
  num_classes: int
  num_threads: int = 2

  def __post_init__(self) -> None:
    if self.num_classes < 2:
      raise ValueError(
        f'num_classes must be at least 2, got {self.num_classes=}'
      )
    if self.num_threads < 0:
      raise ValueError(f'num_threads must be >= 0, got {self.num_threads=}')

  @property
  def max_length(self) -> int:
    """Pixels of a picture, and the symbol in front."""
    return 1 + math.prod(self.source.shape()[:2])

  @property
  def vocab_size(self) -> int:
    """Number of token ids."""
    return labelled.SPECIAL + self.source.levels

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""
    return tuple(name for name in self.source.splits if name != _TRAIN)

  def rows(self, split: str) -> Sequence[labelled.Row]:
    """See `Labelled`."""
    if split not in self._opened:
      self._opened[split] = self.source.read(split)
    found = self._opened[split]

    def row(index: int) -> labelled.Row:
      pixels, label = found[index]
      if label is None:
        raise ValueError(
          f'every picture needs a label, got None for number {index} of {split}'
        )
      return labelled.SPECIAL + _grey(pixels), label

    row(0)  # A source without labels fails here, before the first step.
    return indexed.Lazy(len(found), row)

  @functools.cached_property
  def _opened(self) -> dict[str, Sequence[pictures.Picture]]:
    return {}  # Filled by `rows`.


def _grey(pixels: UInt8[np.ndarray, 'h w c']) -> Int[np.ndarray, 'n']:
  """Grey values, row by row; equal channels keep their value."""
  if pixels.shape[-1] == 1:
    return pixels.ravel().astype(np.int32)
  grey: Float[np.ndarray, 'h w'] = pixels @ _LUMA
  return np.rint(grey).ravel().astype(np.int32)
