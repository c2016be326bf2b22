"""Codes of legal tokens: against the tokens of all values."""

import jax.numpy as jnp
import numpy as np
import pytest

from hpo import spaces
from hpo.optformer import legality, quantizing, tokens, vocabulary
from tests.hpo.optformer import optformer_cases as cases

FREE = tuple(cases.MIXED.parameters[:7])
Q = quantizing.NUM_BINS


def legal(codes):
  return np.asarray(legality.is_legal(jnp.asarray(codes), Q))


@pytest.mark.parametrize('count', [2, 3, 7, 8, 24, 126, 334, 501, 999, 1000])
def test_whole_numbers_have_their_own_bins(count):
  parameter = spaces.Int('n', -3, count - 4)
  values = np.arange(parameter.low, parameter.high + 1.0)[:, None]
  known = quantizing.parameter_tokens((parameter,), values)[:, 0]
  [code] = legality.codes((parameter,), exact=True)
  assert code == Q + count
  [allowed] = legal([code])
  np.testing.assert_array_equal(np.flatnonzero(allowed), known)
  table = legality.reflected(int(code))
  np.testing.assert_array_equal(table[known], known[::-1])
  assert np.isin(table, known).all()


def test_other_parameters_have_all_bins_or_their_list():
  wide = spaces.Int('wide', 0, 1000)  # One more number than there are bins.
  log = spaces.Int('log', 1, 64, 'LOG')
  several = (*FREE[:3], *FREE[4:], wide, log)
  counts = quantizing.legal_counts(several)
  np.testing.assert_array_equal(legality.codes(several, exact=True), counts)
  np.testing.assert_array_equal(legality.codes(FREE)[3], Q)
  np.testing.assert_array_equal(legal(counts).sum(axis=1), counts)
  assert (legal(counts)[:, 0]).all()
  assert not legal([0]).any()
  np.testing.assert_array_equal(legality.reflected(3), [2, 1, 0])
  np.testing.assert_array_equal(legality.reflected(Q), np.arange(Q)[::-1])


def test_sequences_with_bins_between_whole_numbers_are_refused():
  words = vocabulary.Compact()
  parameters = (spaces.Int('n', 0, 4), spaces.Float('x', 0.0, 1.0))
  ids = words.trial_ids
  makers = [tokens.Tokenizer(words, exact=exact) for exact in (False, True)]
  for token, is_exact in ((0, True), (250, True), (251, False), (999, True)):
    rows = makers[0].rows(
      np.array([[token, 17]], np.int32), np.array([ids.first_bin], np.int32)
    )
    sequence = np.concatenate([ids.start, rows.ravel()]).astype(np.int32)
    makers[0].parse(sequence, makers[0].legal(parameters))
    if is_exact:
      makers[1].parse(sequence, makers[1].legal(parameters))
      continue
    with pytest.raises(ValueError, match='not legal at place 0 of trial 0'):
      makers[1].parse(sequence, makers[1].legal(parameters))
