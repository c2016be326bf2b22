"""Suggestions of a model with random weights: legal, new, reproducible."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo import spaces, studies
from hpo.optformer import (
  acquisitions,
  bbob_problems,
  decoding,
  histories,
  predicting,
  quantizing,
  suggesting,
  trained,
  views,
)
from tests import seeds
from tests.hpo.optformer import optformer_cases as cases

MIXED = studies.Problem(
  spaces.Space((*cases.MIXED.parameters[4:], cases.MIXED.parameters[1])),
  'MINIMIZE',
)
# As many parameters as above, without whole numbers.
REAL = spaces.Space((*cases.MIXED.parameters[:3], cases.MIXED.parameters[6]))
SMALL = studies.Problem(
  spaces.Space((spaces.Categorical('a', ('0', '1')), spaces.Int('b', 1, 3)))
)
POLICY = suggesting.Policy(num_candidates=16)
FIXED = dataclasses.replace(POLICY, permute=False)


@pytest.fixture(scope='module')
def made(untrained):
  return untrained(48, 60)


@pytest.fixture(scope='module')
def suggest(made):
  """Suggests after some trials, by the number of a key."""

  def run(problem, before, key=0, *, made=made, policy=FIXED, **options):
    drawn = jax.random.key(key)
    return suggesting.suggest(
      made, problem, before, drawn, policy=policy, **options
    )

  return run


def trials(problem, count, seed=0):
  rng = seeds.rng(seed)
  codes = problem.space.sample(rng, count)
  return [
    studies.Trial(problem.space.point(row), float(rng.normal()))
    for row in codes
  ]


@pytest.mark.parametrize('count', [0, 1, 5])
@pytest.mark.parametrize(
  'score', [acquisitions.EI(), acquisitions.Prior()], ids=['EI', 'Prior']
)
def test_suggestions_are_legal_and_new(suggest, count, score):
  policy = dataclasses.replace(POLICY, acquisition=score)
  before = trials(MIXED, count)
  found = suggest(MIXED, before, count=3, policy=policy)
  assert len(found.points) == len(found.scores) == 3
  codes = [tuple(MIXED.space.codes(point)) for point in found.points]
  assert len(set(codes)) == 3
  assert not set(codes) & {
    tuple(MIXED.space.codes(t.parameters)) for t in before
  }
  assert all(point['fixed'] == 2.0 for point in found.points)
  again = suggest(MIXED, before, count=3, policy=policy)
  assert again.points == found.points
  other = suggest(MIXED, before, 1, count=3, policy=policy)
  assert other.points != found.points


def test_without_objectives_the_policy_alone_counts(suggest):
  prior = dataclasses.replace(FIXED, acquisition=acquisitions.Prior())
  infeasible = [
    studies.Trial(t.parameters, None, 'INFEASIBLE') for t in trials(MIXED, 2)
  ]
  for before in ([], infeasible):
    one, two = (
      suggest(MIXED, before, count=3, policy=policy)
      for policy in (FIXED, prior)
    )
    assert one.points == two.points


def test_a_known_history_only_saves_time(made, monkeypatch):
  before = trials(MIXED, 6)
  # Within the range of the others, whose bins stay.
  before[5] = before[5]._replace(value=before[0].value)
  suggest = functools.partial(suggesting.suggest, made, MIXED, policy=FIXED)
  first = suggest(before[:5], jax.random.key(0))
  fresh = suggest(before, jax.random.key(1))
  monkeypatch.setattr(decoding, 'read', None)
  grown = suggest(before, jax.random.key(1), history=first.history)
  assert grown.points == fresh.points


def test_goals_are_flipped_in_one_place(suggest, made):
  before = trials(MIXED, 5)
  maximize = dataclasses.replace(MIXED, goal='MAXIMIZE')
  flipped = [t._replace(value=-t.value) for t in before]
  one = suggest(MIXED, before)
  two = suggest(maximize, flipped)
  assert one.points == two.points
  points = [t.parameters for t in before]
  one = predicting.predict(made, MIXED, before, points)
  two = predicting.predict(made, maximize, flipped, points)
  np.testing.assert_allclose(one.mean, -two.mean)
  np.testing.assert_allclose(one.stddev, two.stddev)
  np.testing.assert_allclose(one.probabilities.sum(axis=1), 1)


def test_small_spaces_are_tried_out_and_then_repeated(suggest):
  seen = []
  for number in range(6):
    found = suggest(SMALL, seen, number)
    seen.append(studies.Trial(found.points[0], float(number)))
  codes = {tuple(SMALL.space.codes(t.parameters)) for t in seen}
  assert len(codes) == 6
  found = suggest(SMALL, seen, 9)
  assert (found.random, found.hot) == (1, 0)
  assert found.repeated == 32
  noisy = dataclasses.replace(FIXED, noisy=True)
  found = suggest(SMALL, seen, 9, policy=noisy)
  assert (found.random, found.repeated) == (0, 0)
  found = suggest(SMALL, seen, 9, count=6, policy=noisy)
  codes = {tuple(SMALL.space.codes(point)) for point in found.points}
  assert len(codes) == 6


@pytest.mark.parametrize('pending', ['liar', 'sample', 'token'])
def test_running_trials_count(suggest, made, pending):
  made = dataclasses.replace(made, knows_pending=True)
  policy = dataclasses.replace(FIXED, pending=pending)
  before = trials(MIXED, 5)
  running = [*before[:4], studies.Trial(before[4].parameters, None, 'PENDING')]
  found = suggest(MIXED, running, count=2, policy=policy, made=made)
  read = made.tokenizer.ids
  ids = found.history.tokens[0]
  width = 4 + 3
  objectives = ids[1:].reshape(-1, width)[:, -2]
  assert len(objectives) == 6
  assert (objectives[:4] >= read.first_bin).all()
  if pending == 'token':
    assert (objectives[4:] == read.pending).all()
  else:
    assert (objectives[4:] >= read.first_bin).all()
  if pending == 'liar':
    lie = objectives[:4].mean()
    np.testing.assert_allclose(objectives[4:], lie, atol=1)


def test_running_trials_are_drawn_from_the_mean_over_views(
  suggest, made, monkeypatch
):
  certain = np.full(1000, -1e9)
  certain[123] = 0.0
  monkeypatch.setattr(
    views,
    'log_probabilities',
    lambda trained, read, found, given: np.tile(certain, (len(given), 1)),
  )
  policy = dataclasses.replace(FIXED, pending='sample', views=2)
  before = trials(MIXED, 5)
  running = [*before[:4], studies.Trial(before[4].parameters, None, 'PENDING')]
  found = suggest(MIXED, running, policy=policy)
  assert found.history.tokens[0][-2] == made.tokenizer.ids.first_bin + 123


def test_long_studies_keep_first_best_and_latest():
  gains = np.full(60, np.nan)
  gains[10:50] = seeds.rng(0).normal(size=40)
  kept = histories.kept_rows(gains, 30)
  assert len(kept) == len(set(kept)) == 30
  assert (np.diff(kept) > 0).all()
  ranked = np.argsort(-gains[10:50]) + 10
  assert {*range(5), *ranked[:10], *range(48, 60)} <= set(kept.tolist())
  np.testing.assert_array_equal(histories.kept_rows(gains, 60), np.arange(60))
  kept = histories.kept_rows(gains, 20)
  assert {*range(5), *ranked[:10]} <= set(kept.tolist())
  assert len(kept) == 20
  kept = histories.kept_rows(gains, 6)
  assert {0, 1, *ranked[:2], 58, 59} == set(kept.tolist())
  assert len(histories.kept_rows(gains, 4)) == 4
  assert len(histories.kept_rows(gains, 0)) == 0


def test_long_studies_are_normalised_whole(suggest, made):
  study = cases.study(seeds.rng(1), MIXED.space, 40)
  read = histories.reading(made, study, study.problem.space.free)
  assert len(read.objectives) == 60 // 7 - 1
  whole = made.tokenizer.objectives(
    study, quantizing.ObjectiveRange.of(study.gains)
  )
  kept = histories.kept_rows(study.gains, 60 // 7 - 1)
  np.testing.assert_array_equal(read.objectives, whole[kept])
  found = suggest(study.problem, study.trials)
  assert len(found.points) == 1
  assert found.history.tokens.size == 1 + 7 * (60 // 7 - 1)
  found = suggest(study.problem, study.trials, count=3)
  assert found.history.tokens.size == 1 + 7 * (60 // 7 - 1)
  with pytest.raises(ValueError, match='needs 7 tokens'):
    histories.reading(made, study, study.problem.space.free, max_tokens=6)


def test_many_running_trials_leave_finished_ones_their_half(suggest, made):
  before = trials(MIXED, 12)
  running = [
    studies.Trial(t.parameters, None, 'PENDING') for t in trials(MIXED, 9, 1)
  ]
  found = suggest(MIXED, before + running, count=2)
  # Of 8 trials that fit, one is the candidate.
  rows = found.history.tokens[0, 1:].reshape(-1, 7)
  assert len(rows) == 7
  study = studies.Study.of(MIXED, before + running)
  order = MIXED.space.free
  tokens_of = made.tokenizer.parameters(study, order) + 8
  kept = histories.kept_rows(study.gains[:12], 4)
  np.testing.assert_array_equal(rows[:4, :4], tokens_of[kept])
  # The latest two that run, then the first suggestion.
  np.testing.assert_array_equal(rows[4:6, :4], tokens_of[-2:])


def test_the_liar_says_the_mean_of_the_whole_study(made):
  before = [
    t._replace(value=float(value))
    for t, value in zip(trials(MIXED, 40), [0] * 20 + [1] * 20, strict=True)
  ]
  study = studies.Study.of(MIXED, before)
  read = histories.reading(made, study, MIXED.space.free)
  assert read.mean == 500
  # Most of the trials that are kept are of the worse half.
  assert (read.objectives - 8).mean() < 400


def test_text_that_is_too_long_loses_names_and_is_read_all_the_same(
  suggest, made
):
  told = dataclasses.replace(made, minimal=False)
  study = cases.study(seeds.rng(0), MIXED.space, 4)
  order = study.problem.space.free
  read = histories.reading(told, study, order)
  short = histories.reading(made, study, order)
  np.testing.assert_array_equal(read.metadata, short.metadata)
  one = spaces.Space((spaces.Float('x', 0.0, 1.0),))
  study = cases.study(seeds.rng(0), one, 4)
  read = histories.reading(told, study, (0,))
  short = histories.reading(made, study, (0,))
  assert (read.metadata != short.metadata).any()
  wide = spaces.Space(tuple(spaces.Float(f'x{i}', 0, 1) for i in range(16)))
  # Without names it is still too long.
  study = cases.study(seeds.rng(0), wide, 4)
  read = histories.reading(told, study, wide.free, max_tokens=100)
  whole = dataclasses.replace(told.tokenizer, encoder_length=200)
  expected = whole.metadata(study.problem, wide.free, minimal=True)
  length = told.tokenizer.encoder_length
  assert length < (expected != 0).sum() < len(read.metadata) == 2 * length
  np.testing.assert_array_equal(
    np.trim_zeros(read.metadata), np.trim_zeros(expected)
  )
  found = suggest(
    study.problem,
    study.trials,
    policy=dataclasses.replace(POLICY, num_candidates=4, max_tokens=100),
    made=told,
  )
  assert len(found.points[0]) == 16


def test_scores_are_those_of_forecasts(suggest, made):
  """EI of the forecast at the suggested point, by hand."""
  # Without whole numbers, whose draws are rounded after they are scored.
  problem = dataclasses.replace(MIXED, space=REAL)
  before = trials(problem, 5)
  found = suggest(problem, before)
  forecast = predicting.predict(made, problem, before, found.points)
  gains = np.maximum(np.arange(1000) - 800, 0)
  expected = forecast.probabilities[0] @ gains
  np.testing.assert_allclose(found.scores, expected, rtol=1e-4)


def test_scores_are_those_of_forecasts_averaged_over_views(made):
  problem = dataclasses.replace(
    MIXED, space=REAL, algorithm='designer_recursive_gp'
  )
  before, key = trials(problem, 5), jax.random.key(3)
  policy = dataclasses.replace(FIXED, views=3)
  found = suggesting.suggest(made, problem, before, key, policy=policy)
  # The views that the call drew.
  read = histories.reading(made, studies.Study.of(problem, before), REAL.free)
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
  drawn = views.drawn(made, problem, read, 3, rng)
  asked = studies.Study.of(
    problem, [studies.Trial(found.points[0], None, 'PENDING')]
  )
  given = made.tokenizer.parameters(asked, REAL.free)
  chances = np.exp(views.log_probabilities(made, read, drawn, given)[0])
  expected = chances @ np.maximum(np.arange(1000) - read.best, 0)
  np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
  one = suggesting.suggest(made, problem, before, key, policy=FIXED)
  assert abs(one.scores[0] - expected) > 1e-3
  with pytest.raises(ValueError, match='views must be positive'):
    dataclasses.replace(FIXED, views=0)


def test_the_usual_policy_depends_on_the_space(made, monkeypatch):
  four = spaces.Space((*cases.MIXED.parameters[:4], cases.MIXED.parameters[-1]))
  small = suggesting.usual(four)
  assert (small.views, small.acquisition) == (1, acquisitions.UCB(0.9))
  usual = suggesting.usual(cases.MIXED)
  assert (usual.views, usual.acquisition) == (8, acquisitions.UCB(0.9))
  few = dataclasses.replace(POLICY, views=3)
  monkeypatch.setattr(suggesting, 'usual', {MIXED.space: few}.get)
  before, key = trials(MIXED, 3), jax.random.key(0)
  found, expected, other = (
    suggesting.suggest(made, MIXED, before, key, policy=policy)
    for policy in (None, few, POLICY)
  )
  assert found.points == expected.points
  assert found.scores == expected.scores
  assert found.scores != other.scores


def test_lists_longer_than_those_of_training_are_told_as_whole_numbers(
  suggest, made
):
  long = spaces.Discrete('long', tuple(2.0**i for i in range(5)))
  short = spaces.Discrete('short', (1, 3, 4, 9))
  names = spaces.Categorical('names', tuple('abcdef'))
  others = short, names, cases.MIXED.parameters[1]
  listed = studies.Problem(spaces.Space((long, *others)), 'MINIMIZE')
  whole = dataclasses.replace(
    listed, space=spaces.Space((spaces.Int('long', 0, 4), *others))
  )
  made = dataclasses.replace(made, longest_list=4)
  before = trials(listed, 6)
  as_whole = [
    t._replace(parameters=whole.space.point(listed.space.codes(t.parameters)))
    for t in before
  ]
  points, asked = [], []
  for problem, known in ((listed, before), (whole, as_whole)):
    found = suggest(problem, known, count=3, policy=POLICY, made=made)
    points.append([problem.space.codes(p).tolist() for p in found.points])
    forecast = predicting.predict(made, problem, known, found.points, views=3)
    asked.append(forecast.probabilities)
  assert points[0] == points[1]
  np.testing.assert_array_equal(*asked)
  plain = predicting.predict(
    dataclasses.replace(made, longest_list=None),
    listed,
    before,
    [listed.space.point(np.array(p)) for p in points[0]],
    views=3,
  )
  assert np.abs(plain.probabilities - asked[0]).max() > 1e-6


def test_a_file_holds_a_model(suggest, made, tmp_path):
  made = dataclasses.replace(
    made,
    tokenizer=dataclasses.replace(made.tokenizer, exact=True),
    temperature=1.3,
    algorithm='mine',
    longest_list=3,
    algorithms=('mine', 'other'),
  )
  trained.save(tmp_path / 'model.msgpack', made)
  again = trained.load(tmp_path / 'model.msgpack')
  assert again.tokenizer == made.tokenizer
  assert again.model == made.model
  assert (again.temperature, again.algorithm) == (1.3, 'mine')
  assert again.longest_list == 3
  assert again.algorithms == ('mine', 'other')
  assert trained.shipped().longest_list == bbob_problems.MOST_LISTED
  before = trials(MIXED, 5)
  one, two = (suggest(MIXED, before, made=m) for m in (made, again))
  assert one.points == two.points
  policy = dataclasses.replace(FIXED, algorithm='nobody')
  with pytest.raises(ValueError, match=r"'mine', 'other'.*got 'nobody'"):
    suggest(MIXED, [], policy=policy, made=again)
  with pytest.raises(ValueError, match="got 'designer'"):
    dataclasses.replace(again, algorithm='designer')


def test_the_algorithm_is_that_of_the_model_unless_a_policy_names_one(made):
  before = trials(MIXED, 5)

  def scores(algorithm, named=None):
    model = dataclasses.replace(made, algorithm=algorithm)
    policy = dataclasses.replace(FIXED, algorithm=named)
    key = jax.random.key(0)
    return suggesting.suggest(model, MIXED, before, key, policy=policy).scores

  one, other = 'designer_random_search', 'designer_hill_climb'
  assert scores(one) == scores(other, one) != scores(other)
  forecasts = [
    predicting.predict(
      dataclasses.replace(made, algorithm=algorithm),
      dataclasses.replace(MIXED, algorithm=named),
      before,
      [before[0].parameters],
    ).probabilities
    for algorithm, named in ((one, ''), (other, one), (other, ''))
  ]
  np.testing.assert_array_equal(forecasts[0], forecasts[1])
  assert (forecasts[0] != forecasts[2]).any()


def test_what_cannot_be_suggested_is_refused(made):
  key = jax.random.key(0)
  fixed = studies.Problem(spaces.Space((spaces.Float('x', 1.0, 1.0),)))
  with pytest.raises(ValueError, match='fixed'):
    suggesting.suggest(made, fixed, [], key)
  with pytest.raises(ValueError, match='count'):
    suggesting.suggest(made, MIXED, [], key, count=0)
  with pytest.raises(ValueError, match='hidden objectives'):
    suggesting.suggest(
      made, MIXED, [], key, policy=suggesting.Policy(pending='token')
    )
  with pytest.raises(ValueError, match='pending'):
    suggesting.Policy(pending='mean')
  with pytest.raises(ValueError, match='temperature'):
    suggesting.Policy(temperature=0.0)
  with pytest.raises(ValueError, match='points'):
    predicting.predict(made, MIXED, [], [])
  with pytest.raises(ValueError, match='temperature'):
    dataclasses.replace(made, temperature=jnp.nan)
