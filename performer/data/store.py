"""Encoded proteins with random access, read from FASTA in one streaming pass.

A FASTA file has no index, so the first use of one writes an ArrayRecord file
into a cache directory: one record per example, one byte (the id) per token. An
example is a whole sequence, or, for concatenated training, a window of the
stream of all sequences with an end symbol after each. Later uses, and other
processes, find the copy by the path, size and modification time of the source.
Neither pass holds more than one sequence in memory.

A path that ends in `.array_record` holds such records of whole sequences (ids
0-24) already and is read in place.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import UInt8

from performer.data import fasta, vocabulary
from runtime import paths
from runtime.data import records

__all__ = [
  'Reading',
  'Records',
  'Summary',
  'load',
  'open_records',
  'summarize',
  'windows',
]

_SUFFIX = records.SUFFIX
_FORMAT = 1  # Part of every cache key; raise it when the record format changes.


@dataclasses.dataclass(frozen=True)
class Reading:
  """Settings for reading a file.

  Attributes:
    stops: see `fasta.read`.
    share: only the sequences whose hash lies in this part of [0, 1), so that
      equal sequences meet in one share; None: all.
  """

  stops: str = 'error'
  share: tuple[float, float] | None = None

  def takes(self, ids: UInt8[np.ndarray, 'n']) -> bool:
    """Whether a sequence belongs to the share."""
    if self.share is None:
      return True
    digest = hashlib.blake2b(ids.tobytes(), digest_size=8).digest()
    place = int.from_bytes(digest, 'big') / 2**64
    return self.share[0] <= place < self.share[1]


@dataclasses.dataclass(frozen=True)
class Summary:
  """Findings of one pass over the sequences of a file.

  Attributes:
    sequences: number of sequences.
    counts: occurrences of the ids 0..24.
    longest: residues in the longest sequence.
    longest_name: file, line and accession of that sequence.
  """

  sequences: int
  counts: tuple[int, ...]
  longest: int
  longest_name: str


class _Tally:
  """Collects a `Summary` from sequences as they stream by."""

  def __init__(self) -> None:
    self._sequences = 0
    self._counts = np.zeros(vocabulary.NUM_RESIDUES, np.int64)
    self._longest = 0
    self._longest_name = ''

  def watch(
    self, named: Iterable[tuple[str, np.ndarray]]
  ) -> Iterator[np.ndarray]:
    """Passes the ids of (name, ids) pairs on and counts them."""
    for name, ids in named:
      self._sequences += 1
      self._counts += np.bincount(ids, minlength=vocabulary.NUM_RESIDUES)
      if ids.size > self._longest:
        self._longest, self._longest_name = ids.size, name
      yield ids

  def summary(self) -> Summary:
    """Returns the summary of the sequences so far."""
    return Summary(
      self._sequences,
      tuple(self._counts.tolist()),
      self._longest,
      self._longest_name,
    )


class Records(records.Records):
  """The records of an ArrayRecord file, each as uint8 ids [n].

  Args:
    path: file of encoded sequences or windows.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file cannot be read or holds no record; on access, a record
      is empty or holds a byte that is neither a residue nor the end symbol.
  """

  def __getitem__(self, index: int) -> UInt8[np.ndarray, 'n']:
    ids = np.frombuffer(super().__getitem__(index), np.uint8)
    if ids.size == 0 or ids.max() > vocabulary.EOS:
      raise ValueError(
        f'{self.path}: record {index} must hold ids in 0..{vocabulary.EOS},'
        f' got {ids[:8].tolist()}'
      )
    return ids


def windows(
  sequences: Iterable[UInt8[np.ndarray, '_']], length: int
) -> Iterator[UInt8[np.ndarray, 'l']]:
  """Joins sequences, an end symbol after each, and cuts the stream.

  Windows do not overlap and may cross sequence borders; the remainder shorter
  than a window is dropped.

  Args:
    sequences: uint8 ids, any lengths.
    length: tokens per window.

  Yields:
    uint8 ids [length].

  Reference: arXiv:2009.14794, Appendix C.1 (concatenated TrEMBL).
  """
  end = np.array([vocabulary.EOS], np.uint8)
  pending, size = [], 0
  for ids in sequences:
    pending += [ids, end]
    size += ids.size + 1
    if size >= length:
      joined = np.concatenate(pending)
      whole = size // length * length
      yield from joined[:whole].reshape(-1, length)
      pending, size = [joined[whole:]], size - whole


def load(
  path: str, window: int | None, reading: Reading = Reading()
) -> list[UInt8[np.ndarray, '_']]:
  """Reads the examples of a small file into memory.

  Args:
    path: FASTA or ArrayRecord file of sequences.
    window: window length, or None for whole sequences.
    reading: which sequences, and how.

  Returns:
    The examples, uint8 ids each.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file is malformed or too small for one window.
  """
  examples = list(_examples(path, window, reading, _Tally()))
  if not examples:
    raise _too_small(path, window)
  return examples


def open_records(
  path: str,
  window: int | None,
  cache_dir: str,
  reading: Reading = Reading(),
) -> Records:
  """Opens the examples of a file, converting it on first use.

  Safe to call from several processes at once: one of them converts, and a
  finished copy appears under its name in one step. A finished copy needs no
  permission to write. A dry run converts into a folder that is removed.

  Args:
    path: FASTA or ArrayRecord file of sequences.
    window: window length, or None for whole sequences.
    cache_dir: directory for the converted copy; created when missing.
    reading: which sequences, and how.

  Returns:
    Examples with random access.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file is malformed or too small for one window.
  """
  if path.endswith(_SUFFIX) and window is None and reading.share is None:
    return Records(path)
  name = _cache_name(path, reading)
  kind = 'sequences' if window is None else f'windows{window}'
  target = os.path.join(cache_dir, f'{name}-{kind}{_SUFFIX}')
  if os.path.exists(target):
    return Records(target)
  cache_dir = paths.kept(cache_dir)
  target = os.path.join(cache_dir, os.path.basename(target))
  os.makedirs(cache_dir, exist_ok=True)
  with _locked(f'{target}.lock'):
    if not os.path.exists(target):
      tally = _Tally()
      with _replacing(target) as temporary:
        examples = _examples(path, window, reading, tally)
        if not records.write(temporary, (ids.tobytes() for ids in examples)):
          raise _too_small(path, window)
        _save(os.path.join(cache_dir, f'{name}.json'), tally.summary())
  return Records(target)


def summarize(
  path: str, cache_dir: str | None, reading: Reading = Reading()
) -> Summary:
  """Returns the summary of a file, from the cache or by one pass over it.

  Args:
    path: FASTA or ArrayRecord file of sequences.
    cache_dir: directory where the summary is kept, None to keep nothing.
    reading: which sequences, and how.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file is malformed.
  """
  name = f'{_cache_name(path, reading)}.json'
  for folder in (cache_dir, cache_dir and paths.kept(cache_dir)):
    if folder and os.path.exists(os.path.join(folder, name)):
      fields = json.loads(pathlib.Path(folder, name).read_text())
      return Summary(**{**fields, 'counts': tuple(fields['counts'])})
  tally = _Tally()
  for _ in _examples(path, None, reading, tally):
    pass
  if cache_dir:
    folder = paths.kept(cache_dir)
    os.makedirs(folder, exist_ok=True)
    _save(os.path.join(folder, name), tally.summary())
  return tally.summary()


def _examples(
  path: str, window: int | None, reading: Reading, tally: _Tally
) -> Iterator[np.ndarray]:
  """Streams the examples of a file while counting its sequences."""
  named = _named_sequences(path, reading)
  sequences = tally.watch(pair for pair in named if reading.takes(pair[1]))
  return sequences if window is None else windows(sequences, window)


def _named_sequences(
  path: str, reading: Reading
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name for messages, uint8 ids) of every sequence of a file."""
  if path.endswith(_SUFFIX):
    for index, ids in enumerate(Records(path)):
      name = f'{path}: record {index}'
      _check_residues(name, ids)
      yield name, ids
  else:
    for record in fasta.read(path, stops=reading.stops):
      name = f'{path}:{record.line}: {record.accession}'
      yield name, vocabulary.encode(record.sequence).astype(np.uint8)


def _check_residues(name: str, ids: UInt8[np.ndarray, 'n']) -> None:
  """Raises unless a stored sequence consists of residues only."""
  if ids.max() >= vocabulary.NUM_RESIDUES:
    raise ValueError(
      f'{name} must hold residue ids below {vocabulary.NUM_RESIDUES},'
      f' got {ids.max()=}'
    )


def _too_small(path: str, window: int | None) -> ValueError:
  """Returns the error for a file that gives no example to a split."""
  needed = 'sequence of each split'
  if window is not None:
    needed = f'window of {window} tokens'
  return ValueError(f'{path}: the file must hold at least one {needed}')


def _cache_name(path: str, reading: Reading) -> str:
  """Returns the name, without suffix, of the cache of a file."""
  if os.path.isdir(path):
    raise ValueError(f'{path}: a data path must be a file, got a directory')
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path}: no such file')
  status = os.stat(path)
  key = (_FORMAT, os.path.abspath(path), status.st_size, status.st_mtime_ns)
  if reading != Reading():
    key = (*key, reading)
  digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
  return f'{os.path.basename(path).split(".")[0]}-{digest}'


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
  """Holds an advisory lock that the system drops if the process dies."""
  with open(path, 'w') as stream:
    fcntl.flock(stream, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def _replacing(target: str) -> Iterator[str]:
  """Gives a temporary path that becomes `target` if the block succeeds."""
  handle, temporary = tempfile.mkstemp(
    dir=os.path.dirname(target), prefix='.tmp-'
  )
  os.close(handle)
  try:
    yield temporary
    # Temporary files are for their owner alone; caches may be shared.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)
    os.replace(temporary, target)
  except BaseException:
    os.unlink(temporary)
    raise


def _save(path: str, summary: Summary) -> None:
  """Writes a summary as JSON, in one step."""
  with _replacing(path) as temporary:
    pathlib.Path(temporary).write_text(json.dumps(dataclasses.asdict(summary)))
