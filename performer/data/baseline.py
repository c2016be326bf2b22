"""The empirical baseline: predict every residue from its overall frequency.

The baseline of the published tables. It is fitted on what a model has to
predict and nothing else (residues, and end symbols where a causal model
predicts them; never padding or masks), and scored on the very targets and
weights that a model is scored on.

Reference: arXiv:2009.14794, Table 2 and Appendix C.3.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from performer.data import examples, proteins, vocabulary

__all__ = ['Scores', 'Unigram', 'fit']


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
    probabilities: float64 [29], sum 1; 0 for ids that are never targets.
  """

  probabilities: Float[np.ndarray, '29']

  def evaluate(self, batches: Iterable[examples.Example]) -> Scores:
    """Scores the baseline on the targets of evaluation batches.

    Args:
      batches: dicts with `targets` int32 [b, l] and `weights` float32 [b, l].

    Returns:
      Means over all batches, weighted by `weights`.

    Raises:
      ValueError: the weights sum to zero, or a weighted target is an id the
        baseline gives no probability (padding, for one).
    """
    weights = np.zeros(vocabulary.SIZE)
    for batch in batches:
      weights += np.bincount(
        batch['targets'].ravel(),
        batch['weights'].ravel().astype(np.float64),
        minlength=vocabulary.SIZE,
      )
    used = weights > 0
    if not used.any():
      raise ValueError('the batches must hold a target of weight > 0, got none')
    if not self.probabilities[used].all():
      impossible = np.flatnonzero(used & (self.probabilities == 0)).tolist()
      raise ValueError(f'targets must be residues, got ids {impossible}')
    total = weights.sum()
    loss = -weights[used] @ np.log(self.probabilities[used]) / total
    guess = np.argmax(self.probabilities)
    return Scores(
      accuracy=float(weights[guess] / total),
      loss=float(loss),
      perplexity=float(np.exp(loss)),
      weight=float(total),
    )


def fit(data: proteins.Proteins, *, pseudocount: float = 1.0) -> Unigram:
  """Counts the tokens of the training split.

  Args:
    data: the data set; of it all training residues count, also those that
      cropping hides from a model.
    pseudocount: added to each count, so that a residue absent from a small
      training set (`O` occurs in few proteins) has a finite loss elsewhere.

  Returns:
    The fitted baseline.

  Raises:
    FileNotFoundError: the training file does not exist.
    ValueError: the pseudocount is negative or the training file malformed.
  """
  if pseudocount < 0:
    raise ValueError(f'pseudocount must be >= 0, got {pseudocount=}')
  possible = np.arange(vocabulary.SIZE) < vocabulary.NUM_RESIDUES
  possible[vocabulary.EOS] = data.concatenate and data.task == 'causal'
  counts = np.where(possible, data.token_counts('train') + pseudocount, 0.0)
  return Unigram(counts / counts.sum())
