"""Baselines that look at no context.

A baseline predicts from a table: one distribution over the vocabulary for every
target (`Unigram`), for every input token (`TokenWise`) or for every position
(`PositionWise`). It is scored on the very targets and weights that a model is
scored on.

The empirical baseline of the published tables is `unigram` of what a model has
to predict, counted over the training split (arXiv:2009.14794, Table 2 and
Appendix C.3). Which baselines make sense for a data set, the set itself knows:
`performer.data.dataset.DataSet.baselines`.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int, Real

from runtime.data import indexed

__all__ = ['PositionWise', 'Scores', 'TokenWise', 'Unigram', 'unigram']

# Describes a valid target in messages, unless the data set does.
_POSSIBLE = 'ids of positive probability'


@dataclasses.dataclass(frozen=True)
class Scores:
  """Weighted means over the targets of one set.

  Attributes:
    accuracy: share of targets predicted right, 0..1.
    loss: negative log likelihood per target, nats.
    perplexity: exp(loss), not clipped.
    weight: total weight, the number of targets.
  """

  accuracy: float
  loss: float
  perplexity: float
  weight: float


@dataclasses.dataclass(frozen=True, eq=False)
class Unigram:
  """A constant distribution over token ids.

  Attributes:
    probabilities: float64 [vocab], sum 1; 0 for ids that are never targets.
    targets: description of a valid target, for error messages.
  """

  probabilities: Float[np.ndarray, 'vocab']
  targets: str = _POSSIBLE

  def evaluate(self, batches: Iterable[indexed.Arrays]) -> Scores:
    """Scores the baseline on the targets of evaluation batches.

    Args:
      batches: dicts with `targets` int32 [b, l] and `weights` float32 [b, l].

    Returns:
      Means over all batches, weighted by `weights`.

    Raises:
      ValueError: the weights sum to zero, or a weighted target is an id the
        baseline gives no probability (padding, for one).
    """
    return _evaluate(
      self.probabilities[None],
      lambda batch: np.zeros_like(batch['targets']),
      batches,
      self.targets,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class TokenWise:
  """A distribution over token ids for each input token.

  Attributes:
    probabilities: float64 [vocab, vocab]; row s is the distribution of the
      target where the input is s.
    targets: description of a valid target, for error messages.
  """

  probabilities: Float[np.ndarray, 'vocab vocab']
  targets: str = _POSSIBLE

  def evaluate(self, batches: Iterable[indexed.Arrays]) -> Scores:
    """See `Unigram.evaluate`; the batches must hold `tokens` [b, l] too."""
    return _evaluate(
      self.probabilities, lambda batch: batch['tokens'], batches, self.targets
    )


@dataclasses.dataclass(frozen=True, eq=False)
class PositionWise:
  """A distribution over token ids for each position.

  Attributes:
    probabilities: float64 [l, vocab]; row i is the distribution of target i.
    targets: description of a valid target, for error messages.
  """

  probabilities: Float[np.ndarray, 'l vocab']
  targets: str = _POSSIBLE

  def evaluate(self, batches: Iterable[indexed.Arrays]) -> Scores:
    """See `Unigram.evaluate`; targets must not be longer than the table."""

    def positions(batch: indexed.Arrays) -> Int[np.ndarray, 'b l']:
      shape = batch['targets'].shape
      return np.broadcast_to(np.arange(shape[1]), shape)

    return _evaluate(self.probabilities, positions, batches, self.targets)


def unigram(
  counts: Real[np.ndarray, 'vocab'], *, pseudocount: float = 1.0
) -> Unigram:
  """The token frequencies of given counts.

  Args:
    counts: of each token id, [vocab], >= 0.
    pseudocount: added to each count, so that a token absent from a small
      training set has a finite loss elsewhere.

  Returns:
    The fitted baseline.

  Raises:
    ValueError: the pseudocount is negative, or there is nothing to divide by.
  """
  if pseudocount < 0:
    raise ValueError(f'pseudocount must be >= 0, got {pseudocount=}')
  smoothed = counts + float(pseudocount)
  total = smoothed.sum()
  if not total > 0:
    raise ValueError(f'counts must have a positive sum, got {total=}')
  return Unigram(smoothed / total)


def _evaluate(
  table: Float[np.ndarray, 'rows vocab'],
  rows_of: Callable[[indexed.Arrays], np.ndarray],
  batches: Iterable[indexed.Arrays],
  possible: str,
) -> Scores:
  """Scores a table of predictions; `rows_of` a batch are rows of it [b, l]."""
  weights = np.zeros(table.size)
  for batch in batches:
    ids = rows_of(batch), batch['targets']
    _check_ids(table.shape, *ids)
    weights += np.bincount(
      np.ravel_multi_index(ids, table.shape).ravel(),
      batch['weights'].ravel().astype(np.float64),
      minlength=table.size,
    )
  weights = weights.reshape(table.shape)
  used = weights > 0
  if not used.any():
    raise ValueError('the batches must hold a target of weight > 0, got none')
  if not table[used].all():
    impossible = np.unique(np.nonzero(used & (table == 0))[1]).tolist()
    raise ValueError(f'targets must be {possible}, got ids {impossible}')
  total = weights.sum()
  loss = -weights[used] @ np.log(table[used]) / total
  hits = weights[np.arange(len(table)), table.argmax(axis=1)].sum()
  return Scores(
    accuracy=float(hits / total),
    loss=float(loss),
    perplexity=float(np.exp(loss)),
    weight=float(total),
  )


def _check_ids(
  shape: tuple[int, int], rows: np.ndarray, targets: np.ndarray
) -> None:
  """Raises unless a table of that shape has a cell for every target."""
  worst = tuple(int(ids.max(initial=0)) for ids in (rows, targets))
  if worst[0] >= shape[0] or worst[1] >= shape[1]:
    raise ValueError(
      'the batches must fit the table of the baseline,'
      f' got {shape=} for (row, target) up to {worst}'
    )
