"""What the trainer asks of a data set."""

import typing
from collections.abc import Iterable, Iterator, Mapping

import grain

from performer.data import baseline, examples

__all__ = ['DataSet', 'Predictor']


@typing.runtime_checkable
class Predictor(typing.Protocol):
  """Something to compare a model with."""

  def evaluate(self, batches: Iterable[examples.Example]) -> baseline.Scores:
    """Scores it on the targets of evaluation batches.

    Args:
      batches: dicts with `tokens` and `targets` int32 [b, l] and `weights`
        float32 [b, l].

    Returns:
      Means over all batches, weighted by `weights`.

    Raises:
      ValueError: there is no target of weight > 0, or an impossible one.
    """


@typing.runtime_checkable
class DataSet(typing.Protocol):
  """Batches for language models: one training split and any number of others.

  Batches are dicts of numpy arrays, `tokens` and `targets` int32 [b, l],
  `weights` float32 [b, l] and `mask` bool [b, l]; l is `max_length`. `weights`
  is 0 on what does not count, `mask` is False on padding, and no row is all
  padding.
  """

  @property
  def task(self) -> str:
    """`causal` (predict the next token) or `mlm` (predict hidden ones)."""

  @property
  def max_length(self) -> int:
    """Tokens per example, l."""

  @property
  def vocab_size(self) -> int:
    """Number of token ids."""

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""

  @property
  def unit(self) -> str:
    """What losses are quoted in: `perplexity`, or `bits` per token as well."""

  def num_examples(self, split: str) -> int | None:
    """Returns the number of examples of a split; None if it has no end."""

  def train_iterator(
    self,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> grain.DatasetIterator:
    """Returns an endless iterator over training batches.

    `get_state()` is a small dict that JSON can hold, the same on every process
    and valid for any process count; `set_state()` continues bit for bit.

    Args:
      batch_size: examples per step over all processes.
      seed: of everything random, 0..2**32-1.
      process_index: which rows of the global batch to yield.
      process_count: number of processes; row r of the global batch belongs to
        process r // (batch_size // process_count).

    Returns:
      An iterator over dicts with batch_size // process_count rows.
    """

  def eval_batches(
    self,
    split: str,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Iterator[examples.Example]:
    """Yields every example of a split once, always in the same order.

    Examples do not depend on the batch size. The last batch is filled up with
    examples whose `weights` are 0.

    Args:
      split: name of the split.
      batch_size: examples per step over all processes.
      process_index: which rows of the global batch to yield.
      process_count: number of processes.

    Returns:
      An iterator over dicts with batch_size // process_count rows; all
      processes get the same number of batches.
    """

  def baselines(self) -> Mapping[str, Predictor]:
    """Returns what a model has to beat, by name; may read the training split."""
