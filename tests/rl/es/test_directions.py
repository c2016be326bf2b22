"""Directions: moments, orthogonality, and that only key and index matter."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.es import directions
from tests import marks, refusals

KEY = jax.random.key(3)
D = 12
SPECS = {
  'gaussian': directions.Directions('gaussian'),
  'orthogonal chi': directions.Directions('orthogonal', block=4),
  'orthogonal sqrt_d': directions.Directions('orthogonal', 'sqrt_d', block=4),
  'hadamard': directions.Directions('hadamard', block=4),
}
DRAWS = 16_000
draw_rows = jax.jit(
  directions.rows, static_argnums=0, static_argnames=('count', 'size')
)


@functools.lru_cache
def drawn(name):
  """Rows of many keys: [DRAWS, 4, D]."""
  keys = jax.random.split(KEY, DRAWS)
  rows = lambda key: directions.rows(SPECS[name], key, 4, count=4, size=D)
  return np.asarray(jax.jit(jax.vmap(rows))(keys), np.float64)


def worst_score(samples, expected):
  """Largest |z| of the means over axis 0."""
  error = samples.std(0) / math.sqrt(len(samples))
  return np.max(np.abs(samples.mean(0) - expected) / (error + 1e-12))


@pytest.mark.parametrize('name', SPECS)
def test_rows_have_mean_zero_and_covariance_identity(name):
  rows = drawn(name)[:, 2]
  assert worst_score(rows, 0) < 4.5
  products = (rows[:, :, None] * rows[:, None, :]).reshape(DRAWS, -1)
  # Fixed norms and signs leave entries without variance: rounding is theirs.
  products = products + 1e-6 * np.random.default_rng(0).normal(
    size=products.shape
  )
  expected = np.eye(D).reshape(-1)
  assert worst_score(products, expected) < 4.5
  planted = worst_score(1.05 * products, expected)
  assert planted > 4.5, f'no power: {planted}'


@pytest.mark.parametrize('name', SPECS)
def test_fourth_moment_says_which_smoothing(name):
  """E g_1^4: 3 (Gaussian), 3 d / (d + 2) (sphere), 1 (signs)."""
  expected = {'orthogonal sqrt_d': 3 * D / (D + 2), 'hadamard': 1.0}
  fourth = drawn(name)[:, :, :1].reshape(
    -1
  ) ** 4 + 1e-6 * np.random.default_rng(1).normal(size=4 * DRAWS)
  score = worst_score(fourth[:, None], expected.get(name, 3.0))
  assert score < 4.5, (fourth.mean(), score)
  if name == 'orthogonal sqrt_d':
    assert worst_score(fourth[:, None], 3.0) > 10


@pytest.mark.parametrize('name', list(SPECS)[1:])
def test_rows_of_a_block_are_orthogonal(name):
  for rows in drawn(name)[:8]:
    gram = rows @ rows.T
    off = gram - np.diag(np.diag(gram))
    assert np.max(np.abs(off)) < 1e-4 * D, gram
    if name != 'orthogonal chi':
      np.testing.assert_allclose(np.diag(gram), D, rtol=1e-5)
  independent = drawn('gaussian')[0] @ drawn('gaussian')[0].T
  assert np.max(np.abs(np.triu(independent, 1))) > 0.5


def test_hadamard_cosines_where_the_block_does_not_divide():
  spec = directions.Directions('hadamard', block=8)
  rows = np.asarray(draw_rows(spec, KEY, 0, count=8, size=13))
  cosines = np.abs(np.triu(rows @ rows.T / 13, 1))
  assert 0 < cosines.max() <= 8 / (2 * 13)


@pytest.mark.slow
@pytest.mark.parametrize('name', SPECS)
def test_a_row_depends_on_key_and_index_only(name):
  spec = SPECS[name]
  draw = functools.partial(directions.rows, spec, size=D)
  whole = np.asarray(draw(KEY, 0, count=16))
  for count in (1, 2, 4, 8):
    parts = [draw(KEY, i, count=count) for i in range(0, 16, count)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
  assert len(np.unique(whole.round(5), axis=0)) == 16
  other = np.asarray(draw(jax.random.key(4), 0, count=16))
  assert np.all(np.any(other != whole, axis=1))


def test_small_size_shrinks_the_block():
  spec = directions.Directions('orthogonal', block=32)
  rows = np.asarray(draw_rows(spec, KEY, 0, count=4, size=3))
  assert spec.rows_per_block(3) == 2
  assert abs(rows[0] @ rows[1]) < 1e-5
  assert abs(rows[2] @ rows[3]) < 1e-5
  one = draw_rows(spec, KEY, 0, count=2, size=1)
  assert one.shape == (2, 1)


@pytest.mark.parametrize(
  'name',
  ['gaussian', 'orthogonal chi', *marks.slow('orthogonal sqrt_d', 'hadamard')],
)
def test_weighted_sum_is_the_product_with_all_rows(name):
  spec = SPECS[name]
  weights = jax.random.normal(jax.random.key(5), (11,))
  add = functools.partial(directions.weighted_sum, spec, KEY, size=D)

  @jax.jit
  def run(weights):
    rows = directions.rows(spec, KEY, 0, count=16, size=D)[:11]
    assert directions.keep(spec, KEY, 11, size=D, block=8) is None
    kept = directions.keep(spec, KEY, 11, size=D, block=16)
    totals = [add(weights, block=block) for block in (1, 4, 32)]
    totals.append(add(weights, kept=kept))
    # It is the kept ones that are summed.
    return rows, kept, totals, add(weights, kept=2 * kept)

  rows, kept, totals, double = jax.device_get(run(weights))
  np.testing.assert_array_equal(kept[:11], rows)
  expected = np.asarray(weights, np.float64) @ rows
  for total in totals:
    np.testing.assert_allclose(total, expected, atol=1e-5)
  np.testing.assert_allclose(double, 2 * expected, atol=2e-5)


def test_guided_rows_have_the_published_covariance():
  """Times d: alpha I + (1 - alpha) d / k U U^T, arXiv:1806.10230, Eq. 1."""
  alpha, k, size = 0.3, 2, 5
  vectors = jax.random.normal(jax.random.key(6), (k, size))
  basis = jax.jit(directions.orthonormal_basis)(vectors)
  np.testing.assert_allclose(basis.T @ basis, np.eye(k), atol=1e-6)
  residual = vectors - vectors @ basis @ basis.T
  np.testing.assert_allclose(residual, 0, atol=1e-5)
  spec = directions.Directions(guide=alpha)
  rows = draw_rows(spec, KEY, 0, count=40_000, size=size, basis=basis)
  rows = np.asarray(rows, np.float64)
  products = (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)
  u = np.asarray(basis, np.float64)
  expected = alpha * np.eye(size) + (1 - alpha) * size / k * u @ u.T
  assert worst_score(products, expected.reshape(-1)) < 4.5
  assert worst_score(products, np.eye(size).reshape(-1)) > 20


test_rejects = refusals.all_with(
  'got',
  lambda: directions.Directions('sobol'),
  lambda: directions.Directions('hadamard', 'chi'),
  lambda: directions.Directions('gaussian', 'sqrt_d'),
  lambda: directions.Directions('orthogonal', 'unit'),
  lambda: directions.Directions(block=12),
  lambda: directions.Directions(guide=1.5),
  lambda: directions.rows(
    SPECS['gaussian'], KEY, 0, count=2, size=4, basis=jnp.eye(4)[:, :1]
  ),
  lambda: directions.rows(
    directions.Directions(guide=0.5), KEY, 0, count=2, size=4
  ),
  lambda: directions.rows(SPECS['orthogonal chi'], KEY, 0, count=6, size=D),
  lambda: directions.orthonormal_basis(jnp.ones((3, 2))),
)
