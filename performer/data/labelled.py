"""Sequences with a label each, such as those of Long Range Arena.

Every example begins with the symbol `BEGIN`, from which a classifier may read
its answer (the CLS token of BERT). Tokens of the sequence follow, and padding.

References: arXiv:2011.04006, section 2; arXiv:1810.04805, section 3.
"""

import abc
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from performer.data import baseline, dataset
from runtime.data import indexed

__all__ = ['BEGIN', 'PAD', 'SPECIAL', 'Labelled', 'Row']

# Ids that every vocabulary of a labelled set begins with.
PAD, BEGIN = 0, 1
SPECIAL = 2

_TRAIN = 'train'
_COUNTED = 2000  # Labels that the baseline counts: some sets draw their rows.

# The tokens of a sequence, at least `SPECIAL` each, int [n], and its label.
Row = tuple[Integer[np.ndarray, '_'], int]


class Labelled(dataset.DataSet):
  """A data set of sequences, each with one label.

  Batches are dicts of numpy arrays: `tokens` int32 [b, l] and `mask` bool
  [b, l] as for language models, `targets` int32 [b, 1] the labels, `weights`
  float32 [b, 1]; l is `max_length`, the symbol `BEGIN` included. Longer
  sequences keep their first l - 1 tokens.

  Attributes:
    num_classes: number of labels.
  """

  num_classes: int

  @property
  def task(self) -> str:
    """What the targets are for: one label for each sequence."""
    return 'classify'

  @property
  def target_length(self) -> int:
    """Targets of an example."""
    return 1

  @property
  def unit(self) -> str:
    """The unit of reported losses."""
    return 'perplexity'

  @abc.abstractmethod
  def rows(self, split: str) -> Sequence[Row]:
    """Returns the sequences of a split, with random access.

    Raises:
      FileNotFoundError: the file of the split does not exist.
      ValueError: the split is unknown or its file malformed.
    """

  def num_examples(self, split: str) -> int:
    """Returns the number of sequences of a split."""
    return len(self.rows(split))

  def training_examples(self, seed: int) -> indexed.Examples:
    """See `Indexed`: every epoch has an order of its own."""
    rows = self.rows(_TRAIN)
    row = indexed.shuffled(len(rows), seed)
    return indexed.stacked(lambda i: self._example(*rows[row(i)], _TRAIN))

  def evaluation_examples(self, split: str) -> tuple[int, indexed.Examples]:
    """See `Indexed`: the sequences of a split in order."""
    rows = self.rows(split)
    return len(rows), indexed.stacked(lambda i: self._example(*rows[i], split))

  def baselines(self) -> dict[str, baseline.Unigram]:
    """Returns the frequencies of some labels of the training split.

    They are drawn at random, as files may have one class after another.
    """
    rows = self.rows(_TRAIN)
    chosen = np.random.default_rng(0).choice(
      len(rows), min(len(rows), _COUNTED), replace=False
    )
    labels = [self._checked(rows[i][1], _TRAIN) for i in chosen.tolist()]
    counts = np.bincount(labels, minlength=self.num_classes)
    return {'empirical baseline': baseline.unigram(counts)}

  def _checked(self, label: int, split: str) -> int:
    if not 0 <= label < self.num_classes:
      raise ValueError(
        f'labels must lie in 0..{self.num_classes - 1} (num_classes), '
        f'got {label} in the split {split!r}'
      )
    return label

  def _example(
    self, ids: Integer[np.ndarray, 'n'], label: int, split: str
  ) -> indexed.Arrays:
    """Makes one example, padded on the right."""
    kept = ids[: self.max_length - 1]
    tokens = np.full(self.max_length, PAD, np.int32)
    tokens[0] = BEGIN
    tokens[1 : kept.size + 1] = kept
    return {
      'tokens': tokens,
      'targets': np.array([self._checked(label, split)], np.int32),
      'weights': np.ones(1, np.float32),
      'mask': np.arange(self.max_length) <= kept.size,
    }
