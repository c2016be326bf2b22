"""Arrays of studies: index maps, masks, permutations, strict parsing."""

import dataclasses

import numpy as np
import pytest

from hpo import spaces, studies
from hpo.optformer import quantizing, tokens, vocabulary
from tests import seeds
from tests.hpo.optformer import optformer_cases as cases

MAKER = tokens.Tokenizer(
  vocabulary.Compact(), encoder_length=256, decoder_length=140
)
IDS = MAKER.ids
PERMUTED = tokens.Augmentation(permute=True, sizes=None, minimal=0.0)
LEGAL = quantizing.legal_counts(cases.MIXED.parameters[:7])


def test_arrays_are_read_back_strictly():
  study = cases.study(seeds.rng(0))
  example = MAKER.example(study, seeds.rng(1))
  parameters, objectives = MAKER.parse(example['tokens'], LEGAL)
  order = study.problem.space.free
  np.testing.assert_array_equal(parameters, MAKER.parameters(study, order))
  scale = quantizing.ObjectiveRange.of(study.gains)
  np.testing.assert_array_equal(objectives, MAKER.objectives(study, scale))
  text = MAKER.vocabulary.decode(example['metadata'].tolist())
  assert text.startswith('N:"",A:"designer_random_search"')


def test_index_maps_and_weights():
  """Kinds of targets from their positions, from scratch."""
  study = cases.study(seeds.rng(2))
  example = MAKER.example(study, seeds.rng(3))
  sequence, d, n0 = example['tokens'], 7, 1
  kinds = np.zeros(140, int)
  for t in range(len(study)):
    first = n0 + t * (d + 3)
    kinds[first : first + d] = tokens.PARAMETER
    kinds[first + d : first + d + 3] = (
      tokens.STAR,
      tokens.OBJECTIVE,
      tokens.BAR,
    )
  kinds[n0 + len(study) * (d + 3) - 1 :] = tokens.NONE  # No bar at the end.
  np.testing.assert_array_equal(example['slots'], [*kinds[1:], 0])
  np.testing.assert_array_equal(example['targets'], [*sequence[1:], 0])
  by_id = np.where(sequence == IDS.star, tokens.STAR, 0)
  by_id = np.where(sequence == IDS.bar, tokens.BAR, by_id)
  np.testing.assert_array_equal(np.isin(kinds, [2, 4]), by_id > 0)
  weights = example['weights']
  assert weights.sum() == len(study) * (d + 1)
  np.testing.assert_array_equal(weights > 0, np.isin(example['slots'], [1, 3]))
  np.testing.assert_array_equal(example['legal'] > 0, weights > 0)
  inside = example['targets'] - IDS.first_bin < example['legal']
  assert inside[weights > 0].all()


def test_longest_histories():
  assert MAKER.max_trials(7) == 14
  assert tokens.Tokenizer(vocabulary.Compact()).max_trials(18) == 1024 // 21
  study = cases.study(seeds.rng(4), count=30)
  example = MAKER.example(study, seeds.rng(5))
  parameters, objectives = MAKER.parse(example['tokens'], LEGAL)
  assert len(parameters) == 14
  # Truncated first, then normalised.
  best = np.argmax(study.gains[:14])
  assert objectives[best] == IDS.first_bin + 800
  assert objectives.max() == objectives[best]


def test_permutations_act_alike_on_metadata_and_trials():
  study = cases.study(seeds.rng(6), name='s')
  plain = MAKER.example(study, seeds.rng(7))
  names = np.array(study.problem.space.names)
  for seed in range(5):
    example = MAKER.example(study, seeds.rng(seed), PERMUTED)
    text = MAKER.vocabulary.decode(example['metadata'].tolist())
    described = [part.split('"')[1] for part in text.split('&')[2].split('*N')]
    order = [list(names).index(name) for name in described]
    assert sorted(order) == list(range(7))
    parameters, objectives = MAKER.parse(example['tokens'], LEGAL[order])
    before, values = MAKER.parse(plain['tokens'], LEGAL)
    np.testing.assert_array_equal(parameters, before[:, order])
    np.testing.assert_array_equal(objectives, values)


def test_goals_and_signs():
  study = cases.study(seeds.rng(8))
  flipped = dataclasses.replace(
    study,
    problem=dataclasses.replace(study.problem, goal='MINIMIZE'),
    values=-study.values,
  )
  one, two = (MAKER.example(s, seeds.rng(9)) for s in (study, flipped))
  for name in one:
    np.testing.assert_array_equal(one[name], two[name])


def test_random_ranges():
  study = cases.study(seeds.rng(10))
  best, worst = np.argmax(study.gains), np.argmin(study.gains)
  lows, sizes = [], []
  for seed in range(200):
    augmentation = tokens.Augmentation(permute=False)
    example = MAKER.example(study, seeds.rng(seed), augmentation)
    found = MAKER.parse(example['tokens'], LEGAL)[1] - IDS.first_bin
    assert found.max() == found[best]
    assert found.min() == found[worst]
    lows.append(found.min() / 1000)
    sizes.append((found.max() - found.min()) / 1000)
  assert min(sizes) >= 0.298
  assert max(np.array(lows) + sizes) <= 1
  # Uniform: the mean of 200 has a standard error of 0.014.
  assert abs(np.mean(sizes) - 0.65) < 0.06


def test_statuses_have_tokens():
  study = cases.study(seeds.rng(11), count=4)
  study = dataclasses.replace(
    study,
    values=np.array([1.0, np.nan, np.nan, 3.0]),
    statuses=np.array([0, 1, 2, 0], np.int8),
  )
  example = MAKER.example(study, seeds.rng(12))
  objectives = MAKER.parse(example['tokens'], LEGAL)[1]
  expected = [IDS.first_bin + 200, IDS.pending, IDS.infeasible]
  np.testing.assert_array_equal(objectives, [*expected, IDS.first_bin + 800])
  assert example['weights'].sum() == 4 * 8 - 1  # Pending values do not count.
  worst = dataclasses.replace(MAKER, infeasible_token=False)
  example = worst.example(study, seeds.rng(13))
  objectives = MAKER.parse(example['tokens'], LEGAL)[1]
  np.testing.assert_array_equal(
    objectives - IDS.first_bin, [200, IDS.pending - IDS.first_bin, 200, 800]
  )


def test_hidden_objectives_and_short_studies():
  study = cases.study(seeds.rng(14))
  augmentation = tokens.Augmentation(prefixes=1.0, pending=1.0)
  lengths = set()
  for seed in range(100):
    example = MAKER.example(study, seeds.rng(seed), augmentation)
    trials = (example['slots'] == tokens.OBJECTIVE).sum()
    lengths.add(int(trials))
    assert example['weights'].sum() == trials * 7
  assert lengths == set(range(1, 13))


def test_hidden_extremes_do_not_move_the_others():
  study = cases.study(seeds.rng(7), count=6)
  values = np.array([0.0, 1.0, 2.0, 100.0, 3.0, 1.5])
  study = dataclasses.replace(study, values=values)
  hiding = tokens.Augmentation(permute=False, sizes=None, pending=0.5)
  seen = 0
  for seed in range(20):
    example = MAKER.example(study, np.random.default_rng(seed), hiding)
    _, objectives = MAKER.parse(example['tokens'], LEGAL)
    known = objectives != IDS.pending
    if known.any() and not known[3]:
      scale = quantizing.ObjectiveRange.of(values[known] * study.problem.sign)
      shown = study.take(known)
      np.testing.assert_array_equal(
        objectives[known], MAKER.objectives(shown, scale)
      )
      seen += 1
  assert seen > 3


def test_infeasible_trials_of_a_constant_study_count_as_its_value():
  plain = dataclasses.replace(MAKER, infeasible_token=False)
  study = cases.study(seeds.rng(8), count=3)
  study = dataclasses.replace(
    study,
    values=np.array([5.0, np.nan, 5.0]),
    statuses=np.array(
      [studies.COMPLETED, studies.INFEASIBLE, studies.COMPLETED], np.int8
    ),
  )
  scale = quantizing.ObjectiveRange.of(study.gains)
  assert len(set(plain.objectives(study, scale).tolist())) == 1


def test_an_empty_sequence_is_no_study():
  with pytest.raises(ValueError, match='must be'):
    MAKER.parse(np.zeros(0, np.int32), LEGAL)
  parameters, objectives = MAKER.parse(np.array([*IDS.start, 0, 0]), LEGAL)
  assert len(parameters) == len(objectives) == 0


@pytest.mark.parametrize(
  ('place', 'value'),
  [(0, 5), (1, 3), (6, 11), (8, 3), (9, 2), (10, 2), (1, 1008), (9, 0)],
)
def test_illegal_ids_are_refused(place, value):
  study = cases.study(seeds.rng(15), count=2)
  sequence = MAKER.example(study, seeds.rng(16))['tokens']
  MAKER.parse(sequence, LEGAL)
  sequence[place] = value
  with pytest.raises(ValueError, match=r'legal|must be'):
    MAKER.parse(sequence, LEGAL)


def test_what_does_not_fit_is_refused():
  study = cases.study(seeds.rng(17))
  short = dataclasses.replace(MAKER, encoder_length=8)
  with pytest.raises(ValueError, match='fit 8 encoder tokens'):
    short.example(study, seeds.rng(0))
  tiny = dataclasses.replace(MAKER, decoder_length=9)
  with pytest.raises(ValueError, match='needs a trial'):
    tiny.example(study, seeds.rng(0))
  fixed = spaces.Space((spaces.Float('x', 1.0, 1.0),))
  with pytest.raises(ValueError, match='fixed'):
    MAKER.example(cases.study(seeds.rng(0), fixed), seeds.rng(0))
  with pytest.raises(ValueError, match='sizes'):
    tokens.Augmentation(sizes=(0.0, 1.0))
  with pytest.raises(ValueError, match='pending'):
    tokens.Augmentation(pending=2.0)


def test_usable_studies():
  study = cases.study(seeds.rng(18))
  assert tokens.is_usable(study)
  assert not tokens.is_usable(study, least=13)
  assert not tokens.is_usable(
    dataclasses.replace(study, values=np.ones(len(study)))
  )
  assert tokens.is_usable(study, bins=3)
  assert not tokens.is_usable(study, bins=2)  # The texts are three.
  infeasible = np.full(len(study), studies.INFEASIBLE, np.int8)
  assert not tokens.is_usable(
    dataclasses.replace(
      study, values=np.full(len(study), np.nan), statuses=infeasible
    )
  )
