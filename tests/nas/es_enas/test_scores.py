"""Scores of returns and costs, against worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import scores
from tests import refusals

GENERATION = 0


def product(returns, cost, **options):
  costs = {'multiplications': jnp.array([cost])}
  score = scores.Product(**options)
  return float(score(jnp.array([float(returns)]), costs, GENERATION)[0])


@pytest.mark.parametrize(
  ('returns', 'cost', 'expected'),
  [(500, 32, 1500), (500, 64, 1500), (500, 128, 750), (-1000, 640, 0)],
)
def test_worked_numbers(returns, cost, expected):
  assert product(returns, cost) == pytest.approx(expected)


def test_a_larger_cost_is_never_better():
  """Nor a smaller return, on both sides of r + shift = 0."""
  returns = np.linspace(-2000, 500, 26)
  costs = np.array([0, 1, 32, 64, 65, 128, 1000])
  score = scores.Product(w_under=-0.1, w_over=-0.7)
  grid = np.array(
    [
      score(
        jnp.asarray(returns, jnp.float32), {'multiplications': c}, GENERATION
      )
      for c in np.repeat(costs[:, None], 26, axis=1)
    ]
  )
  assert np.isfinite(grid).all()
  assert (np.diff(grid, axis=1) > 0).all()
  off_zero = returns != -1000
  assert (np.diff(grid, axis=0)[:, off_zero] < 0).all()


def test_settings_of_the_product():
  found = product(9.0, 8, target=4, shift=1.0, w_under=-1.0, w_over=-2.0)
  assert found == pytest.approx(10 / 4)
  found = product(9.0, 2, target=4, shift=1.0, w_under=-1.0, w_over=-2.0)
  assert found == pytest.approx(10 * 2)
  assert np.isnan(product(np.nan, 128))


def test_constrained():
  score = scores.Constrained(-300.0, cost='bits', target=100)
  returns = jnp.array([5.0, -7.0, 5.0, 900.0, jnp.nan])
  costs = {'bits': jnp.array([99, 100, 101, 300, 300])}
  found = score(returns, costs, GENERATION)
  np.testing.assert_allclose(found, [5, -7, -300.01, -302, np.nan], rtol=1e-6)


def test_mix_with_sparsity():
  score = scores.Mixed(generations=10, unit=50.0)
  costs = {'sparsity': jnp.array([0.2, 1.0])}
  returns = jnp.array([100.0, 0.0])
  mix = jax.jit(lambda g: score(returns, costs, g))
  np.testing.assert_allclose(mix(0), [2, 0], rtol=1e-6)
  np.testing.assert_allclose(mix(5), [0.75 * 2 + 0.25 * 0.2, 0.25], rtol=1e-6)
  for generation in (10, 99):
    np.testing.assert_allclose(mix(generation), [1.1, 0.5], rtol=1e-6)


test_rejects = refusals.table(
  (lambda: scores.Product(target=0), 'target must be positive'),
  (lambda: scores.Product(w_over=0.5), 'w_over must not be positive'),
  (lambda: scores.Constrained(0.0, target=-1), 'target must be positive'),
  (lambda: scores.Mixed(generations=0), 'generations must be positive'),
  (
    lambda: scores.Product('bits')(jnp.ones(1), {'edges': jnp.ones(1)}, 0),
    r"must have 'bits', got \['edges'\]",
  ),
)
