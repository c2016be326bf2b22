"""Byte-level text: the file is the data, a token is a byte.

A window of W = `max_length` + 1 bytes gives inputs 0..W-2 and targets 1..W-1.
Windows do not overlap, and a remainder shorter than one is dropped, so of W
bytes one, the first of the window, is never a target.

The published runs (arXiv:2012.11346) take windows in file order, wrap around,
and use the raw bytes of

- the word-level Penn Treebank, W = 1024: one file for each split;
- the first 95 million bytes of enwik8, W = 4096: 90 million to train, 5 million
  to validate, both of one file by `byte_ranges`.
"""

import dataclasses
import functools
import importlib.resources
import itertools
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, UInt8

from performer.data import baseline, dataset
from runtime import paths
from runtime.data import files as files_lib
from runtime.data import indexed

__all__ = ['SAMPLE_SPLITS', 'Text', 'sample_file']

SAMPLE_SPLITS = ('train', 'valid', 'test')

_TRAIN = 'train'
_VOCAB_SIZE = 256
_ZIP = b'PK\x03\x04'
_BLOCK = 2**20  # Bytes counted at a time: NumPy widens them to 8 bytes each.


def sample_file(split: str) -> str:
  """Returns the path of one split of the sample that ships here."""
  folder = importlib.resources.files('performer.data') / 'sample' / 'text'
  return str(folder / f'{split}.txt.gz')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Text(dataset.DataSet):
  """A text of bytes: one training split and any number of others.

  Batches are dicts of numpy arrays, `tokens` and `targets` int32 [b, l],
  `weights` float32 [b, l] and `mask` bool [b, l]; l is `max_length`. There is
  no padding: `weights` is 1 and `mask` True everywhere.

  Plain files are mapped into memory, not read; gzip files are unpacked into it.

  Attributes:
    max_length: tokens that a model reads, l = W - 1 for windows of W bytes.
    files: path of the file (plain or gzip, told by its first bytes) of each
      split, one of them named `train`. A single path is split by position: the
      first 90 % of its bytes are `train`, 5 % each `valid` and `test`. None for
      the sample of Shakespeare in this package, with the splits `train`,
      `valid` and `test`.
    byte_ranges: for some of the splits of `files`, (start, stop): only these
      bytes of the (unpacked) file. Splits may share a file if they share no
      byte of it.
    order: `sequential`, windows in file order in every epoch, as published, or
      `shuffled` anew in each.
    num_threads: reader threads of the training iterator; 0 reads in step.

  Raises:
    ValueError: an option is unknown, out of range or contradicts another.
  """

  max_length: int
  files: Mapping[str, str] | str | None = None
  byte_ranges: Mapping[str, tuple[int, int]] | None = None
  order: str = 'sequential'
  num_threads: int = 2

  def __post_init__(self) -> None:
    if self.max_length < 1:
      raise ValueError(f'max_length must be at least 1, got {self.max_length=}')
    files = self.files if isinstance(self.files, Mapping) else {}
    if files and _TRAIN not in files:
      raise ValueError(f"files must name a 'train' split, got {self.files=}")
    if self.order not in ('sequential', 'shuffled'):
      raise ValueError(
        f"order must be 'sequential' or 'shuffled', got {self.order=}"
      )
    if self.num_threads < 0:
      raise ValueError(f'num_threads must be >= 0, got {self.num_threads=}')
    unknown = sorted(set(self.byte_ranges or ()) - set(files))
    if unknown:
      raise ValueError(
        'byte_ranges must name splits of files,'
        f' got {unknown} beside {[*files]}'
      )
    _check_ranges(files, self.byte_ranges or {})

  @property
  def task(self) -> str:
    """The kind of language model that the targets are for."""
    return 'causal'

  @property
  def vocab_size(self) -> int:
    """Number of token ids, the values of a byte."""
    return _VOCAB_SIZE

  @property
  def unit(self) -> str:
    """The unit of reported losses: bits per byte."""
    return 'bits'

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""
    return tuple(name for name in self._paths if name != _TRAIN)

  @property
  def codec(self) -> dataset.Codec:
    """UTF-8; an empty prompt begins as after the end of a line."""
    return dataset.Codec(
      lambda text: np.frombuffer((text or '\n').encode(), np.uint8).astype(
        np.int32
      ),
      lambda ids: bytes(ids.astype(np.uint8)).decode(errors='replace'),
      stop_token=None,
    )

  def num_examples(self, split: str) -> int:
    """Returns the number of windows of a split.

    Raises:
      FileNotFoundError: the file of the split does not exist.
      ValueError: the split is unknown or its file unusable.
    """
    return len(self._windows(split))

  def token_counts(self, split: str) -> Int[np.ndarray, '256']:
    """Counts the bytes of a split, those outside whole windows included.

    Returns:
      int64 [256].

    Raises:
      FileNotFoundError: the file of the split does not exist.
      ValueError: the split is unknown or its file unusable.
    """
    return _counts(self._bytes(split))

  def unigram_bits(self, split: str, *, pseudocount: float = 1.0) -> float:
    """The empirical baseline: bits per byte of byte frequencies alone.

    Frequencies are those of the training split, all its bytes; the mean is over
    the targets that a model is judged on.

    Args:
      split: name of the split.
      pseudocount: added to each of the 256 counts, > 0, so that a byte absent
        from training costs a finite amount.

    Returns:
      Cross-entropy in bits per target.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: the split is unknown, its file unusable or the pseudocount not
        positive.
    """
    if pseudocount <= 0:
      raise ValueError(f'pseudocount must be > 0, got {pseudocount=}')
    fitted = baseline.unigram(
      self.token_counts(_TRAIN), pseudocount=pseudocount
    )
    bits = -np.log2(fitted.probabilities)
    windows = self._windows(split)
    targets = _counts(windows.ravel()) - _counts(windows[:, 0])
    return float(targets @ bits / targets.sum())

  def training_examples(self, seed: int) -> indexed.Examples:
    """See `Indexed`: example i is window i modulo `num_examples`.

    It counts in the order of the file, or of the epoch; without `shuffled`,
    nothing depends on the seed.
    """
    windows = self._windows(_TRAIN)
    if self.order == 'sequential':
      return lambda numbers: _examples(windows[numbers % len(windows)])
    row = indexed.shuffled(len(windows), seed)
    return lambda numbers: _examples(
      windows[[row(i) for i in numbers.tolist()]]
    )

  def evaluation_examples(self, split: str) -> tuple[int, indexed.Examples]:
    """See `Indexed`: the windows of a split, in file order."""
    windows = self._windows(split)
    return len(windows), lambda numbers: _examples(windows[numbers])

  def baselines(self) -> dict[str, baseline.Unigram]:
    """Returns the empirical baseline, which knows only byte frequencies.

    Frequencies are those of all bytes of the training split, with a pseudocount
    of 1.

    Raises:
      FileNotFoundError: the training file does not exist.
      ValueError: the training file is unusable.
    """
    return {'empirical baseline': baseline.unigram(self.token_counts(_TRAIN))}

  @functools.cached_property
  def _paths(self) -> Mapping[str, str]:
    if self.files is None:
      return {split: sample_file(split) for split in SAMPLE_SPLITS}
    if isinstance(self.files, str):
      return dict.fromkeys(dataset.SHARES, str(paths.local(self.files)))
    return {k: str(paths.local(path)) for k, path in self.files.items()}

  @functools.cached_property
  def _opened(self) -> dict[str, np.ndarray]:
    return {}  # By path: splits may share a file. Filled by `_bytes`.

  def _bytes(self, split: str) -> UInt8[np.ndarray, 'n']:
    """Returns the bytes of a split, a view of its file."""
    if split not in self._paths:
      raise ValueError(f'split must be one of {[*self._paths]}, got {split=}')
    path = self._paths[split]
    if path not in self._opened:
      self._opened[path] = _open(path)
    data = self._opened[path]
    start, stop = (self.byte_ranges or {}).get(split, (0, data.size))
    if isinstance(self.files, str):
      start, stop = (round(part * data.size) for part in dataset.SHARES[split])
    if stop > data.size:
      raise ValueError(
        f'{path}: the file must reach to the end of the byte range of'
        f' {split!r}, {stop}, but has {data.size} bytes'
      )
    return data[start:stop]

  def _windows(self, split: str) -> UInt8[np.ndarray, 'n w']:
    """Returns the windows of a split, a view of its file."""
    data = self._bytes(split)
    width = self.max_length + 1
    count = data.size // width
    if count == 0:
      raise ValueError(
        f'{self._paths[split]}: the split {split!r} must hold at least one'
        f' window of {width} bytes (max_length + 1), but has {data.size}'
      )
    return data[: count * width].reshape(count, width)


def _check_ranges(
  files: Mapping[str, str], ranges: Mapping[str, tuple[int, int]]
) -> None:
  """Raises if a range is malformed or two splits share bytes of a file."""
  for split, limits in ranges.items():
    whole = all(isinstance(limit, int) for limit in limits)
    if len(limits) != 2 or not whole or not 0 <= limits[0] < limits[1]:
      raise ValueError(
        'byte_ranges must be integers (start, stop) with 0 <= start < stop,'
        f' got {limits} for {split!r}'
      )
  for one, other in itertools.combinations(files, 2):
    if os.path.abspath(files[one]) == os.path.abspath(files[other]):
      spans = [ranges.get(split, (0, np.inf)) for split in (one, other)]
      if max(start for start, _ in spans) < min(stop for _, stop in spans):
        raise ValueError(
          f'{files[one]}: splits of one file need byte_ranges that do not'
          f' overlap, got {spans[0]} for {one!r} and {spans[1]} for {other!r}'
        )


def _open(path: str) -> UInt8[np.ndarray, 'n']:
  """Maps a plain file, or unpacks a gzip file, as one array of bytes."""
  if os.path.isdir(path):
    raise ValueError(f'{path}: a data path must be a file, got a directory')
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path}: no such file')
  with open(path, 'rb') as stream:
    magic = stream.read(4)
  if magic == _ZIP:
    raise ValueError(f'{path}: the file must be plain or gzip, got a zip')
  if files_lib.is_gzip(path):
    data = np.frombuffer(files_lib.gunzip(path), np.uint8)
  elif magic:
    data = np.asarray(np.memmap(path, np.uint8, mode='r'))
  else:
    data = np.zeros(0, np.uint8)
  if data.size == 0:
    raise ValueError(f'{path}: the file must hold text, but is empty')
  return data


def _counts(data: UInt8[np.ndarray, 'n']) -> Int[np.ndarray, '256']:
  """Counts byte values, int64 [256]."""
  counts = np.zeros(_VOCAB_SIZE, np.int64)
  for start in range(0, data.size, _BLOCK):
    block = data[start : start + _BLOCK]
    counts += np.bincount(block, minlength=_VOCAB_SIZE)
  return counts


def _examples(windows: UInt8[np.ndarray, 'n w']) -> indexed.Arrays:
  """Makes an example of every window."""
  targets = windows[:, 1:].astype(np.int32)
  return {
    'tokens': windows[:, :-1].astype(np.int32),
    'targets': targets,
    'weights': np.ones(targets.shape, np.float32),
    'mask': np.ones(targets.shape, np.bool_),
  }
