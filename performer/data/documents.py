"""Texts as documents: files, or public data sets.

References: arXiv:1911.05507 (PG-19); arXiv:1312.3005 (the one-billion-word
benchmark).
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from performer.data import dataset
from runtime import paths
from runtime.data import files as files_lib
from runtime.data import public

__all__ = ['Documents', 'Files', 'Public', 'lm1b', 'pg19', 'wiki40b']


@runtime_checkable
class Documents(Protocol):
  """Where documents come from.

  Attributes:
    splits: names of the splits, `train` among them.
  """

  splits: tuple[str, ...]

  def read(self, split: str) -> Iterable[str]:
    """Yields the documents of a split.

    Raises:
      FileNotFoundError: a file is missing.
    """

  def name(self, split: str) -> str:
    """Tells the content of a split from others, for the cache."""


@dataclasses.dataclass(frozen=True)
class Files:
  """Text files, plain or gzip, one document each.

  Attributes:
    files: path of each split, one of them `train`; a folder holds documents in
      `*.txt`, in the order of their names.
  """

  files: Mapping[str, str]

  def __post_init__(self) -> None:
    dataset.check_splits(self.files, fewest=1)

  @property
  def splits(self) -> tuple[str, ...]:
    """See `Documents`."""
    return tuple(self.files)

  def read(self, split: str) -> Iterator[str]:
    """See `Documents`."""
    for path in self._paths(split):
      is_gzip = files_lib.is_gzip(str(path))
      data = files_lib.gunzip(str(path)) if is_gzip else path.read_bytes()
      yield data.decode('utf-8', errors='replace')

  def name(self, split: str) -> str:
    """See `Documents`: paths, sizes and times of the files."""
    stats = [(str(p.absolute()), p.stat()) for p in self._paths(split)]
    return repr([(name, s.st_size, s.st_mtime_ns) for name, s in stats])

  def _paths(self, split: str) -> list[pathlib.Path]:
    path = pathlib.Path(paths.local(self.files[split]))
    found = sorted(path.glob('*.txt')) if path.is_dir() else [path]
    if not found or not found[0].exists():
      raise FileNotFoundError(f'{path}: no such file, nor a folder with *.txt')
    return found


@dataclasses.dataclass(frozen=True)
class Public:
  """The texts of a public data set, such as `pg19`, `lm1b` or `wiki40b/en`.

  Attributes:
    dataset: its name; see `runtime.data.public`.
    feature: of the examples, that holds the text: `book_text` in `pg19`.
    parts: the split of the set that each split is.
    data_dir: folder of data sets; None: the usual one.
  """

  dataset: str
  feature: str = 'text'
  parts: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: {
      'train': 'train',
      'valid': 'validation',
      'test': 'test',
    }
  )
  data_dir: str | None = None

  def __post_init__(self) -> None:
    dataset.check_splits(self.parts, fewest=1)

  @property
  def splits(self) -> tuple[str, ...]:
    """See `Documents`."""
    return tuple(self.parts)

  def read(self, split: str) -> Iterator[str]:
    """See `Documents`."""
    [rows] = public.load(
      self.dataset, [self.parts[split]], data_dir=self.data_dir
    )
    for i in range(len(rows)):
      content = rows[i][self.feature]
      yield (
        content.decode('utf-8', errors='replace')
        if isinstance(content, bytes)
        else content
      )

  def name(self, split: str) -> str:
    """See `Documents`."""
    place = self.data_dir or 'the usual folder'
    return f'{self.dataset}/{self.parts[split]}/{self.feature} of {place}'


def pg19(data_dir: str | None = None) -> Public:
  """Books before 1919 (arXiv:1911.05507)."""
  return Public('pg19', 'book_text', data_dir=data_dir)


def lm1b(data_dir: str | None = None) -> Public:
  """The one-billion-word benchmark; its test set is `valid`."""
  parts = {'train': 'train', 'valid': 'test'}
  return Public('lm1b', parts=parts, data_dir=data_dir)


def wiki40b(language: str = 'en', data_dir: str | None = None) -> Public:
  """Articles of Wikipedia in one language."""
  return Public(f'wiki40b/{language}', data_dir=data_dir)
