"""The interface of data sets to the trainer."""

import abc
import os
import typing
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from performer.data import baseline
from runtime.data import indexed

__all__ = ['SHARES', 'Codec', 'DataSet', 'Predictor', 'check_splits']

# Where a data set splits the one file it is given: parts of [0, 1).
SHARES = {'train': (0.0, 0.9), 'valid': (0.9, 0.95), 'test': (0.95, 1.0)}


@typing.runtime_checkable
class Predictor(typing.Protocol):
  """Something to compare a model with."""

  def evaluate(self, batches: Iterable[indexed.Arrays]) -> baseline.Scores:
    """Scores it on the targets of evaluation batches.

    Args:
      batches: dicts with `tokens` and `targets` int32 [b, l] and `weights`
        float32 [b, l].

    Returns:
      Means over all batches, weighted by `weights`.

    Raises:
      ValueError: there is no target of weight > 0, or an impossible one.
    """


class Codec(typing.NamedTuple):
  """Text to tokens and back, for models that write.

  Attributes:
    encode: from a prompt, which may be empty, to the tokens that the model
      reads first, int32 [n], n >= 1.
    decode: from tokens that the model wrote to text.
    stop_token: the model writes it at the end; None: it never ends.
  """

  encode: Callable[[str], np.ndarray]
  decode: Callable[[np.ndarray], str]
  stop_token: int | None


class DataSet(indexed.Indexed):
  """Batches for language models: one training split and any number of others.

  Batches are dicts of numpy arrays, `tokens` int32 [b, l], `targets` int32
  [b, t], `weights` float32 [b, t] and `mask` bool [b, l]; l is `max_length`, t
  is `target_length`. `weights` is 0 on targets that do not count, `mask` is
  False on padding, and no row is all padding.

  Attributes:
    task: `causal` (predict the next token), `mlm` (predict hidden ones) or
      `classify` (predict a label of the sequence).
    max_length: tokens per example, l.
    vocab_size: number of token ids.
    unit: unit of reported losses: `perplexity`, or `bits` per token as well.
  """

  task: str
  max_length: int
  vocab_size: int
  unit: str

  @property
  def target_length(self) -> int:
    """Targets per example, t: one for each token."""
    return self.max_length

  @property
  @abc.abstractmethod
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""

  @property
  def codec(self) -> Codec | None:
    """Converts tokens to text and back; None if tokens are no text."""
    return None

  @abc.abstractmethod
  def num_examples(self, split: str) -> int | None:
    """Returns the number of examples of a split; None if it has no end."""

  def tokens_per_word(self, split: str) -> float | None:
    """Targets for each word of a split, where tokens are parts of words.

    With it the perplexity of a word is exp(tokens per word times the loss).
    """
    del split
    return None

  @abc.abstractmethod
  def baselines(self) -> Mapping[str, Predictor]:
    """Returns the baselines by name; may read the training split."""


def check_splits(sources: Mapping[str, str], *, fewest: int = 2) -> None:
  """Raises ValueError unless a model can be trained and judged on splits.

  Args:
    sources: file, folder or public split of each split; that of `train` must be
      no other's. Two splits to judge by may share theirs.
    fewest: number of splits, `train` included.
  """
  if 'train' not in sources or len(sources) < fewest:
    more = ' and another one' if fewest > 1 else ''
    raise ValueError(
      f"files or parts must name a 'train' split{more}, got {dict(sources)}"
    )
  places = {name: os.path.normpath(path) for name, path in sources.items()}
  train = places.pop('train')
  shared = sorted(name for name, place in places.items() if place == train)
  if shared:
    raise ValueError(
      f'a model must be judged by other examples than it learns from, but '
      f"{shared} and 'train' are both {train}"
    )
