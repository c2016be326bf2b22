"""Studies as training data: batches that are functions of their position.

A data set gives studies by number; this module writes and augments them. The
draws of an example depend on the seed of the run and on its number alone, so a
resumed run sees the same batches.
"""

import abc
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hpo import studies
from hpo.optformer import tokens
from runtime.data import indexed, records

__all__ = ['StudyData', 'StudyFiles', 'open_studies']


@dataclasses.dataclass(frozen=True)
class StudyData(indexed.Indexed):
  """A data set of studies.

  Attributes:
    tokenizer: writes studies.
    augmentation: of training studies. Those of evaluation keep their order and
      have the range of inference.
    num_threads: that make training batches ahead; 0: in step.
  """

  tokenizer: tokens.Tokenizer
  augmentation: tokens.Augmentation = tokens.Augmentation()
  num_threads: int = 0

  @property
  @abc.abstractmethod
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""

  @property
  def num_studies(self) -> int | None:
    """Training studies; None if there is no end of them."""
    return None

  @property
  def longest_list(self) -> int | None:
    """Values of the longest list of numbers; None if that is not known."""
    return None

  @abc.abstractmethod
  def training_study(self, seed: int) -> Callable[[int], studies.Study]:
    """The training studies of a run, by number, without end.

    Args:
      seed: of the run.
    """

  @abc.abstractmethod
  def evaluation_studies(self, split: str) -> Sequence[studies.Study]:
    """The studies of a split.

    Raises:
      ValueError: there is no such split.
    """

  def training_examples(self, seed: int) -> indexed.Examples:
    """See `indexed.Indexed`."""
    study = self.training_study(seed)

    def example(number: int) -> indexed.Arrays:
      rng = np.random.default_rng((seed, number))
      return self.tokenizer.example(study(number), rng, self.augmentation)

    return indexed.stacked(example)

  def evaluation_examples(self, split: str) -> tuple[int, indexed.Examples]:
    """See `indexed.Indexed`."""
    found = self.evaluation_studies(split)
    plain = dataclasses.replace(
      tokens.NO_AUGMENTATION, minimal=self.augmentation.minimal
    )

    def example(number: int) -> indexed.Arrays:
      rng = np.random.default_rng(number)
      return self.tokenizer.example(found[number], rng, plain)

    return len(found), indexed.stacked(example)


@dataclasses.dataclass(frozen=True)
class StudyFiles(StudyData):
  """Studies in files: lines of JSON (`.jsonl`), or `.array_record`.

  All studies of a file are used. `importing` leaves out those that nothing can be
  learnt from.

  Attributes:
    train: file of training studies; each epoch has its own order.
    evaluation: file of each other split, by its name.
  """

  train: str = dataclasses.field(kw_only=True)
  evaluation: Mapping[str, str] = dataclasses.field(
    kw_only=True, default_factory=dict
  )

  @property
  def splits(self) -> tuple[str, ...]:
    """See `StudyData`."""
    return tuple(self.evaluation)

  @property
  def num_studies(self) -> int:
    """See `StudyData`."""
    return len(open_studies(self.train))

  def training_study(self, seed: int) -> Callable[[int], studies.Study]:
    """See `StudyData`."""
    found = open_studies(self.train)
    row = indexed.shuffled(len(found), seed)
    return lambda number: found[row(number)]

  def evaluation_studies(self, split: str) -> Sequence[studies.Study]:
    """See `StudyData`."""
    if split not in self.evaluation:
      raise ValueError(f'split must be one of {self.splits}, got {split!r}')
    return open_studies(self.evaluation[split])


class _Decoded(Sequence):
  """Studies of an ArrayRecord file."""

  def __init__(self, path: str) -> None:
    self._records = records.Records(path)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> studies.Study:
    try:
      return studies.Study.from_bytes(self._records[index])
    except ValueError as error:
      raise ValueError(f'{self._records.path}: record {index}: {error}') from (
        error
      )


def open_studies(path: str) -> Sequence:
  """Opens a file of studies, with random access.

  Args:
    path: ends in `.array_record` (records of `Study.to_bytes`) or `.jsonl`
      (`studies.write`; all of it is held in memory).

  Returns:
    The studies; one that is malformed raises ValueError when it is read.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file has another suffix, is empty or malformed.
  """
  if not path.endswith((records.SUFFIX, '.jsonl')):
    raise ValueError(
      f'a file of studies must end in {records.SUFFIX} or .jsonl, got {path}'
    )
  found = os.stat(path)
  return _opened(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache
def _opened(path: str, *version: int) -> Sequence:
  """Also told of the file's version, so that a new one is read anew."""
  del version
  if path.endswith(records.SUFFIX):
    return _Decoded(path)
  found = tuple(studies.read(path))
  if not found:
    raise ValueError(f'{path}: the file must hold a study, but is empty')
  return found
