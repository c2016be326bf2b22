"""Data sets whose examples have numbers, and the batches that are made of them.

Training examples are numbered 0, 1, 2, ... without end, over all batches and
epochs. `Examples` is a function from numbers to those examples, so a batch
depends on its position alone: a resumed run, any number of reader threads and
any number of processes see the same batches.

Row r of a global batch belongs to process r // (batch_size // process_count).
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from runtime import seeds

__all__ = [
  'Arrays',
  'Examples',
  'Indexed',
  'Lazy',
  'eval_batches',
  'iterator',
  'rows_per_process',
  'shuffled',
  'side_by_side',
  'stacked',
]

# Named arrays: an example, or a batch of them along axis 0.
Arrays = dict[str, np.ndarray]
# Numbers, int64 [n] -> the examples of these numbers, stacked along axis 0.
Examples = Callable[[Int[np.ndarray, 'n']], Arrays]

_PREFETCH = 16  # Batches, times threads: enough to hide a slow disk read.
# Batches that no run reaches; the positions of grain are 64-bit integers.
_ENDLESS = 2**48


class Lazy(Sequence):
  """A sequence whose items are made when they are asked for.

  Args:
    count: number of items.
    item: makes the item of a number, 0..count-1.
  """

  def __init__(self, count: int, item: Callable[[int], Any]) -> None:
    self._count, self._item = count, item

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> Any:
    if not 0 <= index < self._count:
      raise IndexError(f'no item {index} among {self._count}')
    return self._item(index)


class Indexed(abc.ABC):
  """A data set with a training split and any number of evaluation splits.

  A subclass gives the examples. This class makes batches, their positions and
  the shares of processes.

  Attributes:
    num_threads: threads that read training batches ahead; 0 reads in step.
  """

  num_threads: int = 0

  @abc.abstractmethod
  def training_examples(self, seed: int) -> Examples:
    """Returns the endless training examples of a run.

    Args:
      seed: of everything random in them, 0..2**32-1.
    """

  @abc.abstractmethod
  def evaluation_examples(self, split: str) -> tuple[int, Examples]:
    """Returns the number of examples of a split, and the examples.

    Args:
      split: name of the split. Every example has `weights`, and is the same
        each time.

    Raises:
      ValueError: there is no such split.
    """

  def train_iterator(
    self,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> grain.DatasetIterator:
    """Returns an endless iterator over training batches.

    Args:
      batch_size: examples per step over all processes.
      seed: of everything random, 0..2**32-1.
      process_index: process whose rows of the global batches to yield.
      process_count: number of processes.

    Returns:
      See `iterator`.

    Raises:
      FileNotFoundError: a file of the training split is missing.
      ValueError: an argument is out of range, or a file is malformed.
    """
    # Before the first use of a file, which may take long to convert.
    seeds.check(seed)
    rows_per_process(batch_size, process_index, process_count)
    return iterator(
      self.training_examples(seed),
      batch_size=batch_size,
      num_threads=self.num_threads,
      process_index=process_index,
      process_count=process_count,
    )

  def eval_batches(
    self,
    split: str,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Iterator[Arrays]:
    """Yields every example of a split once, always in the same order.

    Args:
      split: name of the split.
      batch_size: examples per step over all processes.
      process_index: process whose rows of the global batches to yield.
      process_count: number of processes.

    Returns:
      See the function `eval_batches`.

    Raises:
      FileNotFoundError: a file of the split is missing.
      ValueError: an argument is out of range, the split is unknown or its file
        malformed.
    """
    rows_per_process(batch_size, process_index, process_count)
    count, examples = self.evaluation_examples(split)
    return eval_batches(
      examples,
      count,
      batch_size=batch_size,
      process_index=process_index,
      process_count=process_count,
    )


def _check_count(count: int) -> None:
  if count < 1:
    raise ValueError(f'a split must have an example, got {count}')


def rows_per_process(
  batch_size: int, process_index: int, process_count: int
) -> int:
  """Returns the number of rows of a global batch that one process holds.

  Raises:
    ValueError: the batch does not divide by the processes, or there is no
      process of that index.
  """
  if not 0 <= process_index < process_count:
    raise ValueError(
      'process_index must lie in 0..process_count-1,'
      f' got {process_index=} {process_count=}'
    )
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      'batch_size must be a positive multiple of process_count,'
      f' got {batch_size=} {process_count=}'
    )
  return batch_size // process_count


def iterator(
  examples: Examples,
  *,
  batch_size: int,
  num_threads: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.DatasetIterator:
  """Returns an endless iterator over the batches of one process.

  Args:
    examples: endless, the same on every process.
    batch_size: examples per step over all processes.
    num_threads: threads that read ahead; 0 reads in step.
    process_index: process whose rows of the global batches to yield.
    process_count: number of processes.

  Returns:
    A grain iterator over dicts with batch_size // process_count rows. Its
    `get_state()` is a small dict that JSON can hold, the same on every process
    and valid for any process count; `set_state()` continues bit for bit.

  Raises:
    ValueError: an argument is out of range.
  """
  rows = rows_per_process(batch_size, process_index, process_count)
  first = np.arange(process_index * rows, (process_index + 1) * rows)
  batches = grain.MapDataset.range(_ENDLESS).map(
    lambda position: examples(first + position * batch_size)
  )
  options = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=_PREFETCH * num_threads
  )
  return iter(batches.to_iter_dataset(options))


def eval_batches(
  examples: Examples,
  count: int,
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Arrays]:
  """Yields examples 0..count-1 once, in order.

  Args:
    examples: with `weights`, [n, ...].
    count: number of examples, at least 1.
    batch_size: examples per step over all processes.
    process_index: process whose rows of the global batches to yield.
    process_count: number of processes.

  Returns:
    An iterator over dicts with batch_size // process_count rows. The last batch
    is filled up with copies of the last example whose `weights` are 0, so all
    processes get the same number of batches.

  Raises:
    ValueError: an argument is out of range.
  """
  rows = rows_per_process(batch_size, process_index, process_count)
  _check_count(count)

  def filled(start: int) -> Arrays:
    numbers = start + np.arange(rows)
    batch = examples(np.minimum(numbers, count - 1))
    if numbers[-1] >= count:
      batch['weights'] = batch['weights'].copy()
      batch['weights'][numbers >= count] = 0
    return batch

  starts = range(process_index * rows, count + process_index * rows, batch_size)
  return map(filled, starts)


def stacked(example: Callable[[int], Arrays]) -> Examples:
  """Makes examples of a function that makes one from its number."""

  def examples(numbers: Int[np.ndarray, 'n']) -> Arrays:
    found = [example(number) for number in numbers.tolist()]
    return {name: np.stack([x[name] for x in found]) for name in found[0]}

  return examples


def side_by_side(sources: Sequence[Examples]) -> Examples:
  """Stacks the examples of several sources along axis 1, a model for each.

  Raises:
    ValueError: there is no source.
  """
  if not sources:
    raise ValueError('there must be a source of examples, got none')

  def examples(numbers: Int[np.ndarray, 'n']) -> Arrays:
    found = [source(numbers) for source in sources]
    return {name: np.stack([x[name] for x in found], 1) for name in found[0]}

  return examples


def shuffled(count: int, seed: int) -> Callable[[int], int]:
  """Returns the row of each number, where every epoch has its own order.

  Args:
    count: rows of an epoch; their order takes no memory.
    seed: of the orders, 0..2**32-1.

  Raises:
    ValueError: there is no row.
  """
  _check_count(count)
  order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
  return order.__getitem__
