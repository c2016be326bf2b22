"""From examples by index to the batches of one process.

Row r of a global batch belongs to process r // (batch_size // process_count).
"""

from collections.abc import Callable, Iterator

import grain
import numpy as np

from performer.data import examples

__all__ = ['check_seed', 'eval_batches', 'rows_per_process', 'train_iterator']

_PREFETCH = 16  # Batches, times threads: enough to hide a slow disk read.


def check_seed(seed: int) -> None:
  """Raises ValueError unless a seed is one that every random stream takes."""
  if not 0 <= seed < 2**32:
    raise ValueError(f'seed must lie in 0..2**32-1, got {seed=}')


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


def train_iterator(
  dataset: grain.MapDataset,
  *,
  batch_size: int,
  num_threads: int,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.DatasetIterator:
  """Returns an iterator over the batches of one process.

  Args:
    dataset: endless examples, the same on every process.
    batch_size: examples per step over all processes.
    num_threads: reader threads; 0 reads in step.
    process_index: which rows of the global batch to yield.
    process_count: number of processes.

  Returns:
    A grain iterator; `get_state()` is a small dict that JSON can hold, the same
    on every process.

  Raises:
    ValueError: an argument is out of range.
  """
  rows = rows_per_process(batch_size, process_index, process_count)
  # Nothing remains of an endless data set; without the flag the length of
  # batches of one row overflows.
  batches = dataset.batch(rows, drop_remainder=True)
  options = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=_PREFETCH * num_threads
  )
  shard = batches[process_index::process_count]
  return iter(shard.to_iter_dataset(options))


def eval_batches(
  example: Callable[[int], examples.Example],
  count: int,
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[examples.Example]:
  """Yields examples 0..count-1 once, in order.

  The last batch is filled up with copies of the last example whose `weights`
  are 0; all processes get the same number of batches.

  Args:
    example: makes the example of an index.
    count: number of examples, at least 1.
    batch_size: examples per step over all processes.
    process_index: which rows of the global batch to yield.
    process_count: number of processes.

  Returns:
    An iterator over dicts with batch_size // process_count rows.

  Raises:
    ValueError: an argument is out of range.
  """
  rows = rows_per_process(batch_size, process_index, process_count)
  return (
    _filled(example, count, start + process_index * rows, rows)
    for start in range(0, count, batch_size)
  )


def _filled(
  example: Callable[[int], examples.Example], count: int, start: int, rows: int
) -> examples.Example:
  """Stacks examples start..start+rows-1; those past the end weigh 0."""
  batch = []
  for index in range(start, start + rows):
    row = example(min(index, count - 1))
    if index >= count:
      row = {**row, 'weights': np.zeros_like(row['weights'])}
    batch.append(row)
  return {name: np.stack([row[name] for row in batch]) for name in batch[0]}
