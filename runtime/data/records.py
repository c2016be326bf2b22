"""ArrayRecord files: bytes with random access."""

import os
from collections.abc import Iterable, Sequence

from array_record.python import array_record_module

__all__ = ['SUFFIX', 'Records', 'write']

SUFFIX = '.array_record'
# Every record is its own chunk: shuffled reads would otherwise decode a whole
# group for one record.
_WRITER_OPTIONS = 'group_size:1,uncompressed'
_READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'  # Random access.


class Records(Sequence):
  """The records of a file.

  Args:
    path: of the file.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file cannot be read or holds no record.
  """

  def __init__(self, path: str) -> None:
    if not os.path.isfile(path):
      raise FileNotFoundError(f'{path}: no such ArrayRecord file')
    self._reader = array_record_module.ArrayRecordReader(path, _READER_OPTIONS)
    if not self._reader.ok():
      raise ValueError(f'{path}: the file must be a complete ArrayRecord file')
    self._size = self._reader.num_records()
    if self._size == 0:
      raise ValueError(f'{path}: the file must hold a record, but is empty')
    self.path = path

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> bytes:
    if not 0 <= index < self._size:
      raise IndexError(f'{self.path}: no record {index} among {self._size}')
    # A range of one: the read by list of indices, which grain's own data source
    # uses, costs time in the number of records of the file (3 ms at 400,000).
    [record] = self._reader.read(index, index + 1)
    return record


def write(path: str, records: Iterable[bytes]) -> int:
  """Writes records to a file and returns their number."""
  writer = array_record_module.ArrayRecordWriter(path, _WRITER_OPTIONS)
  count = 0
  try:
    for record in records:
      writer.write(record)
      count += 1
  finally:
    writer.close()
  return count
