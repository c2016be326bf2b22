"""What the diagnosis says, against numpy and against many draws."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention.analysis import diagnosis, findings, pair_errors
from tests import marks, seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

D = 8


def take(seed, scale, *, b=2, length=13, **kwargs):
  q, k, v = twin.inputs(seed, b=b, l=length, d=D, scale=scale)
  settings = {'causal': False} | kwargs
  return q, k, v, pair_errors.take_sample(q, k, **settings)


def plus(q, k):
  """|x + y|^2 in float64, [b, h, i, j]."""
  x, y = (a.transpose(0, 2, 1, 3) * D**-0.25 for a in twin.double(q, k))
  return np.square(x[..., :, None, :] + y[..., None, :, :]).sum(-1)


def test_sample_is_spread_and_obeys_masks():
  mask = twin.mask(1, 2, 13)
  q, k, _, sample = take(0, 1.0, causal=True, key_mask=mask, size=5)
  rows = np.asarray(sample.rows)
  np.testing.assert_array_equal(rows, [1, 4, 6, 9, 12])
  np.testing.assert_array_equal(sample.q, q[:, rows])
  np.testing.assert_array_equal(sample.k, k[:, rows])
  expected = np.tri(13, dtype=bool)[np.ix_(rows, rows)]
  expected = expected & np.asarray(mask)[:, None, rows]
  np.testing.assert_array_equal(sample.keep[:, 0], expected)
  asked = np.asarray(twin.mask(2, 2, 13))
  sample = take(0, 1.0, query_mask=jnp.asarray(asked))[3]
  assert sample.rows.size == 13  # Short sequences are taken whole.
  np.testing.assert_array_equal(sample.keep[:, 0].all(-1), asked)
  np.testing.assert_allclose(sample.pairs.plus, plus(q, k), rtol=1e-5)
  with pytest.raises(ValueError, match='size=0'):
    take(0, 1.0, size=0)


def test_quantiles_are_over_kept_pairs():
  values = twin.normal(3, 2, 3, 5, 5)
  keep = twin.mask(4, 2, 1, 5, 5)
  kept = np.asarray(values)[np.broadcast_to(keep, values.shape)]
  for q in (0.0, 0.5, 0.95):
    assert pair_errors.quantile(values, keep, q) == np.quantile(
      kept, q, method='lower'
    )
  assert np.isnan(pair_errors.quantile(values, jnp.zeros_like(keep), 0.5))


@pytest.mark.parametrize(
  'kernel', ['softmax_pos', 'softmax_hyp', 'softmax_trig']
)
def test_measured_errors_are_those_of_the_twin(kernel):
  q, k, _, sample = take(5, 1.0)
  favor = cases.favor(kernel)
  w = cases.projection(favor)
  found = pair_errors.measured_errors(favor, sample, w)
  log, sign = twin.kernel_matrix(*twin.double(q, k, w), kernel=kernel)
  exact = np.einsum('bihd,bjhd->bhij', *twin.double(q, k)) / math.sqrt(D)
  truth = sign * np.exp(log - exact) - 1
  np.testing.assert_allclose(found, truth, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  'kernel',
  [
    'softmax_hyp',
    *marks.slow('softmax_pos', 'softmax_pos_reg', 'softmax_oprf'),
  ],
)
def test_prediction_is_met_on_average_over_draws(kernel):
  """And a prediction that is off by a fifth would not be."""
  square = 1.5
  options = {'oprf_mean_square': square} if kernel == 'softmax_oprf' else {}
  favor = cases.favor(kernel, ortho='iid', **options)
  sample = take(6, 0.5, b=1, length=4)[3]
  draws = 20000
  w = jax.vmap(
    lambda i: favor.draw(seeds.key(0), layer=i, step=0, num_heads=2, head_dim=D)
  )(jnp.arange(draws))
  errors = jax.jit(
    lambda w: jax.lax.map(
      lambda w: pair_errors.measured_errors(favor, sample, w),
      w,
      batch_size=1000,
    )
  )(w)
  found = np.square(np.asarray(errors, float))
  # Tails are heavy where |x + y|^2 is large: look where they are not.
  where = np.asarray(sample.pairs.plus) < 2
  assert where.sum() >= 8
  expected = np.asarray(pair_errors.relative_mse(favor, sample.pairs, size=D))
  noise = found.std(0) / math.sqrt(draws)
  z = ((found.mean(0) - expected) / noise)[where]
  assert np.abs(z).max() < 5
  assert np.abs(((found.mean(0) - 1.2 * expected) / noise)[where]).max() > 9


@pytest.mark.parametrize('causal', [False, *marks.slow(True)])
def test_diagnosis_against_numpy(causal):
  mask = twin.mask(7, 2, 13)
  q, k, v, _ = take(8, 0.6)
  v = v[..., :5]  # Values may be of another width than keys.
  favor = cases.favor('softmax_trig', ortho='iid')
  w = cases.projection(favor)
  found = diagnosis.diagnose(
    q,
    k,
    v,
    favors=[favor],
    projection=w,
    causal=causal,
    key_mask=mask,
    target=0.5,
  )
  keep = np.asarray(mask)[:, None, :, None] & np.asarray(mask)[:, None, None]
  if causal:
    keep = keep & np.tri(13, dtype=bool)
  z2 = plus(q, k)
  keep = np.broadcast_to(keep, z2.shape)
  assert found.pairs == keep.sum()
  np.testing.assert_allclose(found.mean, z2[keep].mean(), rtol=1e-5)
  for percent, value in found.percentiles.items():
    np.testing.assert_allclose(
      value, np.percentile(z2[keep], percent), rtol=1e-4
    )
  (errors,) = found.errors
  # Trigonometric features, m = 8: (e^z - 1)(1 - e^-z) / 2m of z = |x - y|^2.
  minus = plus(q, -k)
  one = (np.exp(minus) - 1) * (1 - np.exp(-minus)) / 2
  typical = np.quantile(one[keep], 0.5, method='lower')
  np.testing.assert_allclose(
    errors.predicted[0], math.sqrt(typical / 8), rtol=1e-3
  )
  assert errors.features_needed == 2 * math.ceil(typical / 0.5**2)
  truth, estimate = (
    twin.value(q, k, v, w, mask, kernel=kernel, causal=causal)
    for kernel in ('exact', 'softmax_trig')
  )
  rows = np.asarray(mask)[..., None, None]
  expected = np.linalg.norm((estimate - truth) * rows) / np.linalg.norm(
    truth * rows
  )
  np.testing.assert_allclose(errors.output, expected, rtol=1e-3)
  bad = attention.bad_denominator_fraction(
    favor, q, k, projection=w, causal=causal, key_mask=mask
  )
  np.testing.assert_allclose(errors.bad_rows, bad)


def diagnose_defaults(scale, **kwargs):
  q, k, v, _ = take(9, scale)
  return diagnosis.diagnose(
    q, k, v, key=seeds.key(0), features=64, draws=2, **kwargs
  )


@pytest.mark.slow
def test_defaults_tell_the_regimes_apart():
  low, high = diagnose_defaults(0.4), diagnose_defaults(3.0)
  by_kernel = {e.favor.kernel: e for e in low.errors}
  assert set(by_kernel) >= {'softmax_hyp', 'softmax_pos', 'softmax_trig'}
  assert all(e.favor.features == 64 for e in low.errors)
  assert low.recommended is not None
  assert low.recommended.features_needed == min(
    e.features_needed for e in low.errors if e.bad_rows == 0
  )
  # Lemma 2: at equal r the hyperbolic kernel is the better one.
  hyp, pos = by_kernel['softmax_hyp'], by_kernel['softmax_pos']
  assert hyp.features_needed < pos.features_needed
  text = str(low)
  assert 'recommended' in text
  assert all(name in text for name in by_kernel)
  assert high.recommended is None
  assert 'no kernel reaches 10%' in str(high)
  assert 'attend exactly' in str(high)
  assert high.mean > 40 * low.mean
  # Regularised kernels are biased: no number of features helps there.
  assert any(math.isinf(e.features_needed) for e in high.errors)
  assert 'never' in str(high)


def test_recommendation_needs_good_denominators():
  def errors(kernel, needed, bad):
    return findings.KernelErrors(
      cases.favor(kernel), (0.1, 0.2), (0.1, 0.2), 0.1, bad, needed
    )

  trig = errors('softmax_trig', 10.0, 0.01)
  pos = errors('softmax_pos', 50.0, 0.0)
  found = findings.Diagnosis(
    pairs=1,
    mean=1.0,
    percentiles={50: 1.0},
    errors=(trig, pos),
    target=0.1,
    most_features=100,
  )
  assert found.recommended is pos
  good = dataclasses.replace(trig, bad_rows=0.0)
  assert dataclasses.replace(found, errors=(good, pos)).recommended is good
  assert dataclasses.replace(found, most_features=5).recommended is None


KEY = seeds.key(0)
FAVOR = cases.favor()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({}, 'either a key .* or a projection'),
    ({'key': KEY, 'projection': cases.projection(FAVOR)}, 'either a key'),
    ({'projection': cases.projection(FAVOR)}, 'favors=None'),
    ({'key': KEY, 'favors': [FAVOR], 'features': 8}, 'features=8'),
    ({'key': KEY, 'favors': [cases.favor('relu')]}, "kernel='relu'"),
    ({'key': KEY, 'favors': [cases.favor('softmax_trig', norm='sqrt_d')]}, 'd'),
    ({'key': KEY, 'target': 0.0}, r'target=0\.0'),
    ({'key': KEY, 'draws': 0}, 'draws=0'),
    ({'key': KEY, 'key_mask': jnp.zeros((2, 13), bool)}, 'no pair'),
  ],
)
def test_contradictions_are_refused(options, message):
  q, k, v, _ = take(10, 1.0)
  with pytest.raises(ValueError, match=message):
    diagnosis.diagnose(q, k, v, **options)
