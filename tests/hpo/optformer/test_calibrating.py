"""Temperatures: those of known forecasts are found again."""

import dataclasses

import numpy as np
import pytest

from hpo.optformer import calibrating, forecasts, quantizing, vocabulary
from tests import seeds
from tests.hpo.optformer import optformer_cases as cases

WORDS = vocabulary.Compact()


def studies(count):
  return [cases.study(seeds.rng(n), count=6) for n in range(count)]


@pytest.fixture(scope='module')
def made(untrained):
  return untrained(256)


def test_cut_forecasts_are_those_of_the_model(made):
  found, seen = calibrating.cut_forecasts(made, studies(4), seeds.rng(0))
  assert found.shape == (4, WORDS.bins)
  np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
  assert ((seen >= 0) & (seen < WORDS.bins)).all()
  short = [study.take(slice(3)) for study in studies(2)]
  with pytest.raises(ValueError, match='more than 3 trials'):
    calibrating.cut_forecasts(made, short, seeds.rng(0))
  # Whatever the temperature was, the fit is the same.
  cold = calibrating.fitted(
    dataclasses.replace(made, temperature=0.3), studies(4)
  )
  warm = calibrating.fitted(made, studies(4))
  assert cold.temperature == pytest.approx(warm.temperature)


def test_a_known_temperature_is_found(made, monkeypatch):
  """Values drawn from forecasts that the model then sharpens by 2."""
  rng = seeds.rng(1)
  logits = rng.normal(size=(300, 20)) * 2
  given = iter(logits)

  def predict(trained, problem, trials, points):
    row = next(given)
    chances = np.exp(2 * row - (2 * row).max())
    return forecasts.Forecasts(
      (chances / chances.sum())[None],
      quantizing.ObjectiveRange(0.0, 1.0, 0.0, 1.0),
    )

  drawn = [rng.choice(20, p=np.exp(row) / np.exp(row).sum()) for row in logits]
  first = cases.study(rng, count=4)
  validation = [
    dataclasses.replace(
      first, values=np.append(first.values[:3], (place + 0.5) / 20)
    )
    for place in drawn
  ]
  monkeypatch.setattr(calibrating.predicting, 'predict', predict)
  found = calibrating.fitted(made, validation)
  assert found.temperature == pytest.approx(2.0, rel=0.15)
