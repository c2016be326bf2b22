"""Texts to classify, read byte by byte.

The sample is a task that needs order and no outside knowledge: passages of
Shakespeare, of which half have their words in random order. Both classes have
the same words, so that frequencies of bytes tell nothing.

Reference: arXiv:2011.04006, section 2.2.2 (reviews of films, 1,000 bytes).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from performer.data import dataset, labelled, text
from runtime import paths
from runtime.data import files as files_lib
from runtime.data import indexed, public

__all__ = ['Folders', 'LabelledText', 'Public', 'ShuffledWords', 'Source']

_TRAIN = 'train'
_STREAM = {name: i for i, name in enumerate(text.SAMPLE_SPLITS)}


@runtime_checkable
class Source(Protocol):
  """Where texts come from.

  Attributes:
    num_classes: number of labels.
    splits: names of the splits, `train` among them.
  """

  num_classes: int
  splits: tuple[str, ...]

  def read(self, split: str) -> Sequence[tuple[bytes, int]]:
    """Opens the texts and labels of a split.

    Raises:
      FileNotFoundError: a file is missing.
    """


@dataclasses.dataclass(frozen=True)
class ShuffledWords:
  """Passages of Shakespeare, every second one with its words in random order.

  Attributes:
    words: of a passage; a word is what stands between spaces and line breaks,
      which become single spaces.
  """

  words: int = 16

  num_classes = 2
  splits = text.SAMPLE_SPLITS

  def __post_init__(self) -> None:
    if self.words < 4:
      raise ValueError(f'words must be at least 4, got {self.words=}')

  def read(self, split: str) -> Sequence[tuple[bytes, int]]:
    """See `Source`."""
    words = files_lib.gunzip(text.sample_file(split)).split()

    def row(index: int) -> tuple[bytes, int]:
      passage = words[index * self.words : (index + 1) * self.words]
      label = index % 2
      if label:
        rng = np.random.default_rng((_STREAM[split], index))
        passage = [passage[i] for i in rng.permutation(self.words)]
      return b' '.join(passage), label

    return indexed.Lazy(len(words) // self.words, row)


@dataclasses.dataclass(frozen=True)
class Folders:
  """Texts in files, such as the release of the IMDb reviews.

  Attributes:
    folder: holds the split folders, and these a folder for each class, with
      `*.txt`.
    classes: names of the class folders, in the order of the labels.
    parts: folder of each split; the reviews have no `valid` of their own, and
      published results take the test set for both.
  """

  folder: str
  classes: tuple[str, ...] = ('neg', 'pos')
  parts: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: {'train': 'train', 'valid': 'test'}
  )

  def __post_init__(self) -> None:
    dataset.check_splits(self.parts)
    if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
      raise ValueError(
        f'classes must be two or more different names, got {self.classes=}'
      )

  @property
  def num_classes(self) -> int:
    """See `Source`."""
    return len(self.classes)

  @property
  def splits(self) -> tuple[str, ...]:
    """See `Source`."""
    return tuple(self.parts)

  def read(self, split: str) -> Sequence[tuple[bytes, int]]:
    """See `Source`."""
    root = pathlib.Path(paths.local(self.folder)) / self.parts[split]
    found: list[tuple[pathlib.Path, int]] = []
    for label, name in enumerate(self.classes):
      texts = sorted((root / name).glob('*.txt'))
      if not texts:
        raise FileNotFoundError(f'{root / name}: no such folder with *.txt')
      found += [(path, label) for path in texts]
    return indexed.Lazy(
      len(found), lambda i: (found[i][0].read_bytes(), found[i][1])
    )


@dataclasses.dataclass(frozen=True)
class Public:
  """Texts of a public data set.

  Attributes:
    name: see `runtime.data.public`; examples have `text` and `label`.
    num_classes: number of labels.
    parts: the split, or slice of one, that each split is; see `Folders`.
    data_dir: folder of data sets; None: the usual one.
  """

  name: str = 'imdb_reviews'
  num_classes: int = 2
  parts: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: {'train': 'train', 'valid': 'test'}
  )
  data_dir: str | None = None

  def __post_init__(self) -> None:
    dataset.check_splits(self.parts)

  @property
  def splits(self) -> tuple[str, ...]:
    """See `Source`."""
    return tuple(self.parts)

  def read(self, split: str) -> Sequence[tuple[bytes, int]]:
    """See `Source`."""
    [rows] = public.load(self.name, [self.parts[split]], data_dir=self.data_dir)

    def row(index: int) -> tuple[bytes, int]:
      example = rows[index]
      return example['text'], int(example['label'])

    return indexed.Lazy(len(rows), row)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LabelledText(labelled.Labelled):
  """Texts to classify; tokens are bytes.

  Attributes:
    source: of the texts.
    length: bytes of a text that are read, its first ones.
    num_threads: reader threads of the training iterator; 0 reads in step.

  Raises:
    ValueError: a number is out of range.
  """

  source: Source
  length: int
  num_threads: int = 2

  def __post_init__(self) -> None:
    if self.length < 1:
      raise ValueError(f'length must be at least 1, got {self.length=}')
    if self.num_threads < 0:
      raise ValueError(f'num_threads must be >= 0, got {self.num_threads=}')

  @property
  def num_classes(self) -> int:
    """Number of labels."""
    return self.source.num_classes

  @property
  def max_length(self) -> int:
    """Bytes that are read, and the symbol in front."""
    return 1 + self.length

  @property
  def vocab_size(self) -> int:
    """Number of token ids."""
    return labelled.SPECIAL + 256

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""
    return tuple(name for name in self.source.splits if name != _TRAIN)

  def rows(self, split: str) -> Sequence[labelled.Row]:
    """See `Labelled`."""
    if split not in self.source.splits:
      known = [*self.source.splits]
      raise ValueError(f'split must be one of {known}, got {split=}')
    if split not in self._opened:
      self._opened[split] = self.source.read(split)
    texts = self._opened[split]

    def row(index: int) -> labelled.Row:
      content, label = texts[index]
      ids = np.frombuffer(content[: self.length], np.uint8)
      return labelled.SPECIAL + ids.astype(np.int32), label

    return indexed.Lazy(len(texts), row)

  @functools.cached_property
  def _opened(self) -> dict[str, Sequence[tuple[bytes, int]]]:
    return {}  # Filled by `rows`.
