"""Ids of metadata, which is text, and of trials, which are bins and marks.

`Compact` needs no download: two small tables, one for text and one for trials.
`SentencePiece` is the vocabulary of the public checkpoints, read from a file:
one table for both.
"""

import dataclasses
import functools
import os
import re
from typing import Protocol, runtime_checkable

from hpo.optformer import pieces as pieces_lib
from hpo.optformer import quantizing
from rl import ranges
from runtime import optional

__all__ = ['Compact', 'SentencePiece', 'TrialIds', 'Vocabulary']


@dataclasses.dataclass(frozen=True)
class TrialIds:
  """Ids of the decoder.

  Attributes:
    pad: fills sequences up.
    start: stand before the first trial.
    star: `*`, between parameters and objective.
    bar: `|`, after a trial that another one follows.
    pending: stands for an objective that is still to come.
    infeasible: stands for the objective of a trial that has none.
    first_bin: id of bin 0; bin k is `first_bin + k`.
    bins: Q.
    size: rows of the table.
  """

  pad: int
  start: tuple[int, ...]
  star: int
  bar: int
  pending: int
  infeasible: int
  first_bin: int
  bins: int
  size: int


@runtime_checkable
class Vocabulary(Protocol):
  """Ids of text and of trials."""

  @property
  def text_size(self) -> int:
    """Rows of the table of text; id 0 fills up."""
    ...

  @property
  def trial_ids(self) -> TrialIds:
    """Ids of trials."""
    ...

  @property
  def is_shared(self) -> bool:
    """Whether text and trials have one table."""
    ...

  def encode(self, text: str) -> list[int]:
    """Ids of a text."""
    ...


@dataclasses.dataclass(frozen=True)
class Compact:
  """Bytes and built-in pieces for text; bins and eight marks for trials.

  Text is cut greedily: the longest piece that fits, or else one character in
  bytes of UTF-8. Ids: 0 fills up, 1..256 are the bytes, then the pieces.

  Attributes:
    bins: Q.
    pieces: frequent pieces of text, which have ids of their own.
  """

  bins: int = quantizing.NUM_BINS
  pieces: tuple[str, ...] = pieces_lib.PIECES

  def __post_init__(self) -> None:
    ranges.check_counts(bins=self.bins)

  @property
  def text_size(self) -> int:
    """See `Vocabulary`; a multiple of 128."""
    return -(-(257 + len(self.pieces)) // 128) * 128

  @property
  def trial_ids(self) -> TrialIds:
    """See `Vocabulary`; ids 6 and 7 are free for later statuses."""
    return TrialIds(
      pad=0,
      start=(1,),
      star=2,
      bar=3,
      pending=4,
      infeasible=5,
      first_bin=8,
      bins=self.bins,
      size=8 + self.bins,
    )

  @property
  def is_shared(self) -> bool:
    """See `Vocabulary`."""
    return False

  def encode(self, text: str) -> list[int]:
    """See `Vocabulary`."""
    table, pattern = _tables(self.pieces)
    ids: list[int] = []
    for piece in pattern.findall(text):
      if piece in table:
        ids.append(table[piece])
      else:
        ids.extend(1 + byte for byte in piece.encode('utf-8'))
    return ids

  def decode(self, ids: list[int]) -> str:
    """The text of ids: the inverse of `encode`."""
    parts = [
      bytes([i - 1]) if i <= 256 else self.pieces[i - 257].encode('utf-8')
      for i in ids
      if i
    ]
    return b''.join(parts).decode('utf-8')


@functools.lru_cache
def _tables(pieces: tuple[str, ...]) -> tuple[dict[str, int], re.Pattern[str]]:
  longest_first = sorted(pieces, key=len, reverse=True)
  pattern = '|'.join(map(re.escape, longest_first))
  table = {piece: 257 + i for i, piece in enumerate(pieces)}
  return table, re.compile(f'{pattern}|.', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class SentencePiece:
  """T5's vocabulary with a piece `<k>` for each bin, from a local file.

  Ids of the file come first (32,100 of them in `cc_all.32000.100extra`), then
  the bins. Statuses take the last two sentinels, which no study contains.

  Attributes:
    path: of the model of SentencePiece.
    bins: Q.

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: the library sentencepiece is not installed.
  """

  path: str | os.PathLike[str]
  bins: int = quantizing.NUM_BINS

  @property
  def text_size(self) -> int:
    """See `Vocabulary`; 33,152 as published: a multiple of 128."""
    return -(-self._processor.vocab_size() // 128) * 128

  @property
  def trial_ids(self) -> TrialIds:
    """See `Vocabulary`; trials start behind T5's start id and its blank."""
    ids = self._processor
    first = ids.piece_to_id('<0>')
    return TrialIds(
      pad=0,
      start=(0, ids.piece_to_id('▁')),
      star=ids.piece_to_id('*'),
      bar=ids.piece_to_id('|'),
      pending=first - 1,
      infeasible=first - 2,
      first_bin=first,
      bins=self.bins,
      size=self.text_size,
    )

  @property
  def is_shared(self) -> bool:
    """See `Vocabulary`."""
    return True

  def encode(self, text: str) -> list[int]:
    """See `Vocabulary`."""
    return self._processor.encode(text)

  @functools.cached_property
  def _processor(self):  # noqa: ANN202
    library = optional.load('sentencepiece', extra='hpo')
    messages = optional.load(
      'sentencepiece.sentencepiece_model_pb2', extra='hpo'
    )
    model = messages.ModelProto()
    with open(self.path, 'rb') as stream:
      model.ParseFromString(stream.read())
    for k in range(self.bins):
      model.pieces.add(
        piece=f'<{k}>',
        score=0.0,
        type=messages.ModelProto.SentencePiece.USER_DEFINED,
      )
    return library.SentencePieceProcessor(model_proto=model.SerializeToString())
