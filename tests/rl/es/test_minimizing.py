"""Functions without environments: minima, histories and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rl import es
from rl.es import estimators
from tests import marks


def bowl(x):
  return jnp.sum((x - jnp.arange(3.0)) ** 2) + 7.0


@pytest.mark.parametrize(
  'method',
  [
    es.Strategy(es.ESConfig(8, 0.05, normalize=False), optax.adam(0.1)),
    es.CMAES(0.5),
    *marks.slow(
      es.Strategy(
        es.ESConfig(
          16, 0.05, estimators.Forward(), normalize=False, center_evaluations=1
        ),
        optax.adam(0.1),
      )
    ),
  ],
)
def test_finds_the_minimum(method):
  found = es.minimize(bowl, jnp.ones(3), method=method, steps=120)
  np.testing.assert_allclose(found.x, [0, 1, 2], atol=0.1)
  assert found.value == pytest.approx(float(bowl(found.x)), abs=1e-5)
  best, value = found.history['best'], found.history['value']
  assert best.shape == value.shape == (120,)
  assert (np.diff(best) <= 0).all()
  assert best[-1] == np.float32(found.value)
  assert (best <= value).all()
  assert value[-1] < 7.1 < value[0]


def test_the_best_of_all_points_is_returned():
  """Not the last centre, nor the best centre."""
  seen = []

  def f(points):
    seen.append(points)
    return np.abs(points - 0.05).sum(1)

  found = es.minimize(f, jnp.zeros(2), steps=3, batched=True)
  points = np.concatenate(seen)
  assert points.shape == (3 * 33, 2)
  best = np.abs(points - 0.05).sum(1)
  np.testing.assert_array_equal(found.x, points[best.argmin()])
  assert found.value == pytest.approx(best.min())


def test_trees_and_broken_values():
  def f(x):
    away = x['a'].sum() - x['b']
    return jnp.where(away < -1, jnp.nan, away**2)

  start = {'a': jnp.ones((2, 2)), 'b': jnp.float32(2.0)}
  found = es.minimize(f, start, steps=60)
  assert jax.tree.map(jnp.shape, found.x) == jax.tree.map(jnp.shape, start)
  assert found.value < 1e-3
  same = es.minimize(f, start, steps=60)
  assert same.value == found.value
  assert es.minimize(f, start, steps=60, seed=1).value != found.value


def test_rejects():
  with pytest.raises(ValueError, match='scalar'):
    es.minimize(lambda x: x, jnp.ones(3))
  with pytest.raises(ValueError, match='one number per point'):
    es.minimize(lambda x: x, jnp.ones(3), batched=True)
  with pytest.raises(ValueError, match='steps'):
    es.minimize(bowl, jnp.ones(3), steps=0)
  with pytest.raises(ValueError, match='x0 must have numbers'):
    es.minimize(bowl, jnp.zeros(0))
  with pytest.raises(ValueError, match='finite'):
    es.minimize(lambda x: jnp.nan * x[0], jnp.ones(3), steps=2)
