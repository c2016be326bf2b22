"""Views of a study: the same function, whose forecasts are averaged."""

import dataclasses

import numpy as np
import pytest

from hpo import spaces, studies
from hpo.optformer import histories, predicting, views
from tests import seeds

SPACE = spaces.Space(
  (
    spaces.Float('x', -1.0, 3.0),
    spaces.Categorical('c', ('a', 'b', 'd')),
    spaces.Discrete('fixed', (2.0,)),
    spaces.Discrete('n', (1, 2, 8, 9)),
  )
)
PROBLEM = studies.Problem(SPACE, 'MAXIMIZE', algorithm='mine')
TRIALS = 4


@pytest.fixture(scope='module')
def made(untrained):
  return untrained(96, 60, temperature=1.3)


@pytest.fixture(scope='module')
def read(made):
  return histories.reading(made, study(), SPACE.free)


def study(space=SPACE, codes=None):
  rng = seeds.rng(0)
  drawn = SPACE.sample(rng, TRIALS)
  # In the middles of bins, which have middles for reflections.
  drawn[:, 0] = (rng.integers(0, 1000, TRIALS) + 0.5) / 250 - 1
  values = rng.normal(size=TRIALS)
  problem = dataclasses.replace(PROBLEM, space=space)
  codes = drawn if codes is None else codes
  return studies.Study(problem, codes, values, np.zeros(TRIALS, np.int8))


def test_the_first_view_is_the_reading_itself(made, read):
  first, *others = views.drawn(made, PROBLEM, read, 100, seeds.rng(1))
  np.testing.assert_array_equal(first.tokens(read.parameters), read.parameters)
  np.testing.assert_array_equal(first.metadata, read.metadata)
  assert len({view.columns for view in others}) == 6
  reflected = [v.tables[v.columns.index(0)][0] == 999 for v in others]
  assert 0 < sum(reflected) < 99


def test_a_view_is_the_same_study(made, read, monkeypatch):
  """Its tokens name the same values, or the mirrored ones."""
  texts = []
  monkeypatch.setattr(
    histories, 'metadata', lambda *a: texts.append(a) or read.metadata
  )
  seen = views.drawn(made, PROBLEM, read, 12, seeds.rng(1))[1:]
  for view, (_, problem, order) in zip(seen, texts, strict=True):
    shown = view.tokens(read.parameters)
    for column, (i, place) in enumerate(zip(view.columns, order, strict=True)):
      assert read.order[i] == place
      before, after = read.parameters[:, i], shown[:, column]
      old, new = SPACE.parameters[place], problem.space.parameters[place]
      if old.name == 'c':
        assert [new.values[t] for t in after] == [old.values[t] for t in before]
        continue
      assert new == old
      mirrored = read.legal[i] - 1 - before
      assert (after == before).all() or (after == mirrored).all()


def test_forecasts_are_means_over_studies_that_are_rewritten_by_hand(
  made, monkeypatch
):
  """The original, and x reflected with n before it and c in another order."""
  x, c, fixed, n = SPACE.parameters
  turned = dataclasses.replace(c, values=('d', 'a', 'b'))
  space = spaces.Space((n, x, turned, fixed))
  codes = study().codes
  other = np.stack(
    [codes[:, 3], 2 - codes[:, 0], (codes[:, 1] + 1) % 3, codes[:, 2]], axis=1
  )
  two = study(space, other)
  scale = histories.reading(made, two, space.free).scale
  expected = [
    predicting.predict(
      made,
      one.problem,
      one.take(slice(3)).trials,
      [trial.parameters for trial in one.trials],
      scale=scale,
    ).probabilities
    for one in (study(), two)
  ]
  assert np.abs(expected[0] - expected[1]).max() > 1e-6

  def chosen(made, problem, read, count, rng):
    del rng
    assert count == 2
    same = [np.arange(size) for size in read.legal[:3]]
    reading = histories.reading(made, two, space.free)
    return (
      views.View((0, 1, 2), tuple(same), read.metadata),
      views.View(
        (2, 0, 1),
        (same[2], same[0][::-1], np.array([1, 2, 0])),
        reading.metadata,
      ),
    )

  monkeypatch.setattr(views, 'drawn', chosen)
  found = predicting.predict(
    made,
    PROBLEM,
    study().take(slice(3)).trials,
    [trial.parameters for trial in study().trials],
    scale=scale,
    views=2,
  )
  np.testing.assert_allclose(
    found.probabilities, np.mean(expected, axis=0), rtol=1e-4, atol=1e-9
  )


def test_there_is_a_view(made):
  with pytest.raises(ValueError, match='views'):
    predicting.predict(made, PROBLEM, [], [{}], views=0)
