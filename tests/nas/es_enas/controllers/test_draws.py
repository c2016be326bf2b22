"""Draws by the distribution function, against NumPy."""

import jax.numpy as jnp
import numpy as np

from nas.es_enas.controllers import draws
from tests import seeds


def test_indices_are_those_of_the_distribution_function():
  rng = seeds.rng(0)
  weights = rng.random((40, 6)) * (rng.random((40, 6)) < 0.7)
  weights[:, 2] += 0.1
  uniform = rng.random(40)
  found = draws.inverted(jnp.asarray(uniform), jnp.asarray(weights))
  upper = np.cumsum(weights, 1)
  expected = [
    np.searchsorted(row, u * row[-1], side='right')
    for row, u in zip(upper, uniform, strict=True)
  ]
  np.testing.assert_array_equal(found, expected)


def test_an_index_of_weight_zero_is_never_drawn():
  weights = jnp.array([0.0, 0.3, 0.0, 0.0, 0.6, 0.0])
  edge = np.nextafter(np.float32(1), np.float32(0))
  # The values that uniform numbers of 23 bits have, and those next to the sums.
  uniform = np.concatenate(
    [np.arange(0, 1, 1 / 512), [1 - 2**-23, edge, 1 / 3]]
  ).astype(np.float32)
  found = draws.inverted(jnp.asarray(uniform), weights)
  assert set(np.unique(found)) == {1, 4}


def test_rounded_sums_draw_no_weight_of_zero():
  rng = seeds.rng(1)
  weights = np.float32(rng.random((300, 300)) * (rng.random((300, 300)) < 0.9))
  # Uniform numbers at all the sums, as they are rounded.
  upper = jnp.cumsum(jnp.asarray(weights), -1)
  uniform = (upper / upper[:, -1:])[:, rng.permutation(300)[:100]]
  uniform = jnp.minimum(uniform, 1 - 2**-23)
  found = draws.inverted(uniform, jnp.asarray(weights)[:, None])
  assert np.take_along_axis(weights, np.asarray(found), 1).min() > 0
