"""Similar residues: the table of BLOSUM62, and attention beside it."""

import numpy as np
import pytest

from performer import residues
from performer.data import blosum, vocabulary
from tests import seeds


def test_blosum62_is_the_table():
  scores = blosum.blosum62()
  np.testing.assert_array_equal(scores, scores.T)
  place = vocabulary.SYMBOLS.index
  for pair, score in (('WW', 11), ('DE', 2), ('FY', 3), ('CE', -4), ('IV', 3)):
    assert scores[place(pair[0]), place(pair[1])] == score
  assert scores.trace() == 116


def test_similarity_is_attention_over_its_expectation():
  """Residues that attend to their like by BLOSUM62, and those that do not."""
  ids = seeds.rng(0).integers(0, 20, 300)
  weights = 5.0 + blosum.blosum62()[ids][:, ids]
  maps = (weights / weights.sum(-1, keepdims=True))[None]
  sums = residues.pair_sums(maps, ids)
  assert sums[0].sum() == pytest.approx(sums[1].sum())
  assert residues.correlation(residues.similarity(sums)) > 0.95
  alike = np.full((1, 300, 300), 1 / 300)
  ratios = residues.similarity(residues.pair_sums(alike, ids))
  np.testing.assert_allclose(ratios, 1)
