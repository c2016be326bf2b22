"""Statistics of what counts, against numpy."""

import jax.numpy as jnp
import numpy as np

from rl import normalizer
from rl.ppo import masked


def test_statistics_are_those_of_the_steps_that_count():
  rng = np.random.default_rng()
  x = rng.normal(1e3, 1, (20, 4, 3)).astype(np.float32)
  weight = (rng.random((20, 4)) < 0.6).astype(np.float32)
  found = masked.statistics(jnp.asarray(x), jnp.asarray(weight))
  kept = x[weight > 0].astype(np.float64)
  assert found.count == len(kept)
  np.testing.assert_allclose(found.mean, kept.mean(0), rtol=1e-6)
  np.testing.assert_allclose(
    found.m2, ((kept - kept.mean(0)) ** 2).sum(0), rtol=1e-3
  )


def test_nothing_counts():
  found = masked.statistics(jnp.ones((3, 2, 1)), jnp.zeros((3, 2)))
  for leaf in found:
    np.testing.assert_array_equal(leaf, 0)


def test_what_is_constant_has_no_deviation():
  """0.1 is no float: sums of it are not multiples."""
  total = normalizer.empty((2,))
  for steps in (128, 100):
    weight = jnp.ones((steps, 4)).at[0].set(0)
    seen = masked.statistics(jnp.full((steps, 4, 2), 0.1), weight)
    total = normalizer.merge(total, seen)
  np.testing.assert_array_equal(
    normalizer.normalize(total, jnp.full(2, 0.1)), 0
  )
  assert float(normalizer.std(total)[0]) == 1
