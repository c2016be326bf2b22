"""Closed forms against simulations, and against the published-size table."""

import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import theory
from tests import marks, refusals, seeds

SIZES = np.geomspace(0.001, 0.3, 25)


@pytest.mark.parametrize('paired', [True, False])
def test_variance_of_pairs(paired):
  """d = 10, sigma = 0.1, n = 50, v = 1: independent ones add 1.0 to 0.12."""
  slope = jnp.float32(seeds.rng(0).normal(size=10))
  slope *= (0.1225 * 50 / 1.1) ** 0.5 / jnp.linalg.norm(slope)
  settings = {'sigma': 0.1, 'pairs': 50, 'paired': paired}
  found = np.asarray(
    theory.simulate_pairing(seeds.key(1), slope, 1.0, trials=4000, **settings)
  )
  expected = theory.pairing_variance(slope, 1.0, **settings)
  mean = 0.1225 if paired else 1.1225
  assert float(jnp.mean(expected)) == pytest.approx(mean, rel=1e-5)
  # A variance of 4000 nearly normal draws has 2.5 % standard error.
  np.testing.assert_allclose(found.var(0), expected, rtol=0.12)
  error = np.sqrt(np.asarray(expected) / 4000)
  assert (np.abs(found.mean(0) - slope) < 4.5 * error).all()


TABLE = [
  # d, B, gain of ES, bound of mutation.
  (100, 8, 0.0190, 0.0208),
  (100, 128, 0.194, 0.0485),
  (500, 32, 0.0155, 0.0069),
  (500, 128, 0.0566, 0.0097),
]


@pytest.mark.parametrize(
  ('dimension', 'evaluations', 'es', 'bound'),
  [TABLE[0], *marks.slow(*TABLE[1:])],
)
def test_improvements(dimension, evaluations, es, bound):
  """ES as its formula says; no size of mutations passes the bound."""
  assert theory.es_improvement(dimension, evaluations) == pytest.approx(
    es, rel=6e-3
  )
  assert theory.mutation_bound(dimension, evaluations) == pytest.approx(
    bound, rel=6e-3
  )
  settings = {'dimension': dimension, 'evaluations': evaluations}
  found = np.asarray(theory.simulate_es(seeds.key(2), trials=1000, **settings))
  error = found.std() / 1000**0.5
  assert abs(found.mean() - es) < 4 * error + 5e-3 * es
  assert error < 0.05 * es
  gains = np.asarray(
    theory.simulate_mutation(
      seeds.key(3), jnp.float32(SIZES), trials=400, **settings
    )
  )
  best = gains.mean(0).max()
  errors = gains.std(0) / 400**0.5
  assert (gains.mean(0) < bound + 2 * errors).all()
  # The bound is of the right size, and the sizes cover the best one.
  assert bound / 3 < best < bound
  assert 0 < gains.mean(0).argmax() < len(SIZES) - 1


def test_growth_with_evaluations():
  """Sixteen times as many: ES gains eight-fold or more, mutation four-fold."""
  es = theory.es_improvement(1000, 128) / theory.es_improvement(1000, 8)
  assert es > 8
  mutation = theory.mutation_bound(1000, 128) / theory.mutation_bound(1000, 8)
  assert mutation < 4


test_rejects = refusals.all_with(
  'got',
  lambda: theory.es_improvement(0, 2),
  lambda: theory.es_improvement(5, 3),
  lambda: theory.mutation_bound(5, 0),
  lambda: theory.pairing_variance(
    jnp.ones(2), -1.0, sigma=0.1, pairs=1, paired=True
  ),
)
