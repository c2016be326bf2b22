"""Baselines that look at no context.

The empirical baseline of the published tables predicts every residue from its
overall frequency. It is fitted on what a model has to predict and nothing else
(residues, and end symbols where a causal model predicts them; never padding or
masks), and scored on the very targets and weights that a model is scored on.

Masked language models have a second one, which is harder to beat: BERT's recipe
leaves a tenth of the targets in sight, and who copies what stands there gains
nine points of accuracy without any knowledge of proteins. `TokenWise` is the
best prediction from the input token alone.

Reference: arXiv:2009.14794, Table 2 and Appendix C.3.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from performer.data import examples, masking, proteins, vocabulary

__all__ = ['Scores', 'TokenWise', 'Unigram', 'all_baselines', 'fit']


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
      batches: dicts with `tokens` and `targets` int32 [b, l] and `weights`
        float32 [b, l].

    Returns:
      Means over all batches, weighted by `weights`.

    Raises:
      ValueError: the weights sum to zero, or a weighted target is an id the
        baseline gives no probability (padding, for one).
    """
    table = np.broadcast_to(self.probabilities, (vocabulary.SIZE,) * 2)
    return _evaluate(table, batches)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenWise:
  """A distribution over token ids for each input token.

  Attributes:
    probabilities: float64 [29, 29]; row s is the distribution of the target
      where the input is s.
  """

  probabilities: Float[np.ndarray, '29 29']

  @classmethod
  def of_masking(cls, unigram: Unigram, how: masking.Preset) -> 'TokenWise':
    """The posterior of a masked residue given what stands in its place.

    Args:
      unigram: frequencies of the residues.
      how: what masking puts in their place.
    """
    prior = unigram.probabilities
    joint = np.zeros((vocabulary.SIZE, vocabulary.SIZE))
    joint[vocabulary.MASK] = how.mask * prior
    joint[: vocabulary.NUM_STANDARD] = (
      how.random * prior / vocabulary.NUM_STANDARD
    )
    keep = 1 - how.mask - how.random
    joint[np.diag_indices(vocabulary.SIZE)] += keep * prior
    # Inputs that never stand for a residue keep the prior, as a formality.
    seen = joint.sum(axis=1, keepdims=True)
    return cls(np.where(seen > 0, joint, prior) / np.where(seen > 0, seen, 1))

  def evaluate(self, batches: Iterable[examples.Example]) -> Scores:
    """As `Unigram.evaluate`; the batches must hold `tokens` too."""
    return _evaluate(self.probabilities, batches)


def _evaluate(
  table: Float[np.ndarray, '29 29'], batches: Iterable[examples.Example]
) -> Scores:
  """Scores predictions that depend on the input token alone."""
  size = vocabulary.SIZE
  weights = np.zeros(size * size)
  for batch in batches:
    pairs = batch['tokens'].ravel() * size + batch['targets'].ravel()
    weights += np.bincount(
      pairs, batch['weights'].ravel().astype(np.float64), minlength=size * size
    )
  weights = weights.reshape(size, size)
  used = weights > 0
  if not used.any():
    raise ValueError('the batches must hold a target of weight > 0, got none')
  if not table[used].all():
    impossible = np.unique(np.nonzero(used & (table == 0))[1]).tolist()
    raise ValueError(f'targets must be residues, got ids {impossible}')
  total = weights.sum()
  loss = -weights[used] @ np.log(table[used]) / total
  hits = weights[np.arange(size), table.argmax(axis=1)].sum()
  return Scores(
    accuracy=float(hits / total),
    loss=float(loss),
    perplexity=float(np.exp(loss)),
    weight=float(total),
  )


def all_baselines(
  data: proteins.Proteins,
) -> dict[str, Unigram | TokenWise]:
  """The baselines that make sense for the task of a data set, by name."""
  unigram = fit(data)
  found = {'empirical baseline': unigram}
  if data.task == 'mlm':
    how = masking.preset(data.masking or 'bert')
    found['empirical, copying'] = TokenWise.of_masking(unigram, how)
  return found


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
