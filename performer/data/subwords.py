"""Texts as pieces of words, by a model of SentencePiece.

Documents are joined, an end symbol after each, and cut into windows. The ids are
those of the model, and two more: MASK and BEGIN.

The perplexity of a word is exp(n L) for a loss of L nats per piece, where n is
the number of pieces per word. On PG-19 the published vocabulary (unigram, 32,768
pieces) makes

| split | words | pieces | pieces per word |
|---|---:|---:|---:|
| train | 1,973,136,207 | 3,084,760,726 | 1.5634 |
| valid | 3,007,061 | 4,656,945 | 1.5487 |
| test | 6,966,499 | 10,699,704 | 1.5359 |

References: arXiv:2009.14794, A.1.1 (counts); arXiv:1911.05507 (PG-19);
arXiv:1808.06226 (SentencePiece).
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from performer.data import baseline, dataset, masking
from performer.data import documents as documents_lib
from runtime import optional, paths
from runtime.data import indexed

__all__ = [
  'PG19_COUNTS',
  'Counts',
  'Subwords',
  'encode',
  'pg19_pieces_per_word',
]

_TRAIN = 'train'
_TRAIN_STREAM, _EVAL_STREAM = 0, 1  # First words of the random streams.


class Counts(NamedTuple):
  """Words, between blanks, and pieces of a split, without end symbols."""

  words: int
  pieces: int


PG19_COUNTS = {
  'train': Counts(1_973_136_207, 3_084_760_726),
  'valid': Counts(3_007_061, 4_656_945),
  'test': Counts(6_966_499, 10_699_704),
}


def pg19_pieces_per_word() -> dict[str, float]:
  """The published multipliers: 1.5634, 1.5487 and 1.5359."""
  return {name: c.pieces / c.words for name, c in PG19_COUNTS.items()}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subwords(dataset.DataSet):
  """A text of pieces of words: one training split and any number of others.

  Batches are dicts of numpy arrays, `tokens` and `targets` int32 [b, l],
  `weights` float32 [b, l] and `mask` bool [b, l]; l is `max_length`. A causal
  window reads BEGIN and its first l - 1 pieces, and has all l as targets.

  Splits are encoded once into `cache_dir`, and mapped into memory.

  Attributes:
    task: `causal` or `mlm`.
    max_length: tokens per example, l.
    model: path of the model of SentencePiece.
    documents: the texts.
    masking: see `performer.data.masking`; has no effect on the causal task.
    pieces_per_word: by split; None counts them. The published numbers belong to
      the published vocabulary: see `pg19_pieces_per_word`.
    cache_dir: folder of encoded texts; None: the user's cache.
    num_threads: reader threads of the training iterator; 0 reads in step.

  Raises:
    ValueError: an option is unknown or out of range.
  """

  task: str
  max_length: int
  model: str
  documents: documents_lib.Documents
  masking: str = 'bert'
  pieces_per_word: Mapping[str, float] | None = None
  cache_dir: str | None = None
  num_threads: int = 2

  def __post_init__(self) -> None:
    if self.task not in ('mlm', 'causal'):
      raise ValueError(f"task must be 'mlm' or 'causal', got {self.task=}")
    if self.max_length < 2:
      raise ValueError(f'max_length must be at least 2, got {self.max_length=}')
    masking.preset(self.masking)
    if self.num_threads < 0:
      raise ValueError(f'num_threads must be >= 0, got {self.num_threads=}')
    known = self.pieces_per_word
    if known is not None and (
      not set(self.documents.splits) <= set(known) or min(known.values()) <= 0
    ):
      raise ValueError(
        'pieces_per_word must be positive and of every split, '
        f'{[*self.documents.splits]}, got {dict(known)}'
      )

  @property
  def vocab_size(self) -> int:
    """Number of token ids: pieces, MASK and BEGIN."""
    return self._processor.vocab_size() + 2

  @property
  def unit(self) -> str:
    """The unit of reported losses."""
    return 'perplexity'

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""
    return tuple(name for name in self.documents.splits if name != _TRAIN)

  @property
  def codec(self) -> dataset.Codec:
    """Pieces after BEGIN."""
    begin, pieces = self.vocab_size - 1, self._processor

    def decode(ids: Integer[np.ndarray, 'n']) -> str:
      known = [i for i in ids.tolist() if i < pieces.vocab_size()]
      return pieces.decode(known)

    return dataset.Codec(
      lambda text: np.array([begin, *pieces.encode(text)], np.int32),
      decode,
      stop_token=pieces.eos_id(),
    )

  def num_examples(self, split: str) -> int:
    """Returns the number of windows of a split."""
    return len(self._windows(split))

  def counts(self, split: str) -> Counts:
    """Words and pieces of a split."""
    _, meta = self._encoded(split)
    return Counts(*map(int, np.load(meta)))

  def tokens_per_word(self, split: str) -> float:
    """See `DataSet`: given, or counted."""
    if self.pieces_per_word is not None:
      return self.pieces_per_word[split]
    found = self.counts(split)
    if not found.words:
      raise ValueError(f'the split {split!r} must hold a word, got {found}')
    return found.pieces / found.words

  def training_examples(self, seed: int) -> indexed.Examples:
    """See `Indexed`: every epoch has an order of its own, and masks."""
    windows = self._windows(_TRAIN)
    row = indexed.shuffled(len(windows), seed)
    return indexed.stacked(
      lambda i: self._example(windows[row(i)], (_TRAIN_STREAM, seed, i))
    )

  def evaluation_examples(self, split: str) -> tuple[int, indexed.Examples]:
    """See `Indexed`: in order; masks depend on the number alone."""
    windows = self._windows(split)
    return len(windows), indexed.stacked(
      lambda i: self._example(windows[i], (_EVAL_STREAM, i))
    )

  def baselines(self) -> dict[str, baseline.Unigram]:
    """Returns the frequencies of pieces in the training split."""
    flat = self._windows(_TRAIN).ravel()
    counts = np.zeros(self.vocab_size, np.int64)
    for start in range(0, flat.size, 2**20):
      block = flat[start : start + 2**20]
      counts += np.bincount(block, minlength=self.vocab_size)
    return {'empirical baseline': baseline.unigram(counts)}

  @functools.cached_property
  def _processor(self) -> Any:
    library = optional.load('sentencepiece', extra='hpo')
    path = paths.local(self.model)
    if not os.path.isfile(path):
      raise FileNotFoundError(f'{path}: no such model of SentencePiece')
    processor = library.SentencePieceProcessor(model_file=str(path))
    if processor.eos_id() < 0:
      raise ValueError(
        f'{path}: the model must have an end symbol; train it with eos_id >= 0'
      )
    return processor

  def _encoded(self, split: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Files of the pieces and of the counts of a split, made on first use."""
    if split not in self.documents.splits:
      known = [*self.documents.splits]
      raise ValueError(f'split must be one of {known}, got {split=}')
    digest = hashlib.sha256(self._processor.serialized_model_proto())
    digest.update(self.documents.name(split).encode())
    folder = paths.local(self.cache_dir or paths.user_cache('subwords'))
    folder = pathlib.Path(paths.kept(str(folder)))
    target = folder / f'{digest.hexdigest()[:20]}.npy'
    meta = target.with_name(f'{target.stem}-counts.npy')
    if not (target.exists() and meta.exists()):
      folder.mkdir(parents=True, exist_ok=True)
      encode(self._processor, self.documents.read(split), target, meta)
    return target, meta

  def _windows(self, split: str) -> Integer[np.ndarray, 'n l']:
    """The windows of a split, a view of its file."""
    target, _ = self._encoded(split)
    pieces = np.load(target, mmap_mode='r')
    count = pieces.size // self.max_length
    if count == 0:
      raise ValueError(
        f'the split {split!r} must hold a window of {self.max_length} pieces, '
        f'but has {pieces.size}'
      )
    return pieces[: count * self.max_length].reshape(count, -1)

  def _example(
    self, window: Integer[np.ndarray, 'l'], stream: tuple[int, ...]
  ) -> indexed.Arrays:
    targets = window.astype(np.int32)
    whole = np.ones(targets.shape, np.bool_)
    if self.task == 'causal':
      begin = np.array([self.vocab_size - 1], np.int32)
      tokens, hidden = np.concatenate([begin, targets[:-1]]), whole
    else:
      size = self.vocab_size - 2
      tokens, hidden = masking.mask_tokens(
        targets,
        np.random.default_rng(stream),
        masking.preset(self.masking),
        masking.Alphabet(size, size, size),
      )
    return {
      'tokens': tokens,
      'targets': targets,
      'weights': hidden.astype(np.float32),
      'mask': whole,
    }


def encode(
  processor: Any,
  documents: Iterable[str],
  target: pathlib.Path,
  meta: pathlib.Path,
) -> Counts:
  """Encodes documents, one after another, an end symbol after each.

  Args:
    processor: of SentencePiece.
    documents: texts; one at a time is in memory.
    target: file of the pieces, `.npy`, uint16 or uint32 [n].
    meta: file of the counts, `.npy`, int64 [2].

  Returns:
    The counts.
  """
  dtype = np.uint16 if processor.vocab_size() <= 2**16 else np.uint32
  words = pieces = total = 0
  with tempfile.TemporaryDirectory(dir=target.parent) as folder:
    raw = pathlib.Path(folder) / 'raw'
    with raw.open('wb') as stream:
      for document in documents:
        ids = processor.encode(document)
        words, pieces = words + len(document.split()), pieces + len(ids)
        total += stream.write(
          np.array([*ids, processor.eos_id()], dtype).tobytes()
        )
    size = total // np.dtype(dtype).itemsize
    if size == 0:
      raise ValueError(f'{target}: there must be a document, got none')
    whole = pathlib.Path(folder) / target.name
    made = np.lib.format.open_memmap(whole, 'w+', dtype, (size,))
    made[:] = np.memmap(raw, dtype, 'r')
    made.flush()
    counted = pathlib.Path(folder) / meta.name
    np.save(counted, np.array([words, pieces], np.int64))
    os.replace(counted, meta)
    os.replace(whole, target)
  return Counts(words, pieces)
