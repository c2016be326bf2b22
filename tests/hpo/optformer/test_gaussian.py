"""Forecasts of a Gaussian process on the bins of OptFormer."""

import numpy as np

from hpo import studies
from hpo.optformer import disguises, gaussian, quantizing


def test_a_gaussian_process_forecasts_a_smooth_function():
  rng = np.random.default_rng(0)
  kinds = np.array([0, 3])
  space = disguises.Disguise(1.0).problem(rng, kinds, kinds, '').space
  codes = space.sample(rng, 25)
  units = space.to_unit(codes)
  values = np.sin(3 * units[:, 0]) + codes[:, 1]
  study = studies.Study(
    studies.Problem(space, 'MINIMIZE'), codes, values, np.zeros(25, np.int8)
  )
  scale = quantizing.ObjectiveRange.of(study.gains)
  found = gaussian.forecast(study.take(slice(20)), codes[20:], scale)
  np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
  assert not found.probabilities[:, :199].any()
  assert not found.probabilities[:, 801:].any()
  np.testing.assert_allclose(found.mean, values[20:], atol=0.1)
  assert (found.log_probs(values[20:]) > np.log(1 / 600) + 1).all()
