"""Forecasts: closed forms, right and overconfident forecasters, temperature."""

import numpy as np
import pytest

from hpo.optformer import forecasts, quantizing
from tests import seeds

SCALE = quantizing.ObjectiveRange(-1.0, 3.0, 0.2, 0.6)
BINS = 200


def normals(centers, width, sign=1):
  """Normal densities over the bins of a scale, as histograms."""
  z = quantizing.centers(np.arange(BINS), BINS)
  values = SCALE.from_scaled(z)
  logits = -(((values - np.asarray(centers)[:, None]) / width) ** 2) / 2
  p = np.exp(logits - logits.max(axis=1, keepdims=True))
  return forecasts.Forecasts(p / p.sum(axis=1, keepdims=True), SCALE, sign)


def test_moments_and_quantiles():
  for sign in (1, -1):
    found = normals([0.5, 1.5], 0.3, sign)
    np.testing.assert_allclose(found.mean, [0.5 * sign, 1.5 * sign], atol=1e-6)
    np.testing.assert_allclose(found.stddev, 0.3, rtol=1e-2)
    for level, z in ((0.5, 0.0), (0.9, 1.2816), (0.025, -1.96)):
      expected = np.array([0.5, 1.5]) * sign + 0.3 * z
      np.testing.assert_allclose(found.quantile(level), expected, atol=2e-3)


def test_densities():
  found = normals([0.5], 0.3)
  values = np.array([0.71])
  expected = -(0.7**2) / 2 - np.log(0.3 * np.sqrt(2 * np.pi))
  np.testing.assert_allclose(found.log_densities(values), expected, atol=0.05)
  normalized = found.log_densities(values, normalized=True)
  width = SCALE.bin_width(BINS) * BINS
  np.testing.assert_allclose(
    normalized, found.log_densities(values) + np.log(width)
  )
  certain = forecasts.Forecasts(np.eye(BINS)[[40]], SCALE)
  inside = SCALE.from_scaled(np.array([40.5 / BINS]))
  found = certain.log_densities(inside, normalized=True)
  np.testing.assert_allclose(found, np.log(BINS))


def test_crps_and_pit_are_integrals():
  rng = seeds.rng(0)
  p = rng.dirichlet(np.ones(BINS) * 0.3, 4)
  found = forecasts.Forecasts(p, SCALE)
  values = SCALE.from_scaled(rng.uniform(size=4))
  fine = 200
  z = (np.arange(BINS * fine) + 0.5) / (BINS * fine)
  steps = (z * BINS).astype(int)
  cumulative = np.cumsum(p, axis=1)[:, steps] - p[:, steps] * (
    1 - (z * BINS - steps)
  )
  above = z >= SCALE.to_scaled(values)[:, None]
  width = SCALE.bin_width(BINS) * BINS
  expected = ((cumulative - above) ** 2).mean(axis=1) * width
  np.testing.assert_allclose(found.crps(values), expected, rtol=1e-3)
  expected = (np.repeat(p, fine, axis=1) / fine * ~above).sum(axis=1)
  np.testing.assert_allclose(found.pit(values), expected, atol=1e-3)


@pytest.mark.parametrize('sign', [1, -1])
def test_values_beyond_all_bins(sign):
  """The bins reach from -7/3 to 13/3."""
  p = seeds.rng(2).dirichlet(np.ones(BINS), 2)
  found = forecasts.Forecasts(p, SCALE, sign)
  low, high = (float(x) for x in SCALE.from_scaled(np.array([0.0, 1.0])))
  ends, far = np.array([low, high]), np.array([low - 2, high + 5])
  np.testing.assert_array_equal(found.log_densities(sign * far), -np.inf)
  assert np.isfinite(found.log_densities(sign * ends)).all()
  np.testing.assert_allclose(found.pit(sign * far), [0, 1], atol=1e-12)
  # Beyond the bins the integrand of CRPS is 1.
  grown = found.crps(sign * far) - found.crps(sign * ends)
  np.testing.assert_allclose(grown, [2, 5])
  near = found.top(sign * ends)
  np.testing.assert_array_equal(found.top(sign * far), near)


def test_what_is_no_value_or_level_is_refused():
  found = normals([0.5], 0.3)
  for values in (np.array([np.nan]), np.zeros(2)):
    with pytest.raises(ValueError, match='1 forecasts need'):
      found.crps(values)
  with pytest.raises(ValueError, match='level'):
    found.quantile(1.5)


def test_scores_do_not_depend_on_the_goal():
  found, flipped = normals([0.5, 1.5], 0.3), normals([0.5, 1.5], 0.3, -1)
  values = np.array([0.7, 1.0])
  for name in ('crps', 'pit', 'log_probs'):
    a, b = getattr(found, name)(values), getattr(flipped, name)(-values)
    np.testing.assert_allclose(a, b)


def observed(sharpness, seed=1, count=4000):
  """Metrics of forecasts p^sharpness of values that follow p."""
  rng = seeds.rng(seed)
  truth = normals(rng.uniform(0, 2, count), 0.25)
  draws = (
    np.cumsum(truth.probabilities, 1) < rng.uniform(size=(count, 1))
  ).sum(1)
  values = SCALE.from_scaled((draws + rng.uniform(size=count)) / BINS)
  p = truth.probabilities**sharpness
  made = forecasts.Forecasts(p / p.sum(1, keepdims=True), SCALE)
  pit = made.pit(values)
  return {
    'ece': forecasts.expected_calibration_error(*made.top(values)),
    'nll': -made.log_probs(values).mean(),
    'crps': made.crps(values).mean(),
    'ks': forecasts.kolmogorov_smirnov(pit),
    'covered': [forecasts.coverage(pit, level) for level in (0.5, 0.9)],
    'logits': np.log(np.maximum(p, 1e-300)),
    'draws': draws,
  }


def test_right_forecasts_are_calibrated_and_sharper_ones_are_not():
  right, sharp = observed(1), observed(2)
  assert right['ece'] < 0.02
  assert right['ks'] < 1.63 / np.sqrt(4000)  # Of 1 %.
  np.testing.assert_allclose(right['covered'], (0.5, 0.9), atol=0.03)
  for name in ('ece', 'nll', 'crps', 'ks'):
    assert sharp[name] > right[name], name
  assert sharp['covered'][1] < 0.8


@pytest.mark.parametrize('sharpness', [0.5, 1, 2])
def test_the_temperature_undoes_sharpening(sharpness):
  found = observed(sharpness, count=1000)
  fitted = forecasts.fit_temperature(found['logits'], found['draws'])
  np.testing.assert_allclose(fitted, sharpness, rtol=0.1)
