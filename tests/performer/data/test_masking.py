import functools

import numpy as np
import pytest

from performer.data import masking, vocabulary

LENGTH = 206  # 203 residues; 0.15 * 203 = 30.45 must be rounded at random.
DRAWS = 4000


def z_score(successes, trials, probability):
  spread = np.sqrt(trials * probability * (1 - probability))
  return (successes - trials * probability) / spread


def sequence():
  ids = np.random.default_rng(5).integers(25, size=LENGTH).astype(np.int32)
  ids[[0, 60, 205]] = vocabulary.BOS, vocabulary.EOS, vocabulary.PAD
  return ids


@functools.cache
def draw(how):
  ids = sequence()
  rng = np.random.default_rng(0)
  pairs = [masking.mask_tokens(ids, rng, how) for _ in range(DRAWS)]
  inputs, targets = (np.stack(part) for part in zip(*pairs, strict=True))
  return ids, inputs, targets


def fate_z_scores(how, published):
  """z-scores of the observed shares of mask and change against `published`."""
  ids, inputs, targets = draw(how)
  standard = targets & (ids < vocabulary.NUM_STANDARD)
  hidden = (inputs == vocabulary.MASK) & standard
  changed = (inputs != ids) & standard & ~hidden
  # One random residue in twenty is the residue itself.
  expected_change = published.random * 19 / 20
  trials = standard.sum()
  return (
    z_score(hidden.sum(), trials, published.mask),
    z_score(changed.sum(), trials, expected_change),
  )


@pytest.mark.parametrize(
  ('name', 'mask', 'random'), [('bert', 0.8, 0.1), ('protein_lm', 0.1, 0.8)]
)
def test_fates_follow_the_published_shares(name, mask, random):
  published = masking.Preset(mask, random)
  for z in fate_z_scores(masking.preset(name), published):
    assert abs(z) < 4, z


def test_fate_check_catches_a_planted_bias():
  biased = masking.Preset(0.8 * 0.95, 0.1 * 1.05)
  scores = fate_z_scores(biased, masking.PRESETS['bert'])
  assert abs(scores[0]) > 4, scores


def test_rate_is_exactly_fifteen_percent_in_the_mean():
  ids, _, targets = draw(masking.PRESETS['bert'])
  residues = int((ids < vocabulary.NUM_RESIDUES).sum())
  counts = targets.sum(axis=1)
  assert set(counts.tolist()) == {30, 31}
  fraction = 0.15 * residues % 1
  ups = int((counts == int(0.15 * residues) + 1).sum())
  z = z_score(ups, DRAWS, fraction)
  assert abs(z) < 4, z
  # Rounding to nearest, the usual recipe, fails the same check.
  nearest = DRAWS * (fraction >= 0.5)
  assert abs(z_score(nearest, DRAWS, fraction)) > 4


def test_positions_are_uniform_over_residues_and_spare_the_rest():
  ids, inputs, targets = draw(masking.PRESETS['bert'])
  residue = ids < vocabulary.NUM_RESIDUES
  assert not targets[:, ~residue].any()
  np.testing.assert_array_equal(
    inputs[:, ~residue], np.broadcast_to(ids[~residue], (DRAWS, 3))
  )
  hits = targets[:, residue].sum(axis=0)
  z = z_score(hits, DRAWS, targets.sum() / DRAWS / residue.sum())
  assert np.abs(z).max() < 4.5, np.abs(z).max()  # 203 positions.
  # A crop to the first half would be caught.
  assert abs(z_score(0, DRAWS, 0.15)) > 4.5


def test_random_residues_are_uniform_over_the_standard_ones():
  _, inputs, targets = draw(masking.PRESETS['protein_lm'])
  ids = sequence()
  anomalous = targets & (ids >= vocabulary.NUM_STANDARD) & (ids < 25)
  drawn = inputs[anomalous & (inputs < vocabulary.NUM_STANDARD)]
  hits = np.bincount(drawn, minlength=vocabulary.NUM_STANDARD)
  assert hits.size == 20
  z = z_score(hits, drawn.size, 1 / 20)
  assert np.abs(z).max() < 4, z


def test_inputs_change_only_at_targets_and_the_argument_stays():
  ids = sequence()
  before = ids.copy()
  rng = np.random.default_rng(1)
  inputs, targets = masking.mask_tokens(ids, rng, masking.PRESETS['bert'])
  np.testing.assert_array_equal(ids, before)
  np.testing.assert_array_equal(inputs[~targets], ids[~targets])
  assert (inputs[targets] != ids[targets]).any()
  assert inputs.dtype == np.int32


@pytest.mark.parametrize('length', [1, 2, 6])
def test_short_sequences_keep_at_least_one_target(length):
  for seed in range(20):
    rng = np.random.default_rng(seed)
    ids = np.zeros(length, np.int32)
    _, targets = masking.mask_tokens(ids, rng, masking.PRESETS['bert'])
    assert targets.sum() == 1


def test_errors():
  with pytest.raises(ValueError, match=r"one of \['bert', 'protein_lm'\]"):
    masking.preset('brt')
  padding = np.full(4, vocabulary.PAD, np.int32)
  with pytest.raises(ValueError, match='at least one residue'):
    masking.mask_tokens(
      padding, np.random.default_rng(0), masking.PRESETS['bert']
    )
