"""The copy task: repeat a word after having read it.

A window of L tokens is `0 w 0 w`: a separator, a word of L/2 - 1 letters drawn
uniformly from 1..V-1, and both again. A model reads all but the last token and
predicts all but the first; only the second half of the window counts, L/2
targets that begin with the repeated separator. The separator always stands in
the same place, so the letters alone tell whether a model copies.

Reference: arXiv:2012.11346, Section 4; the size of the published runs is a
window of 512 tokens (`max_length` 511) over 256 symbols.
"""

import dataclasses
import math

import numpy as np

from performer.data import baseline, dataset
from runtime.data import indexed

__all__ = ['Copying']

_SPLITS = ('valid', 'test')
_SEPARATOR = 0
_CHANCE = 'knows the format'  # Name of the baseline.
# First words of the random streams: training varies with the run's seed and the
# position in the run, evaluation with the split and the index of the example.
_TRAIN_STREAM, _EVAL_STREAM = 0, 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Copying(dataset.DataSet):
  """The copy task as a data set without files.

  Batches are dicts of numpy arrays, `tokens` and `targets` int32 [b, l],
  `weights` float32 [b, l] and `mask` bool [b, l]; l is `max_length`. `weights`
  is 1 on the last (l + 1) / 2 targets and `mask` True everywhere.

  Training examples never repeat; each is a function of the seed and its
  position. `valid` and `test` have streams of their own, which do not depend on
  the seed of a run.

  Attributes:
    max_length: tokens that a model reads, l = L - 1 for windows of L tokens;
      odd, at least 3.
    vocab_size: number of symbols with the separator, V.
    num_eval: examples in `valid` and in `test`.
    num_threads: threads that make training examples; 0 makes them in step.

  Raises:
    ValueError: an option is out of range.
  """

  max_length: int
  vocab_size: int = 256
  num_eval: int = 256
  num_threads: int = 2

  def __post_init__(self) -> None:
    if self.max_length < 3 or self.max_length % 2 == 0:
      raise ValueError(
        'max_length must be odd and at least 3, one less than a window of two'
        f' equal halves, got {self.max_length=}'
      )
    if self.vocab_size < 3:
      raise ValueError(
        'vocab_size must leave two letters beside the separator,'
        f' got {self.vocab_size=}'
      )
    if self.num_eval < 1:
      raise ValueError(f'num_eval must be at least 1, got {self.num_eval=}')
    if self.num_threads < 0:
      raise ValueError(f'num_threads must be >= 0, got {self.num_threads=}')

  @property
  def task(self) -> str:
    """The kind of language model that the targets are for."""
    return 'causal'

  @property
  def unit(self) -> str:
    """The unit of reported losses: bits per target."""
    return 'bits'

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""
    return _SPLITS

  @property
  def chance_bits(self) -> float:
    """Bits per target of a model that knows the format but does not copy.

    The separator costs nothing, each of the L/2 - 1 letters log2(V - 1).
    """
    # All words are equally likely, so any one example gives the mean.
    batch = next(self.eval_batches(_SPLITS[0], batch_size=1))
    return self.baselines()[_CHANCE].evaluate([batch]).loss / math.log(2)

  def num_examples(self, split: str) -> int | None:
    """Returns the number of examples of a split; None for endless training.

    Raises:
      ValueError: the split is unknown.
    """
    return None if split == 'train' else self._eval_size(split)

  def training_examples(self, seed: int) -> indexed.Examples:
    """See `Indexed`: no two examples of a run are the same draw."""
    return indexed.stacked(lambda i: self._example((_TRAIN_STREAM, seed, i)))

  def evaluation_examples(self, split: str) -> tuple[int, indexed.Examples]:
    """See `Indexed`: the `num_eval` examples of a split, always the same."""
    count, stream = self._eval_size(split), _SPLITS.index(split)
    return count, indexed.stacked(
      lambda i: self._example((_EVAL_STREAM, stream, i))
    )

  def baselines(self) -> dict[str, baseline.PositionWise]:
    """Returns `knows the format`: the best prediction without memory of w.

    It is certain where the separator stands and undecided between the letters
    elsewhere. No table over input tokens does as well: the letter before the
    repeated separator is like any other.
    """
    table = np.zeros((self.max_length, self.vocab_size))
    table[:, _SEPARATOR + 1 :] = 1 / (self.vocab_size - 1)
    table[self._half - 1] = np.eye(self.vocab_size)[_SEPARATOR]
    return {_CHANCE: baseline.PositionWise(table)}

  @property
  def _half(self) -> int:
    """Tokens in half a window, L/2."""
    return (self.max_length + 1) // 2

  def _eval_size(self, split: str) -> int:
    """Returns the size of an evaluation split, or raises."""
    if split not in _SPLITS:
      raise ValueError(f'split must be one of {[*_SPLITS]}, got {split=}')
    return self.num_eval

  def _example(self, stream: tuple[int, int, int]) -> indexed.Arrays:
    """Makes the example of a random stream."""
    rng = np.random.default_rng(stream)
    window = np.full((2, self._half), _SEPARATOR, np.int32)
    window[:, 1:] = rng.integers(1, self.vocab_size, self._half - 1)
    window = window.ravel()
    second = np.arange(1, window.size) >= self._half
    return {
      'tokens': window[:-1],
      'targets': window[1:],
      'weights': second.astype(np.float32),
      'mask': np.ones(self.max_length, np.bool_),
    }
