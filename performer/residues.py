"""Which amino acids a protein model's attention takes for similar.

Attention from residue a to residue b, over what the frequencies of b would give,
is compared with BLOSUM62 (arXiv:2009.14794, Fig. 13; this normalisation is our
choice).
"""

import numpy as np
from jaxtyping import Float, Int

from performer.data import blosum, vocabulary

__all__ = ['correlation', 'pair_sums', 'similarity']

_STANDARD = vocabulary.NUM_STANDARD


def pair_sums(
  maps: Float[np.ndarray, 'n l l'], ids: Int[np.ndarray, 'l']
) -> Float[np.ndarray, '2 20 20']:
  """Attention by residues of query and key, found and expected.

  Args:
    maps: attention matrices of a sequence.
    ids: its tokens, residues and others.

  Returns:
    Sums over matrices and pairs of different positions: of attention, and of
    what each row would give if it attended to the other positions alike.
  """
  one_hot = np.zeros((ids.size, _STANDARD))
  known = ids < _STANDARD
  one_hot[np.flatnonzero(known), ids[known]] = 1
  apart = 1 - np.eye(ids.size)
  away = maps.sum(0) * apart
  share = away.sum(-1, keepdims=True) / (ids.size - 1) * apart
  return np.stack([one_hot.T @ x @ one_hot for x in (away, share)])


def similarity(
  sums: Float[np.ndarray, '2 20 20'],
) -> Float[np.ndarray, '20 20']:
  """Attention over its expectation, symmetric; NaN for residues not met."""
  found, expected = sums + np.swapaxes(sums, 1, 2)
  with np.errstate(invalid='ignore', divide='ignore'):
    return found / expected


def correlation(ratios: Float[np.ndarray, '20 20']) -> float:
  """Pearson's correlation with BLOSUM62 over pairs of different residues."""
  above = np.triu_indices(_STANDARD, 1)
  values, scores = ratios[above], blosum.blosum62()[above]
  known = np.isfinite(values)
  return float(np.corrcoef(values[known], scores[known])[0, 1])
